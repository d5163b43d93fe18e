"""Styles: LoRAs in every naming apply with their strengths and leave no trace."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from imagegen_core import (
    STYLE_REGISTRY,
    GenerateRequest,
    InvalidRequestError,
    Job,
    ModelNotFoundError,
    Picture,
    Settings,
    StyleDef,
    StyleLoraRequest,
)
from imagegen_core.cli import main
from imagegen_core.styles import LoraUse
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.loras import as_diffusers, as_kohya, as_peft, random_lora, save

FAMILIES = {
    "sdxl": (DiffusersSDXLCudaWorker, diffusers.StableDiffusionXLPipeline),
    "sd15": (DiffusersCudaWorker, diffusers.StableDiffusionPipeline),
}
NAMINGS = {"diffusers": as_diffusers, "kohya": as_kohya, "peft": as_peft}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint, a LoRA for it, and a folder with the LoRA's files."""
    worker_class, pipeline_class = FAMILIES[request.param]
    checkpoint = request.getfixturevalue(f"{request.param}_checkpoint")
    root = tmp_path_factory.mktemp("loras")
    load = lambda: pipeline_class.from_pretrained(checkpoint, local_files_only=True)  # noqa: E731
    lora = random_lora(load())
    for naming, write in NAMINGS.items():
        save(write(lora), root / f"{naming}.safetensors")
    save(as_kohya(random_lora(load(), seed=1)), root / "more/other.safetensors")
    return {
        "name": request.param,
        "checkpoint": checkpoint,
        "class": worker_class,
        "load": load,
        "lora": lora,
        "root": root,
    }


@pytest.fixture(scope="module")
def worker(family: dict[str, Any]) -> Any:
    return _worker(family, lora_root=family["root"])


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    yield
    STYLE_REGISTRY.clear()


def _worker(family: dict[str, Any], **settings: Any) -> Any:
    return family["class"](
        settings=Settings(model=str(family["checkpoint"]), device="cpu", dtype="fp32", recipe=False, **settings)
    )


def _draw(worker: Any, style: str | None = None, level: int = 3, **fields: Any) -> Picture:
    style_lora = StyleLoraRequest(style=style, level=level)
    request = GenerateRequest(**{"prompt": "a lake", "seed": 1, "style_lora": style_lora, **fields})
    return Picture(*worker.run_job_with_latents(Job(req=request)))


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize(("level", "weight"), [(1, 0.4), (3, 1.0)])
def test_a_styled_picture_equals_the_plain_pipelines(
    family: dict[str, Any], worker: Any, naming: str, level: int, weight: float
) -> None:
    plain = family["load"]()
    plain.scheduler = diffusers.LCMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    parts = ("unet.",) if naming == "peft" else ("unet.", "text_encoder")
    lora = {name: tensor for name, tensor in as_diffusers(family["lora"]).items() if name.startswith(parts)}
    plain.load_lora_weights(lora, adapter_name="style")
    plain.set_adapters(["style"], [weight])
    expected = plain(
        "a lake",
        num_inference_steps=4,
        guidance_scale=1.0,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(1),
    ).images[0]

    drawn = _draw(worker, naming, level).image

    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1
    assert np.abs(np.asarray(drawn, int) - np.asarray(_draw(worker).image, int)).max() > 1


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute")  # from the plain pipeline
def test_a_modes_loras_with_a_style_equal_the_plain_pipelines(family: dict[str, Any], tmp_path: Path) -> None:
    plain = family["load"]()
    plain.scheduler = diffusers.LCMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    loras, weights = [random_lora(family["load"](), seed=seed) for seed in range(3)], (0.8, 1.2, 0.4)
    for number, lora in enumerate(loras):
        plain.load_lora_weights(as_diffusers(lora), adapter_name=f"l{number}")
        save(as_kohya(lora), tmp_path / f"l{number}.safetensors")
    plain.set_adapters(["l0", "l1", "l2"], list(weights))
    expected = plain(
        "a lake",
        num_inference_steps=4,
        guidance_scale=1.0,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(1),
    ).images[0]

    worker = _worker(family, lora_root=tmp_path)
    used = [LoraUse(tmp_path / f"l{number}.safetensors", weights[number], "same") for number in range(2)]
    request = GenerateRequest(prompt="a lake", seed=1, style_lora=StyleLoraRequest(style="l2", level=1))
    before = _draw(worker)
    drawn = Picture(*worker.run_job_with_latents(Job(req=request.with_loras(used)))).image

    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).max() <= 1
    assert _draw(worker) == before
    fewer = Picture(*worker.run_job_with_latents(Job(req=request.with_loras(used[:1])))).image
    assert np.abs(np.asarray(drawn, int) - np.asarray(fewer, int)).max() > 1


def test_a_failing_lora_leaves_no_other_lora_active(family: dict[str, Any], tmp_path: Path) -> None:
    save(as_kohya(random_lora(family["load"]())), tmp_path / "good.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    worker = _worker(family)
    before = _draw(worker)
    used = [LoraUse(tmp_path / f"{name}.safetensors", 1.0, name) for name in ("good", "bad")]
    with pytest.raises(InvalidRequestError, match="The LoRA 'bad' cannot be used"):
        worker.load_loras(used)
    with pytest.raises(ModelNotFoundError, match="There is no LoRA .*gone"):
        worker.load_loras([LoraUse(tmp_path / "gone.safetensors", 1.0, "gone")])
    assert _draw(worker) == before


def test_a_replaced_lora_is_read_again(family: dict[str, Any], tmp_path: Path) -> None:
    worker = _worker(family)
    used = [LoraUse(tmp_path / "a.safetensors", 1.0, "a")]

    def draw() -> bytes:
        return bytes(worker.run_job(Job(req=GenerateRequest(prompt="a lake", seed=1).with_loras(used)))[0])

    pictures = []
    for seed in (0, 1, 0):
        save(as_kohya(random_lora(family["load"](), seed=seed)), tmp_path / "new.safetensors")
        (tmp_path / "new.safetensors").replace(tmp_path / "a.safetensors")
        pictures.append(draw())
    assert pictures[0] == pictures[2] != pictures[1]


def test_a_style_leaves_no_trace(family: dict[str, Any]) -> None:
    worker = _worker(family, lora_root=family["root"])
    before = _draw(worker)
    styled = {name: _draw(worker, name) for name in ("kohya", "more/other", "diffusers")}
    assert _draw(worker) == before
    assert {name: _draw(worker, name) for name in styled} == styled
    assert len({picture.png for picture in (before, *styled.values())}) >= 3


def test_levels_select_strengths_and_larger_levels_mean_the_last(worker: Any) -> None:
    off, one, two, three, nine = (_draw(worker, "kohya", level).png for level in (0, 1, 2, 3, 9))
    assert off == _draw(worker).png
    assert len({off, one, two, three}) == 4
    assert nine == three


def test_a_thousand_switches_add_no_layers(worker: Any) -> None:
    _draw(worker, "kohya")
    _draw(worker, "more/other")
    before = _tensors(worker)
    for turn in range(1000):
        worker.begin(
            Job(
                req=GenerateRequest(
                    prompt="a", style_lora=StyleLoraRequest(style=("kohya", "more/other")[turn % 2], level=1)
                )
            )
        )
    assert _tensors(worker) == before


def _tensors(worker: Any) -> int:
    return sum(1 for network in (worker.pipe.unet, worker.pipe.text_encoder) for _ in network.parameters())


def test_the_least_recently_used_styles_are_unloaded(
    family: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.diffusion.loras.adapters._KEPT", 2)
    for seed in range(3):
        save(as_kohya(random_lora(family["load"](), seed=seed)), tmp_path / f"s{seed}.safetensors")
    worker = _worker(family, lora_root=tmp_path)
    first = [_draw(worker, f"s{seed}").png for seed in range(2)]
    tensors, memory = _tensors(worker), worker.memory_bytes()
    _draw(worker, "s2")
    assert (_tensors(worker), worker.memory_bytes()) == (tensors, memory)
    assert [_draw(worker, f"s{seed}").png for seed in range(2)] == first


def test_large_inactive_styles_take_at_most_the_models_memory(family: dict[str, Any], tmp_path: Path) -> None:
    for seed in range(4):
        unet = family["load"]().unet.state_dict()
        changes = {
            f"unet.{name.removesuffix('.weight')}.diff": tensor * 0.01 * seed
            for name, tensor in unet.items()
            if name.endswith("weight")
        }
        save(changes, tmp_path / f"s{seed}.safetensors")
    worker = _worker(family, lora_root=tmp_path)
    bare, before = worker.memory_bytes(), _draw(worker)
    drawn = [_draw(worker, f"s{seed}") for seed in range(4)]
    _draw(worker)
    assert bare < worker.memory_bytes() <= 2 * bare
    assert [_draw(worker, f"s{seed}") for seed in range(4)] == drawn
    assert _draw(worker) == before


def test_a_file_replaced_while_its_picture_waits_is_refused(
    family: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imagegen_core.diffusion.loras.adapters._KEPT", 1)
    for seed in range(2):
        save(as_kohya(random_lora(family["load"](), seed=seed)), tmp_path / f"s{seed}.safetensors")
    worker = _worker(family, lora_root=tmp_path)
    style_lora = StyleLoraRequest(style="s0", level=1)
    state = worker.begin(Job(req=GenerateRequest(prompt="a lake", style_lora=style_lora)))
    _draw(worker, "s1")
    save(as_kohya(random_lora(family["load"](), seed=5)), tmp_path / "new.safetensors")
    (tmp_path / "new.safetensors").replace(tmp_path / "s0.safetensors")
    with pytest.raises(InvalidRequestError, match="was replaced while the picture waited; ask again"):
        worker.step([state])


def test_a_style_takes_the_memory_of_its_tensors(family: dict[str, Any]) -> None:
    worker = _worker(family, lora_root=family["root"])
    bare = worker.memory_bytes()
    _draw(worker, "kohya")
    added = sum(tensor.nbytes for tensor in family["lora"].values())
    assert worker.memory_bytes() == bare + added


def test_the_error_for_an_unknown_style_lists_the_known_styles(worker: Any) -> None:
    with pytest.raises(
        InvalidRequestError, match="Unknown style 'papercut': expected one of .*kohya, more/other, peft"
    ):
        _draw(worker, "papercut")
    assert _draw(worker).seed == 1


def test_a_style_of_another_family_is_refused_with_the_reason(
    family: dict[str, Any], sdxl_checkpoint: Path, sd15_checkpoint: Path
) -> None:
    other = {"sdxl": "sd15", "sd15": "sdxl"}[family["name"]]
    checkpoint = {"sdxl": sdxl_checkpoint, "sd15": sd15_checkpoint}[other]
    root = family["root"].parent / f"{family['name']}-strange"
    save(as_kohya(random_lora(FAMILIES[other][1].from_pretrained(checkpoint))), root / "strange.safetensors")
    worker = _worker(family, lora_root=root)
    reason = r"The style 'strange' cannot be used: it was made for a cross-attention width of \d+, and the checkpoint's"
    with pytest.raises(InvalidRequestError, match=reason):
        _draw(worker, "strange")
    assert _draw(worker).seed == 1


def test_an_unknown_layer_is_named_and_the_style_leaves_no_trace(family: dict[str, Any], tmp_path: Path) -> None:
    lora = {
        name.replace("mid_block", "mid_block_of_another"): tensor
        for name, tensor in as_diffusers(family["lora"]).items()
    }
    save(lora, tmp_path / "odd.safetensors")
    worker = _worker(family, lora_root=tmp_path)
    before, tensors = _draw(worker), _tensors(worker)
    with pytest.raises(
        InvalidRequestError, match="does not fit this checkpoint: its tensor .*mid_block_of_another.* changes a layer"
    ):
        _draw(worker, "odd")
    assert (_draw(worker), _tensors(worker)) == (before, tensors)


def test_styles_come_from_the_registry_the_configuration_and_the_folder(
    family: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = family["root"] / "kohya.safetensors"
    STYLE_REGISTRY["byhand"] = StyleDef("byhand", "By hand", str(file), "byhand", [0.2, 1.0])
    Path("imagegen.toml").write_text(f'[styles.written]\nlora_path = "{file}"\nlevels = [0.3, 1.0]\n')
    monkeypatch.setenv("LORA_ROOT", str(family["root"]))
    worker = family["class"](
        settings=Settings.load(model=str(family["checkpoint"]), device="cpu", dtype="fp32", recipe=False)
    )
    assert _draw(worker, "byhand", 2).png == _draw(worker, "written", 2).png == _draw(worker, "kohya", 3).png
    assert {worker.styles[name].source for name in ("byhand", "written", "kohya")} == {
        "STYLE_REGISTRY",
        "styles.written in the configuration",
        "LORA_ROOT",
    }


def test_a_missing_folder_of_styles_is_refused(family: dict[str, Any]) -> None:
    with pytest.raises(ModelNotFoundError, match="The folder of styles /nowhere is not there: correct lora_root"):
        _worker(family, lora_root=Path("/nowhere"))


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0), *capfd.readouterr()


def test_the_command_line_lists_styles_and_draws_with_them(
    family: dict[str, Any], worker: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LORA_ROOT", str(family["root"]))
    monkeypatch.setenv("MODEL", str(family["checkpoint"]))
    monkeypatch.setenv("CUDA_DEVICE", "cpu")
    monkeypatch.setenv("CUDA_DTYPE", "fp32")
    monkeypatch.setenv("IMAGEGEN_RECIPE", "0")
    (family["root"] / "broken.safetensors").write_bytes(b"no")
    code, out, _ = _run(capfd, "styles", "list", "--json")
    (family["root"] / "broken.safetensors").unlink()
    rows = {row["style"]: row for row in json.loads(out)}
    assert code == 0
    assert (rows["kohya"]["usable"], rows["kohya"]["levels"]) == (True, [0.4, 0.7, 1.0])
    assert rows["broken"]["usable"] is False
    assert "broken.safetensors" in rows["broken"]["note"]

    for style, level in (("kohya:1", 1), ("kohya", 3)):
        code, _, err = _run(capfd, "generate", "a lake", "--seed", "1", "--style", style, "-o", "out.png")
        assert code == 0, err
        assert Path("out.png").read_bytes() == _draw(worker, "kohya", level).png
    code, _, err = _run(capfd, "generate", "a lake", "--style", "papercut")
    assert (code, err.count("\n")) == (2, 1)
    assert "Unknown style 'papercut'" in err
    code, _, err = _run(capfd, "generate", "a lake", "--style", "kohya:much")
    assert (code, err) == (2, "Error: Invalid style 'kohya:much': expected NAME or NAME:LEVEL, with a level from 0\n")
