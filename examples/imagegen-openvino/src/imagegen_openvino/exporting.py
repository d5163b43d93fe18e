"""Export a diffusers-format checkpoint to OpenVINO; only this module needs torch and diffusers."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import openvino
import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from imagegen_core import ModelLoadError, OutputError
from imagegen_openvino.folder import DECODER, TEXT_ENCODERS, UNET, Manifest, Marks
from imagegen_openvino.lcm import Lcm

_PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
_OPTIONS: dict[str, dict[str, Any]] = {"sd15": {"safety_checker": None, "requires_safety_checker": False}, "sdxl": {}}
_HASH_DIGITS = 10
_REDUCTION, _CHANNELS, _LARGEST = 8, 4, 8192
_TRACED_ROWS, _TRACED_SIDES = 2, (33, 35)  # odd, or the trace would lack the sizes between up- and downsampling


def export_checkpoint(checkpoint: Path, folder: Path) -> None:
    """Export a checkpoint, with weights in float32 so that nothing is lost.

    Args:
        checkpoint: A diffusers-format folder of the SD1.x, SD2.x or SDXL architecture.
        folder: The target folder; it must be empty or new.

    Raises:
        ModelLoadError: The checkpoint cannot be loaded, or its architecture cannot be exported.
        OutputError: `folder` is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there already: choose a folder that is empty or new")
    family = _family(checkpoint)
    pipe = _load(checkpoint, family)
    manifest = _manifest(pipe, family, checkpoint)
    Lcm(manifest.scheduler)  # refuses an unsupported scheduler
    folder.mkdir(parents=True, exist_ok=True)
    for name, marks in zip(TEXT_ENCODERS, manifest.marks, strict=False):
        encoder = TextEncoder(getattr(pipe, name), penultimate=family == "sdxl")
        _save(encoder, {"ids": torch.full((1, marks.length), marks.end)}, folder / f"{name}.xml")
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        tokenizer.backend_tokenizer.save(str(folder / f"{name}.tokenizer.json"))
    unet = (SdxlUnet if family == "sdxl" else Unet)(pipe.unet, manifest.scheduler["num_train_timesteps"])
    _save(unet, _unet_inputs(pipe), folder / UNET)
    _save(Decoder(pipe.vae), {"latents": torch.zeros(1, _CHANNELS, *_TRACED_SIDES)}, folder / DECODER)
    manifest.write(folder)


class TextEncoder(nn.Module):
    """A transformers CLIP text encoder as a function of token ids."""

    def __init__(self, encoder: Any, *, penultimate: bool) -> None:
        """Take an encoder, and whether the UNet reads its penultimate layer."""
        super().__init__()
        self.encoder = encoder
        self.penultimate = penultimate

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        """Return the hidden states [1, length, width], and the projection [1, width] if the encoder has one."""
        output = self.encoder(ids, output_hidden_states=True)
        hidden = output.hidden_states[-2] if self.penultimate else output.last_hidden_state
        projected = getattr(output, "text_embeds", None)
        return (hidden,) if projected is None else (hidden, projected)


class Sinusoids(nn.Module):
    """The sinusoidal embeddings of whole numbers, as a lookup table.

    bf16 cannot separate 998 from 999, so an embedding computed in bf16 belongs to another number. With it, the demo's
    first prediction was off by forty times the usual error of bf16.
    """

    table: Tensor

    def __init__(self, embedding: Any, values: Tensor) -> None:
        """Tabulate a diffusers ``Timesteps`` for `values`; a lookup takes the index of a value."""
        super().__init__()
        self.register_buffer("table", embedding(values))

    def forward(self, places: Tensor) -> Tensor:
        """Return the embeddings [N, width] of indexes [N]."""
        return nn.functional.embedding(places, self.table)


class Unet(nn.Module):
    """A diffusers ``UNet2DConditionModel`` as a function of tensors."""

    def __init__(self, unet: Any, timesteps: int) -> None:
        """Take a UNet, and replace its time embedding by a table of `timesteps` rows."""
        super().__init__()
        unet.time_proj = Sinusoids(unet.time_proj, torch.arange(timesteps))
        self.unet = unet

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Return the prediction, in the latents' shape."""
        return self.unet(latents, timesteps, encoder_hidden_states=tokens, return_dict=False)[0]  # type: ignore[no-any-return]


class SdxlUnet(Unet):
    """SDXL's UNet, with the pooled prompt and the sizes as further inputs."""

    def __init__(self, unet: Any, timesteps: int) -> None:
        """Take a UNet, and replace its embeddings of numbers by tables."""
        super().__init__(unet, timesteps)
        unet.add_time_proj = Sinusoids(unet.add_time_proj, torch.arange(0, _LARGEST + 1, _REDUCTION))

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:  # type: ignore[override]
        """Return the prediction, in the latents' shape; sizes in `time_ids` [rows, 6] are multiples of 8."""
        added = {"text_embeds": pooled, "time_ids": time_ids // _REDUCTION}
        prediction: Tensor = self.unet(
            latents, timesteps, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False
        )[0]
        return prediction


class Decoder(nn.Module):
    """A diffusers ``AutoencoderKL``'s decoder, with the scaling of latents."""

    mean: Tensor
    factor: Tensor

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        means, deviations = vae.config.latents_mean or [0.0], vae.config.latents_std or [1.0]
        self.register_buffer("mean", torch.tensor(means).view(1, -1, 1, 1))
        self.register_buffer("factor", torch.tensor(deviations).view(1, -1, 1, 1) / vae.config.scaling_factor)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode the UNet's latents [1, 4, h, w] to pixels [1, 3, 8 h, 8 w] from -1 to 1."""
        return self.vae.decode(latents * self.factor + self.mean, return_dict=False)[0]  # type: ignore[no-any-return]


def _family(checkpoint: Path) -> Literal["sd15", "sdxl"]:
    try:
        index = json.loads((checkpoint / "model_index.json").read_text(encoding="utf-8"))
        unet = json.loads((checkpoint / "unet" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"{checkpoint} is no diffusers-format folder: make one of a single file with "
            "load_worker(model=FILE).pipe.save_pretrained(FOLDER)"
        ) from error
    if unet.get("in_channels") == _CHANNELS and unet.get("time_cond_proj_dim") is None:
        match index.get("_class_name"):
            case "StableDiffusionPipeline":
                return "sd15"
            case "StableDiffusionXLPipeline":
                return "sdxl"
    raise ModelLoadError(
        f"{checkpoint} cannot be exported: expected Stable Diffusion 1.x, 2.x or XL that draws from a prompt alone, "
        "not distilled with guidance"
    )


def _load(checkpoint: Path, family: str) -> Any:
    try:
        return _PIPELINES[family].from_pretrained(
            checkpoint, dtype=torch.float32, local_files_only=True, **_OPTIONS[family]
        )
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"Cannot load {checkpoint}: {error}; copy the checkpoint again") from error


def _manifest(pipe: Any, family: Literal["sd15", "sdxl"], checkpoint: Path) -> Manifest:
    scheduler = LCMScheduler.from_config(pipe.scheduler.config).config
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    return Manifest(
        family=family,
        native_size=f"{side}x{side}",
        scheduler={name: value for name, value in scheduler.items() if not name.startswith("_")},
        marks=tuple(
            Marks(tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length)
            for tokenizer in tokenizers
            if tokenizer is not None
        ),
        absent_is_zero=bool(pipe.config.get("force_zeros_for_empty_prompt", False)),
        checkpoint_hash=_hash(checkpoint),
    )


def _hash(checkpoint: Path) -> str | None:
    files = list((checkpoint / "unet").glob("*.safetensors"))
    if len(files) != 1:
        return None
    with files[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_DIGITS]


def _unet_inputs(pipe: Any) -> dict[str, Tensor]:
    """Return example inputs for the trace; only dimensions, types and odd sides matter."""
    inputs = {
        "latents": torch.zeros(_TRACED_ROWS, _CHANNELS, *_TRACED_SIDES),
        "timesteps": torch.zeros(_TRACED_ROWS, dtype=torch.long),
        "tokens": torch.zeros(_TRACED_ROWS, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim),
    }
    if hasattr(pipe, "text_encoder_2"):
        inputs["pooled"] = torch.zeros(_TRACED_ROWS, pipe.text_encoder_2.config.projection_dim)
        inputs["time_ids"] = torch.zeros(_TRACED_ROWS, 6, dtype=torch.long)
    return inputs


def _save(network: nn.Module, inputs: Mapping[str, Tensor], file: Path) -> None:
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing, OpenVINO's way to read torch, and about constant widths
        model = openvino.convert_model(network.eval(), example_input=dict(inputs))
    openvino.save_model(model, file, compress_to_fp16=False)
