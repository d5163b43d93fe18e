"""What a pipeline cannot do is refused in a sentence: request fields, other folders, damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from imagegen_core import (
    GenerateRequest,
    ImagegenError,
    InvalidRequestError,
    Job,
    ModelLoadError,
    ModelNotFoundError,
    Picture,
    Registry,
    Settings,
    SettingsError,
    StyleLoraRequest,
)
from imagegen_core.resolution.backends import select_backend
from imagegen_diffusers import DiffusersPipelineWorker
from imagegen_diffusers.call import PipelineCall, check_call
from imagegen_diffusers.folder import stores_bf16
from tests.pipelines.conftest import settings_for

Folder = Callable[[str], Path]
WorkerOf = Callable[[str], Any]

FIELDS: list[tuple[str, dict[str, Any], str, str]] = [
    ("z-image", {"clip_skip": 1}, "clip_skip", "Invalid clip_skip '1' for a ZImagePipeline: its call does not take it"),
    ("sana", {"guidance_rescale": 0.7}, "guidance_rescale", "for a SanaPipeline: its call does not take it"),
    ("pixart", {"scheduler": "Euler"}, "scheduler", "for the backend 'diffusers': it does not support it"),
    ("pixart", {"eta": 0.5}, "eta", "for the backend 'diffusers': it does not support it"),
    (
        "pixart",
        {"style_lora": StyleLoraRequest(style="ink", level=1)},
        "style_lora",
        "for the backend 'diffusers': it does not support it",
    ),
    ("z-image", {"size": "72x64"}, "size", "Invalid size '72x64' for a ZImagePipeline: expected multiples of 16"),
]


@pytest.mark.parametrize(("name", "fields", "field", "sentence"), FIELDS, ids=[field for _, _, field, _ in FIELDS])
def test_a_field_that_the_call_does_not_take_is_refused(
    worker_of: WorkerOf, name: str, fields: dict[str, Any], field: str, sentence: str
) -> None:
    request = GenerateRequest(**{"prompt": "a lake", "size": "64x64", "num_inference_steps": 1, **fields})
    with pytest.raises(InvalidRequestError, match=sentence) as caught:
        worker_of(name).run_job(Job(req=request))
    assert (caught.value.field or "").partition(".")[0] == field


def test_a_value_that_the_pipeline_refuses_is_an_invalid_request(
    worker_of: WorkerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("`prompt` has to be of another kind.\nmore")

    monkeypatch.setattr(worker_of("pixart").pipe, "check_inputs", refuse)
    with pytest.raises(
        InvalidRequestError, match="^A PixArtSigmaPipeline refuses the request: `prompt` has to be of another kind$"
    ):
        worker_of("pixart").run_job(Job(req=GenerateRequest(prompt="a lake", size="64x64")))


def test_latents_that_are_not_finite_end_the_picture(worker_of: WorkerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, steps = worker_of("z-image"), []
    step = worker.pipe.scheduler.step
    monkeypatch.setattr(
        worker.pipe.scheduler, "step", lambda *given, **options: (step(*given, **options)[0] * float("nan"),)
    )
    job = Job(req=GenerateRequest(prompt="", size="64x64", num_inference_steps=4), on_step=steps.append)
    with pytest.raises(ImagegenError, match=r"not finite \(NaN\) after step 1 of 4: lower guidance_scale \(1\)"):
        worker.run_job(job)
    assert not steps


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (np.zeros((1, 64, 128, 3)), "^Invalid size '64x64' for a PixArtSigmaPipeline: it draws 128x64 instead"),
        (np.full((1, 64, 64, 3), np.nan), "^The pixels of a PixArtSigmaPipeline are not finite"),
    ],
    ids=["another size", "NaN"],
)
def test_pixels_that_were_not_asked_for_are_refused(
    worker_of: WorkerOf, monkeypatch: pytest.MonkeyPatch, pixels: Any, sentence: str
) -> None:
    monkeypatch.setattr(worker_of("pixart").pipe.image_processor, "postprocess", lambda *_, **__: pixels)
    with pytest.raises(ImagegenError, match=sentence):
        worker_of("pixart").run_job(Job(req=GenerateRequest(prompt="", size="64x64", num_inference_steps=1)))


class _Call(diffusers.DiffusionPipeline):
    """The base of pipelines with other signatures."""

    components: dict[str, Any] = {}  # noqa: RUF012 - of the base class


def test_guidance_goes_to_the_parameter_that_means_it() -> None:
    class WithBoth(_Call):
        def __call__(  # type: ignore[no-untyped-def]
            self, prompt, num_inference_steps=1, generator=None, guidance_scale=None, true_cfg_scale=4.0, **_
        ): ...

    class WithNone(_Call):
        def __call__(self, prompt, num_inference_steps=1, generator=None): ...  # type: ignore[no-untyped-def]

    assert PipelineCall(WithBoth()).guidance == "true_cfg_scale"
    call = PipelineCall(WithNone())
    with pytest.raises(InvalidRequestError, match=r"^Invalid guidance_scale '3.0' for a WithNone"):
        call.resolve(GenerateRequest(prompt="", guidance_scale=3.0), "64x64")
    with pytest.raises(InvalidRequestError, match=r"^Invalid size '128x64' for a WithNone: it draws only 64x64"):
        call.resolve(GenerateRequest(prompt="", size="128x64"), "64x64")
    with pytest.raises(InvalidRequestError, match=r"^Invalid negative_prompt 'x' for a WithNone"):
        call.resolve(GenerateRequest(prompt="", negative_prompt="x"), "64x64")


def test_pipelines_of_another_kind_are_refused() -> None:
    class Prior(_Call):
        def __call__(self, image_embeds, prompt, num_inference_steps=1, generator=None): ...  # type: ignore[no-untyped-def]

    class Video(_Call):
        def __call__(self, prompt, num_inference_steps=1, generator=None, num_frames=8): ...  # type: ignore[no-untyped-def]

    class Unconditional(_Call):
        def __call__(self, num_inference_steps=1, generator=None): ...  # type: ignore[no-untyped-def]

    for pipeline, sentence in {
        Prior: "is a Prior, whose call needs image_embeds, too: this backend draws with pipelines from text to a",
        Video: "is a Video, which makes videos",
        Unconditional: "is a Unconditional, whose call takes no prompt",
    }.items():
        with pytest.raises(ModelLoadError, match=sentence):
            check_call(pipeline, Path("folder"))


@pytest.fixture
def copied(folder: Folder, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder("pixart"), tmp_path / "copied"))


def _edit_index(folder: Path, **entries: Any) -> None:
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | entries))


def _remove_weights(folder: Path) -> None:
    (folder / "transformer/diffusion_pytorch_model.safetensors").unlink()


def _remove_tensor(folder: Path) -> None:
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["proj_out.bias"]
    save_file(tensors, file, metadata={"format": "pt"})


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a class that diffusers lacks": (
        lambda folder: _edit_index(folder, _class_name="NextYearsPipeline"),
        "names a NextYearsPipeline, and the installed diffusers [0-9.]+ has no such pipeline: pip install --upgrade",
    ),
    "code of its own": (
        lambda folder: _edit_index(folder, _class_name=["pipeline", "OwnPipeline"]),
        "asks for a pipeline of its own code",
    ),
    "a component of another library": (
        lambda folder: _edit_index(folder, transformer=["os", "system"]),
        "wants its transformer from the library 'os', whose code could do anything",
    ),
    "no weights": (_remove_weights, "its folder transformer has no weights; copy it again"),
    "a missing tensor": (_remove_tensor, "have no tensor 'proj_out.bias', one of 1 that a PixArtTransformer2DModel"),
    "a damaged index": (lambda folder: (folder / "model_index.json").write_text("{") and None, "Cannot read .*index"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_or_foreign_folder_is_refused(copied: Path, damage: str) -> None:
    change, sentence = DAMAGE[damage]
    change(copied)
    settings = settings_for(copied)
    with pytest.raises(ModelLoadError, match=sentence):
        select_backend(Registry.discover(), settings).load()(settings=settings)


def test_weights_in_a_variant_are_read(copied: Path, worker_of: WorkerOf) -> None:
    weights = copied / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    job = Job(req=GenerateRequest(prompt="a lake", size="64x64", seed=1, num_inference_steps=1))
    drawn = DiffusersPipelineWorker(settings=settings_for(copied).override(recipe=False)).run_job(job)
    assert Picture(*drawn, b"").image.tobytes() == Picture(*worker_of("pixart").run_job(job), b"").image.tobytes()


def test_the_precision_of_the_weights_is_read_from_their_header(copied: Path) -> None:
    assert not stores_bf16(copied)
    file = copied / "transformer/diffusion_pytorch_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file)
    assert stores_bf16(copied)


def test_a_missing_folder_and_no_folder_are_refused() -> None:
    with pytest.raises(ModelNotFoundError, match="DIFFUSERS_MODEL or MODEL to a folder with a model_index.json"):
        DiffusersPipelineWorker(settings=Settings(device="cpu"))
    with pytest.raises(ModelNotFoundError):
        DiffusersPipelineWorker(settings=Settings(device="cpu", model="/no/such/folder"))


@pytest.mark.parametrize("options", [{"compile": True}, {"vae_path": "/vae"}, {"scheduler": "Euler"}], ids=str)
def test_settings_without_effect_are_refused(folder: Folder, options: dict[str, Any]) -> None:
    settings = Settings.load(environ={}, model=str(folder("pixart")), device="cpu", **options)
    with pytest.raises(SettingsError, match="unset it"):
        DiffusersPipelineWorker(settings=settings)


def test_a_damaged_folder_of_a_family_is_a_matter_of_its_own_backend(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(sdxl_checkpoint, tmp_path / "damaged"))
    shutil.rmtree(damaged / "unet")
    with pytest.raises(ModelLoadError, match="is incomplete: unet/config.json is missing"):
        select_backend(Registry.discover(), settings_for(damaged))


def test_a_backend_of_its_own_wins(folder: Folder, sdxl_checkpoint: Path) -> None:
    registry = Registry.discover()
    assert select_backend(registry, settings_for(sdxl_checkpoint)).name == "sdxl"
    assert select_backend(registry, settings_for(folder("pixart"))).name == "diffusers"
