"""Tiny VAEs, such as TAESD, decode pictures and previews as in the plain diffusers pipeline."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from imagegen_core import GenerateRequest, Job, ModelLoadError, Settings, read_recipe
from imagegen_core.models.inspect import describe
from imagegen_core.replay import settings_of
from imagegen_flux import FluxWorker
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

WORKERS = {"sd15": DiffusersCudaWorker, "sdxl": DiffusersSDXLCudaWorker}
SIZE, STEPS = "64x64", 3


def _tiny(channels: int = 4) -> Any:
    """Return a random tiny VAE with the layers of the released ones, and few channels."""
    torch.manual_seed(9)
    widths = (16,) * 4
    return diffusers.AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths, latent_channels=channels
    ).eval()


def _original(state: dict[str, torch.Tensor], half: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return a half by the original names: bare numbers, where the decoder's clamp is layer 0."""
    first, start = (1 if half == "decoder" else 0), f"{half}.layers."
    numbered = (
        (name.removeprefix(start).split(".", 1), tensor) for name, tensor in state.items() if name.startswith(start)
    )
    return {f"{prefix}{int(number) + first}.{rest}": tensor.clone() for (number, rest), tensor in numbered}


def _both(state: dict[str, torch.Tensor], decoder: str, encoder: str) -> dict[str, torch.Tensor]:
    return _original(state, "decoder", decoder) | _original(state, "encoder", encoder)


def _layouts(vae: Any, folder: Path) -> dict[str, Path]:
    state = vae.state_dict()
    vae.save_pretrained(folder / "taesd")
    save_file(_original(state, "decoder"), folder / "taesd_decoder.safetensors")
    torch.save(_original(state, "decoder"), folder / "taesd_decoder.pth")
    torch.save(_both(state, "decoder.", "encoder."), folder / "whole.pth")
    scale = {"vae_scale": torch.tensor(0.18215), "vae_shift": torch.tensor(0.0)}
    torch.save(_both(state, "taesd_decoder.", "taesd_encoder.") | scale, folder / "taesd_combined.pth")
    return {
        "folder": folder / "taesd",
        "diffusers": folder / "taesd/diffusion_pytorch_model.safetensors",
        "decoder": folder / "taesd_decoder.safetensors",
        "pth": folder / "taesd_decoder.pth",
        "whole": folder / "whole.pth",
        "comfyui": folder / "taesd_combined.pth",
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of one tiny VAE in every layout."""
    return _layouts(_tiny(), tmp_path_factory.mktemp("tiny"))


def _load(worker_class: Any, checkpoint: Path, **settings: Any) -> Any:
    return worker_class(settings=Settings(model=str(checkpoint), device="cpu", dtype="fp32", **settings))


def _request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(prompt="a lake", seed=1, size=SIZE, num_inference_steps=STEPS, **fields)


def _pixels(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(png)))


def _drawn(worker: Any) -> np.ndarray[Any, Any]:
    return _pixels(worker.run_job(Job(req=_request(scheduler="Euler")))[0])


def _plain(pipeline_class: Any, folder: Path, vae: Any, guidance_scale: float = 1.0) -> np.ndarray[Any, Any]:
    """Draw the same with the plain pipeline and another VAE."""
    pipe = pipeline_class.from_pretrained(folder, local_files_only=True)
    pipe.vae = vae
    pipe.set_progress_bar_config(disable=True)
    picture = pipe(
        "a lake",
        width=64,
        height=64,
        num_inference_steps=STEPS,
        guidance_scale=guidance_scale,
        generator=torch.Generator("cpu").manual_seed(1),
        output_type="np",
    ).images[0]
    return np.rint(picture * 255).astype(np.int16)


@pytest.mark.parametrize("setting", ["fast_decode", "vae_path"])
@pytest.mark.parametrize("family", WORKERS)
def test_pictures_are_those_of_the_plain_pipeline_with_a_tiny_vae(
    request: pytest.FixtureRequest, files: dict[str, Path], family: str, setting: str
) -> None:
    folder = request.getfixturevalue(f"{family}_checkpoint")
    name = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}[family]
    worker = _load(WORKERS[family], folder, **{setting: files["folder"]})
    expected = _plain(getattr(diffusers, name), folder, _tiny())
    assert np.abs(_drawn(worker) - expected).max() <= 1
    assert worker.numerics.decoder == "tiny"


def test_flux_decodes_with_a_tiny_vae_of_16_channels(flux_checkpoint: Path, tmp_path: Path) -> None:
    folder, vae = flux_checkpoint, _tiny(16)
    path = _layouts(vae, tmp_path)["decoder"]
    assert describe(path).input_channels == 16
    worker = _load(FluxWorker, folder, fast_decode=path)
    expected = _plain(diffusers.FluxPipeline, folder, vae, guidance_scale=3.5)
    drawn = _pixels(worker.run_job(Job(req=_request(guidance_scale=3.5)))[0])
    assert np.abs(drawn - expected).max() <= 1


@pytest.mark.parametrize("layout", ["diffusers", "decoder", "pth", "whole", "comfyui"])
def test_every_layout_gives_the_folders_picture(sd15_checkpoint: Path, files: dict[str, Path], layout: str) -> None:
    description = describe(files[layout])
    assert (description.kind, description.input_channels) == ("tiny-vae", 4)
    assert "decoder" in description.components
    drawn = _drawn(_load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=files[layout]))
    assert (drawn == _drawn(_load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=files["folder"]))).all()


def test_previews_are_decoded_and_the_picture_stays(sd15_checkpoint: Path, files: dict[str, Path]) -> None:
    worker = _load(DiffusersCudaWorker, sd15_checkpoint, preview_decode=files["decoder"])
    plain = _load(DiffusersCudaWorker, sd15_checkpoint)
    state = worker.begin(Job(req=_request()))
    worker.step([state])
    with torch.no_grad():
        expected = _tiny().decode(state.latents).sample[0].permute(1, 2, 0)
    preview = _pixels(worker.preview(state))
    assert np.abs(preview - ((expected / 2 + 0.5).clamp(0, 1) * 255).numpy()).max() <= 1
    assert worker.numerics == plain.numerics
    assert (_drawn(worker) == _drawn(plain)).all()


def test_large_previews_have_at_most_512_pixels_a_side(sd15_checkpoint: Path, files: dict[str, Path]) -> None:
    worker = _load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=files["decoder"])
    state = worker.begin(Job(req=_request().model_copy(update={"size": "1024x512"})))
    assert _pixels(worker.preview(state)).shape == (256, 512, 3)


def test_the_recipe_says_so_and_replays(sd15_checkpoint: Path, files: dict[str, Path]) -> None:
    fast = _load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=files["decoder"])
    plain = _load(DiffusersCudaWorker, sd15_checkpoint)
    pictures = {worker: worker.run_job(Job(req=_request()))[0] for worker in (fast, plain)}
    recipes = {worker: read_recipe(png) for worker, png in pictures.items()}
    assert [recipes[worker].numerics["decoder"] for worker in (fast, plain)] == ["tiny", None]
    assert settings_of(recipes[fast], fast.settings).fast_decode == files["decoder"]
    assert settings_of(recipes[plain], fast.settings).fast_decode is None


def test_weights_count_as_memory(sd15_checkpoint: Path, files: dict[str, Path]) -> None:
    plain = _load(DiffusersCudaWorker, sd15_checkpoint).memory_bytes()
    decoder = sum(tensor.nbytes for tensor in _tiny().decoder.state_dict().values())
    assert _load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=files["decoder"]).memory_bytes() == plain + decoder


def test_tiles_and_half_precision_work(sd15_checkpoint: Path, files: dict[str, Path]) -> None:
    settings = Settings(
        model=str(sd15_checkpoint), device="cpu", dtype="fp16", fast_decode=files["decoder"], vae_tiling=True
    )
    worker = DiffusersCudaWorker(settings=settings)
    png, _ = worker.run_job(Job(req=_request().model_copy(update={"size": "576x64", "num_inference_steps": 1})))
    assert _pixels(png).shape == (64, 576, 3)


@pytest.fixture(scope="module")
def unfit(files: dict[str, Path], sd15_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files that are no tiny VAE for the checkpoint."""
    folder, state = tmp_path_factory.mktemp("unfit"), _tiny().state_dict()
    save_file(_original(state, "encoder"), folder / "taesd_encoder.safetensors")
    save_file(_original(_tiny(16).state_dict(), "decoder"), folder / "taef1_decoder.safetensors")
    of_sdxl = {"vae_scale": torch.tensor(0.13025)}
    save_file(_both(state, "taesd_decoder.", "taesd_encoder.") | of_sdxl, folder / "taesdxl.safetensors")
    decoder = _original(state, "decoder")
    save_file(decoder | {"pool.weight": torch.zeros(1)}, folder / "extra.safetensors")
    wider = {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in decoder.items() if name == "7.weight"}
    save_file(decoder | wider, folder / "f32.safetensors")
    return {
        "encoder": folder / "taesd_encoder.safetensors",
        "channels": folder / "taef1_decoder.safetensors",
        "scale": folder / "taesdxl.safetensors",
        "extra": folder / "extra.safetensors",
        "shape": folder / "f32.safetensors",
        "vae": sd15_checkpoint / "vae",
        "missing": folder / "gone.safetensors",
    }


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("encoder", "taesd_encoder.safetensors holds the encoder of a tiny VAE alone, and pictures need its decoder: "),
        ("channels", "taef1_decoder.safetensors decodes latents of 16 channels, and the checkpoint's have 4: set "),
        ("scale", "is for latents with the scaling_factor 0.13025, and the checkpoint's is 0.18215: set "),
        ("extra", "holds the tensor 'pool.weight', which the networks drawn with here do not have"),
        ("shape", r"its tensor '7\.weight' has the shape \[32, 16, 3, 3\], expected \[16, 16, 3, 3\]; it is of"),
        ("vae", "is no tiny VAE: set fast_decode to a tiny VAE's file, such as taesd_decoder.safetensors, or folder"),
        ("missing", "There is no tiny VAE .*: correct fast_decode"),
    ],
)
def test_unfit_files_are_refused(sd15_checkpoint: Path, unfit: dict[str, Path], file: str, sentence: str) -> None:
    with pytest.raises(ModelLoadError, match=sentence):
        _load(DiffusersCudaWorker, sd15_checkpoint, fast_decode=unfit[file])


def test_an_unfit_vae_path_is_refused(sd15_checkpoint: Path, unfit: dict[str, Path]) -> None:
    with pytest.raises(ModelLoadError, match="decodes latents of 16 channels, and .* have 4: set VAE_PATH"):
        _load(DiffusersCudaWorker, sd15_checkpoint, vae_path=unfit["channels"])


def test_normalized_latents_are_refused(sdxl_checkpoint: Path, files: dict[str, Path], tmp_path: Path) -> None:
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    pipe.vae.register_to_config(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    pipe.save_pretrained(tmp_path / "normalized")
    for setting in ("fast_decode", "preview_decode", "vae_path"):
        with pytest.raises(ModelLoadError, match="normalizes its latents by a mean of its own, .*: unset " + setting):
            _load(DiffusersSDXLCudaWorker, tmp_path / "normalized", **{setting: files["folder"]})


def test_a_tiny_vae_has_the_precision_and_the_layout_of_the_settings(sd15_checkpoint: Path, files: Any) -> None:
    options = {"fast_decode": files["decoder"], "vae_dtype": "bf16", "vae_channels_last": False}
    worker = _load(DiffusersCudaWorker, sd15_checkpoint, **options)
    assert (worker.numerics.vae_precision, worker.numerics.layout) == ("bf16", "contiguous")
    weights = [parameter for parameter in worker.decoder.parameters() if parameter.ndim == 4]
    assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert all(weight.is_contiguous() for weight in weights)
