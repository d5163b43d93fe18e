"""The description of a model: its kind, family and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["checkpoint", "unet", "vae", "text-encoder", "lora", "embedding", "upscaler"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The kind and the family of a set of tensors, read from their names and shapes.

    Attributes:
        kind: The kind of model.
        layout: The naming scheme of its tensors: ``ldm`` or ``diffusers``. For a LoRA ``kohya``, ``diffusers`` or
            ``peft``; for a text encoder ``ldm``, ``transformers`` or ``open_clip``; for an upscaler its architecture;
            for an embedding ``a1111``, ``diffusers`` or ``sdxl``.
        family: ``sd15``, ``sd2``, ``sdxl`` or ``sdxl-refiner``; None if unknown.
        cross_attention_dim: The width of the prompt embeddings that the UNet takes. For a LoRA, the width of its UNet;
            for an embedding, its own width; None if unknown.
        input_channels: The number of channels that the UNet takes: 4, or 9 for inpainting.
        algorithm: For a LoRA ``lora``, ``dora``, ``loha``, ``lokr`` or another name; else None.
        components: The components in a checkpoint: ``unet``, ``vae``, ``text_encoder``, ...
        missing: The components that the family needs and the checkpoint lacks.
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
    """The description of a file or folder, made without loading it.

    Attributes:
        path: The file or folder.
        format: ``folder``, or the format of the file: ``safetensors``, ``torch`` or ``torch-legacy``.
        dtypes: The element types by torch's names, the most frequent first.
        parameters: The number of elements in all tensors.
        size: The size on disk in bytes. For a folder, the size of the weights that are loaded.
        native_size: The training resolution as ``WIDTHxHEIGHT``; None if the files do not say.
    """

    path: Path
    format: str
    dtypes: tuple[str, ...]
    parameters: int
    size: int
    native_size: str | None
