"""Parameters of plugins: their values, and their checks in requests."""

from __future__ import annotations

import json
import pickle
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from imagegen_core import Backend, GenerateRequest, InvalidRequestError, Parameter, Recipe, ResolvedRequest
from imagegen_core.modes import Mode
from imagegen_core.parameter import RESERVED
from imagegen_core.resolution.parameters import complete_parameters, parse_parameters
from imagegen_core.server.a1111 import Img2ImgBody, Txt2ImgBody
from imagegen_core.server.openai import EditBody, ImagesBody, VariationBody
from imagegen_core.server.schemas import GenerateBody
from imagegen_core.settings import ModeSettings, Settings

TEXT = Parameter("watermark", str, "", "Text in a corner.")
STRENGTH = Parameter("strength", Annotated[float, Field(ge=0, le=1)], 0.5, "How strong.")
CORNER = Parameter("corner", Literal["top", "bottom"], "top", "Where.")
WORDS = Parameter("words", list[str], [], "Several.")
ONLY_SDXL = Parameter("refine", bool, False, "For one backend.", backends=("sdxl",))
DECLARED = {each.name: each for each in (TEXT, STRENGTH, CORNER, WORDS, ONLY_SDXL)}
SDXL, OTHER = Backend("sdxl", "", "a:B", "64x64"), Backend("other", "", "a:B", "64x64", without=("watermark",))


def _request(**parameters: Any) -> GenerateRequest:
    return GenerateRequest(prompt="a").with_parameters(parameters)


@settings(max_examples=30)
@given(st.text(), st.floats(0, 1), st.sampled_from(["top", "bottom"]), st.lists(st.text()), st.booleans())
def test_values_survive_a_recipe(text: str, strength: float, corner: str, words: list[str], refine: bool) -> None:
    try:
        text.encode(), "".join(words).encode()
    except UnicodeEncodeError:
        return
    asked = _request(watermark=text, strength=strength, corner=corner, words=words, refine=refine)
    completed = complete_parameters(asked, DECLARED, SDXL)
    recipe = Recipe.of(ResolvedRequest.of(completed, "64x64"), scheduler="LCM", **dict.fromkeys(
        ("checkpoint", "checkpoint_hash", "backend", "dtype", "device"), ""))  # fmt: skip
    again = complete_parameters(_request(**json.loads(json.dumps(recipe.parameters or {}))), DECLARED, SDXL)
    assert dict(again.parameters) == dict(completed.parameters)
    assert pickle.loads(pickle.dumps(completed)).parameters == completed.parameters


def test_defaults_are_filled_in_and_stay_out_of_the_recipe() -> None:
    completed = complete_parameters(_request(strength=0.5, corner="bottom"), DECLARED, SDXL)
    assert completed.parameters["watermark"] == ""
    assert completed.parameters.given == {"corner": "bottom"}
    assert ResolvedRequest.of(completed, "64x64").parameters.given == {"corner": "bottom"}


@pytest.mark.parametrize(
    ("parameters", "backend", "words"),
    [
        (
            {"watermrk": "x"},
            None,
            "Unknown field 'watermrk', which no installed plugin declares: did you mean watermark?",
        ),
        ({"guidance": 2}, None, "did you mean guidance_scale?"),
        ({"zzz": 2}, None, "leave it out, or install the plugin that declares it"),
        ({"strength": 2}, None, "Invalid strength 2: input should be less than or equal to 1"),
        ({"strength": float("nan")}, None, "Invalid strength nan"),
        ({"corner": "left"}, None, "Invalid corner 'left': input should be 'top' or 'bottom'"),
        ({"watermark": 7}, None, "Invalid watermark 7: input should be a valid string"),
        ({"refine": True}, OTHER, "Invalid refine True for the backend 'other': it does not support it; leave it out"),
        ({"watermark": "x"}, OTHER, "Invalid watermark 'x' for the backend 'other'"),
    ],
)
def test_a_wrong_parameter_is_refused(parameters: dict[str, Any], backend: Backend | None, words: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        complete_parameters(_request(**parameters), DECLARED, backend)
    assert words in str(caught.value)
    assert caught.value.field == next(iter(parameters))


def test_a_backend_without_a_parameter_does_not_see_it() -> None:
    completed = complete_parameters(_request(refine=False), DECLARED, OTHER)
    assert set(completed.parameters) == {"strength", "corner", "words"}


def test_a_worker_refuses_a_field_that_its_backend_lacks() -> None:
    with pytest.raises(InvalidRequestError, match="Invalid watermark 'x' for the backend 'other'"):
        OTHER.resolve(_request(watermark="x"))
    assert OTHER.resolve(_request(strength=0.1)).parameters["strength"] == 0.1


def test_a_mode_has_values_for_requests_without_them() -> None:
    mode = Mode("fast", Settings(), ModeSettings(parameters={"corner": "bottom", "strength": 0.1}))
    completed = complete_parameters(_request(strength=0.2), DECLARED, SDXL, mode)
    assert (completed.parameters["corner"], completed.parameters["strength"]) == ("bottom", 0.2)


def test_texts_of_the_command_line_become_values() -> None:
    texts = ["watermark=a=b", "strength=1", 'words=["a", "b"]', "refine=true", "corner=top"]
    assert parse_parameters(texts, DECLARED) == {
        "watermark": "a=b", "strength": 1.0, "words": ["a", "b"], "refine": True, "corner": "top"
    }  # fmt: skip
    assert parse_parameters(["watermark=7"], DECLARED) == {"watermark": "7"}
    with pytest.raises(InvalidRequestError, match="Invalid --set 'watermark': expected NAME=VALUE"):
        parse_parameters(["watermark"], DECLARED)


def test_the_fields_of_all_bodies_are_reserved() -> None:
    fields = {
        *GenerateBody.model_fields,
        *ImagesBody.model_fields,
        *EditBody.model_fields,
        *VariationBody.model_fields,
        *Txt2ImgBody.model_fields,
        *Img2ImgBody.model_fields,
    }
    assert fields <= RESERVED


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (Parameter("Water mark", str, "", ""), "name is 'Water mark', where an identifier in lower case belongs"),
        (Parameter("seed", int, 1, ""), "name is 'seed', which is a field of its own in requests"),
        (Parameter("mine", int, "x", ""), "type and default do not fit together"),
        (Parameter("mine", object(), 1, ""), "type and default do not fit together"),
        (Parameter("mine", float, float("inf"), ""), "type and default do not fit together"),
        (Parameter("mine", bytes, b"", ""), "or into JSON"),
    ],
)
def test_a_faulty_parameter_is_described(parameter: Parameter, words: str) -> None:
    assert words in str(parameter.fault())
