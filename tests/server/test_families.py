"""Stable Diffusion 3 and FLUX.1 as modes beside SDXL: by the server's routes, by the command line and in Python."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import openai
import pytest

from imagegen_core import Settings, generate, load_worker
from imagegen_core.cli import main
from imagegen_core.server import create_app
from tests.server.conftest import LIMIT, listening
from tests.waiting import until

FAMILIES = ("sdxl", "sd3", "flux")
YAML = """\
model_root: /
default_mode: sdxl
modes:
  sdxl: {{model: "{sdxl}", default_size: 64x64}}
  sd3: {{model: "{sd3}", default_size: 64x64, default_guidance: 4.0}}
  flux: {{model: "{flux}", default_size: 64x64, default_guidance: 3.5}}
"""


@pytest.fixture(scope="module")
def folders(sdxl_checkpoint: Path, sd3_checkpoint: Path, flux_checkpoint: Path) -> dict[str, Path]:
    return dict(zip(FAMILIES, (sdxl_checkpoint, sd3_checkpoint, flux_checkpoint), strict=True))


@pytest.fixture(scope="module")
def url(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("modes") / "modes.yaml"
    file.write_text(YAML.format(**folders))
    settings = Settings.load(environ={}, modes_file=file, device="cpu", dtype="fp32", recipe=False)
    with listening(create_app(settings)) as address:
        until(lambda: httpx.get(f"{address}/ready").status_code == 200)
        yield address


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, bytes]:
    """Each family's picture, drawn by a worker without a server."""
    pictures = {}
    for family, folder in folders.items():
        worker = load_worker(settings=Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False))
        guidance = {"sdxl": 1.0, "sd3": 4.0, "flux": 3.5}[family]
        picture = generate("a star", worker=worker, seed=7, size="64x64", guidance_scale=guidance)
        pictures[family] = picture.png
    return pictures


@pytest.mark.parametrize("family", FAMILIES)
def test_the_server_draws_each_family(url: str, expected: dict[str, bytes], family: str) -> None:
    body = {"prompt": "a star", "seed": 7, "mode": family}
    assert httpx.post(f"{url}/generate", json=body, timeout=LIMIT).content == expected[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_openais_route_draws_each_family(url: str, expected: dict[str, bytes], family: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client:
        response = client.images.generate(prompt="a star", model=family, extra_body={"seed": 7})
    assert response.data
    assert base64.b64decode(response.data[0].b64_json or "") == expected[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_command_line_draws_each_family(
    folders: dict[str, Path], expected: dict[str, bytes], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {"MODEL": str(folders[family]), "CUDA_DEVICE": "cpu", "CUDA_DTYPE": "fp32", "IMAGEGEN_RECIPE": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    guidance = {"sdxl": "1.0", "sd3": "4.0", "flux": "3.5"}[family]
    arguments = ["generate", "a star", "--seed", "7", "--size", "64x64", "--guidance", guidance, "-o", "star.png"]
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert not exit_info.value.code
    assert Path("star.png").read_bytes() == expected[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_picture_replays(folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL": str(folders[family]), "CUDA_DEVICE": "cpu", "CUDA_DTYPE": "fp32"}.items():
        monkeypatch.setenv(name, value)
    for arguments in (
        ["generate", "a star", "--seed", "7", "--size", "64x64", "--guidance", "3", "-o", "star.png"],
        ["replay", "star.png", "-o", "again.png"],
    ):
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert not exit_info.value.code
    assert Path("again.png").read_bytes() == Path("star.png").read_bytes()
