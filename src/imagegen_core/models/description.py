"""The description of a model: what it is, and how much of it there is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["checkpoint", "unet", "vae", "text-encoder", "lora", "embedding", "upscaler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What the names and shapes of tensors tell.

    Attributes:
        kind: What it is for.
        layout: Whose names its tensors go by: ``ldm`` or ``diffusers``; of a LoRA ``kohya``, ``diffusers`` or
            ``peft``; of a text encoder ``ldm``, ``transformers`` or ``open_clip``; of an upscaler its architecture; of
            an embedding ``a1111``, ``diffusers`` or ``sdxl``.
        family: ``sd15``, ``sd2``, ``sdxl`` or ``sdxl-refiner``; None where nothing tells.
        cross_attention_dim: The width at which the UNet takes the prompt's embeddings, of a LoRA the width it was
            made for, of an embedding its own; None where nothing shows it.
        input_channels: How many channels the UNet takes: 4, or 9 where it fills in masked parts.
        algorithm: Of a LoRA ``lora``, ``dora``, ``loha`` or ``lokr``; else None.
        components: The parts of a checkpoint that are there: ``unet``, ``vae``, ``text_encoder``, ...
        missing: The parts it needs that are not there.
    """

    kind: Kind
    layout: str
    family: str | None = None
    cross_attention_dim: int | None = None
    input_channels: int | None = None
    algorithm: str | None = None
    components: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Description(Contents):
    """What a file or folder is, told without loading it.

    Attributes:
        path: The file or folder.
        format: ``folder``, or the file's: ``safetensors``, ``torch`` or ``torch-legacy``.
        dtypes: The element types by torch's names, the one most used first.
        parameters: How many numbers it holds.
        size: Its size on disk, in bytes; of a folder that of the weights it is loaded from.
        native_size: The size it was trained at, as ``WIDTHxHEIGHT``; None where it does not say.
    """

    path: Path
    format: str
    dtypes: tuple[str, ...]
    parameters: int
    size: int
    native_size: str | None
