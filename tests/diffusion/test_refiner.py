"""SDXL's refiner as a checkpoint of its own: recognized, loaded, and drawn as plain diffusers draws it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from imagegen_core import MicroConditioning, ModelLoadError, Settings
from imagegen_core.models.inspect import architecture, describe
from imagegen_core.models.networks.source import Source
from imagegen_core.models.networks.unet_config import unet_config
from imagegen_core.shortcuts import load_worker
from imagegen_sdxl import DiffusersSDXLCudaWorker, SDXLRefinerWorker
from tests.checkpoints import save_sdxl, save_sdxl_refiner
from tests.layouts import save_single_file
from tests.pictures_in.conftest import Pair, difference, picture

SAMPLERS = ["Euler", "Euler a", "DPM++ 2M", "Heun"]
CONFIGS = Path(__file__).parents[2] / "src" / "imagegen_sdxl" / "configs" / "sdxl-refiner"


def plain(checkpoint: Path) -> Any:
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(checkpoint, local_files_only=True, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    checkpoint = save_sdxl_refiner(tmp_path_factory.mktemp("refiner") / "tiny-refiner")
    pipe = plain(checkpoint)
    worker = SDXLRefinerWorker(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32"))
    return Pair("sdxl-refiner", checkpoint, worker, lambda _kind: pipe)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_images_equal_the_plain_pipeline(refiner: Pair, sampler: str, guidance: float) -> None:
    fields = {"image": picture(), "strength": 0.6, "num_inference_steps": 5, "guidance_scale": guidance}
    negative = {"negative_prompt": "rain"} if guidance > 1 else {}
    drawn = refiner.draw(scheduler=sampler, **fields, **negative)
    assert difference(drawn, refiner.expected("", sampler, **fields, **negative)) <= 1


@pytest.mark.parametrize("scores", [{}, {"aesthetic_score": 9.0}, {"negative_aesthetic_score": 8.0}])
def test_scores_and_sizes_are_conditions(refiner: Pair, scores: dict[str, float]) -> None:
    fields = {"image": picture(), "strength": 0.6, "num_inference_steps": 4, "guidance_scale": 7.5}
    conditions = MicroConditioning(original_size="200x100", crop=(8, 16), negative_crop=(1, 2), **scores)
    sizes = {
        "original_size": (100, 200),
        "crops_coords_top_left": (16, 8),
        "negative_original_size": (100, 200),
        "negative_crops_coords_top_left": (2, 1),
    }
    drawn = refiner.draw(scheduler="Euler", micro_conditioning=conditions, **fields)
    assert difference(drawn, refiner.expected("", "Euler", **fields, **sizes, **scores)) <= 1


def test_a_score_changes_the_picture(refiner: Pair) -> None:
    fields = {"size": "64x48", "scheduler": "Euler", "guidance_scale": 7.5}
    assert difference(
        refiner.draw(**fields), refiner.draw(micro_conditioning=MicroConditioning(aesthetic_score=0.0), **fields)
    )


def test_prompts_alone_draw_from_noise(refiner: Pair) -> None:
    pipe = refiner.plain("")
    pipe.scheduler = refiner.worker._schedulers.make("Euler", 4, torch.device("cpu"))
    noise = torch.randn((1, 4, 6, 8), generator=torch.Generator().manual_seed(7)) * pipe.scheduler.init_noise_sigma
    # The plain pipeline takes latents as they are, if it begins at a point of the schedule: here at the first.
    image = pipe("a lake at dawn", image=noise, denoising_start=1e-9, num_inference_steps=4, guidance_scale=3.0)
    drawn = refiner.draw(size="64x48", scheduler="Euler", num_inference_steps=4, guidance_scale=3.0)
    expected = torch.tensor(list(image.images[0].get_flattened_data())).reshape(48, 64, 3)
    assert difference(drawn, expected.numpy()) <= 1


def test_a_single_file_draws_the_same_bytes(refiner: Pair, tmp_path: Path) -> None:
    path = save_single_file(refiner.plain(""), tmp_path / "xl-refiner.safetensors")
    assert any(name.startswith("conditioner.embedders.0.model.") for name in load_file(path))
    settings = Settings(model=str(path), device="cpu", dtype="fp32", base_model=_tokenizer_alone(refiner, tmp_path))
    worker = load_worker(settings=settings)
    assert isinstance(worker, SDXLRefinerWorker)
    fields = {"size": "64x48", "scheduler": "Euler", "guidance_scale": 7.5}
    from_file = Pair("sdxl-refiner", path, worker, refiner.plain).draw(**fields)
    assert not difference(from_file, refiner.draw(**fields))


def _tokenizer_alone(refiner: Pair, folder: Path) -> Path:
    """Return a folder with the checkpoint's configs and tokenizer, without weights."""
    base = folder / "base"
    for path in refiner.folder.rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            copy = base / path.relative_to(refiner.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return base


def test_the_families_are_never_mistaken(refiner: Pair, tmp_path: Path) -> None:
    base = save_sdxl(tmp_path / "tiny-sdxl")
    assert (architecture(base), architecture(refiner.folder)) == ("sdxl", "sdxl-refiner")
    file = save_single_file(refiner.plain(""), tmp_path / "a.safetensors")
    described = describe(file)
    assert (described.family, described.missing) == ("sdxl-refiner", ())
    with pytest.raises(ModelLoadError, match="family sdxl-refiner, which backend 'sdxl' does not"):
        DiffusersSDXLCudaWorker(settings=Settings(model=str(refiner.folder), device="cpu"))
    with pytest.raises(ModelLoadError, match="family sdxl, which backend 'sdxl-refiner' does not"):
        SDXLRefinerWorker(settings=Settings(model=str(base), device="cpu"))


def test_a_unet_with_other_numbers_is_refused(tmp_path: Path) -> None:
    checkpoint = save_sdxl_refiner(tmp_path / "six", projection_class_embeddings_input_dim=6 * 8 + 48)
    with pytest.raises(ModelLoadError, match="takes 6 numbers beside the prompt, and SDXL's refiner has 5"):
        SDXLRefinerWorker(settings=Settings(model=str(checkpoint), device="cpu"))


def test_the_configs_are_those_of_the_released_refiner() -> None:
    config = json.loads((CONFIGS / "unet" / "config.json").read_text())
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    # The text encoder and the VAE have 0.78 billion weights. The released file of all three has 6.08 GB in fp16.
    assert round(sum(weight.numel() for weight in unet.parameters()) / 1e9 + 0.78, 2) == 3.04
    shapes = {name: tuple(weight.shape) for name, weight in unet.state_dict().items()}
    derived = unet_config({name: Source(name, "float16", shape) for name, shape in shapes.items()}, config)
    with torch.device("meta"):
        again = UNet2DConditionModel.from_config(derived)
    assert {name: tuple(weight.shape) for name, weight in again.state_dict().items()} == shapes
    assert again.config.attention_head_dim == [6, 12, 24, 24]


def test_embeddings_for_both_encoders_of_the_base_serve_the_refiner(refiner: Pair, tmp_path: Path) -> None:
    torch.manual_seed(9)
    save_file({"clip_l": torch.randn(2, 32), "clip_g": torch.randn(2, 32)}, tmp_path / "zq.safetensors")
    settings = Settings(model=str(refiner.folder), device="cpu", dtype="fp32", embeddings_root=tmp_path)
    worker = SDXLRefinerWorker(settings=settings)
    assert worker.embedding_sizes == {"zq": (2, 32)}
    fields = {"prompt": "a zq lake", "size": "64x48", "scheduler": "Euler"}
    assert difference(Pair("", refiner.folder, worker, refiner.plain).draw(**fields), refiner.draw(**fields))
