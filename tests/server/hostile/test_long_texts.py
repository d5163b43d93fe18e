"""Long texts in every text field."""

from __future__ import annotations

import pytest

from imagegen_core.server.a1111 import Txt2ImgBody
from imagegen_core.server.a1111.pictures import ExtraBody
from imagegen_core.server.openai import EditBody, ImagesBody
from imagegen_core.server.schemas import GenerateBody
from tests.server.hostile.conftest import PROMPTLY, Attacked

LENGTH = 200_000  # bytes
TEXTS = ("a ", "1, ")
FIELDS = [
    *(("/generate", field) for field in ("prompt", *GenerateBody.model_fields)),
    *(("/v1/jobs", field) for field in ("scheduler", "schedule", "mode")),
    *(("/v1/images/edits", field) for field in EditBody.model_fields),
    *(("/v1/images/generations", field) for field in ImagesBody.model_fields),
    *(("/sdapi/v1/txt2img", field) for field in (*Txt2ImgBody.model_fields, "script_name", "enable_hr", "infotext")),
    *(("/sdapi/v1/options", field) for field in ("sd_model_checkpoint", "sd_vae", "samples_format", "unknown")),
    *(("/sdapi/v1/extra-single-image", field) for field in ExtraBody.model_fields),
    *(("/api/modes/switch", field) for field in ("mode",)),
]
ROUTES = sorted({route for route, _ in FIELDS})


@pytest.mark.parametrize("route", ROUTES)
def test_a_long_text_gives_a_short_response(attacked: Attacked, route: str) -> None:
    small = {"prompt": "a star", "size": "64x64", "width": 64, "height": 64, "image": "iVBORw0KGgo="}
    with attacked.watch() as health:
        for field in [field for path, field in FIELDS if path == route]:
            for unit in TEXTS:
                text = unit * (LENGTH // len(unit.encode()))
                response = attacked.http.post(route, json={**small, field: text})
                case = f"{field} of {unit!r}"
                assert response.status_code < 500, case
                assert response.status_code < 400 or len(response.content) < 2000, (case, len(response.content))
                assert health.worst < PROMPTLY, case
