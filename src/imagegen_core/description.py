"""The description of a model: its kind, family and size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = "folder"
PLAIN_FORMATS = (FOLDER, "safetensors", "gguf", "torch", "torch-legacy")
"""The formats that imagegen reads itself: diffusers-format folders and weights files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The kind and the family of a set of tensors, read from their names and shapes.

    Attributes:
        kind: ``checkpoint``, ``vae``, ``tiny-vae``, ``text-encoder``, ``lora``, ``embedding`` or ``upscaler``; for a
            denoising network alone the component's name, such as ``unet``.
        layout: The naming scheme of its tensors: a key of `Family.layouts`. For a LoRA ``kohya``, ``diffusers`` or
            ``peft``; for a text encoder ``ldm``, ``transformers`` or ``open_clip``; for an upscaler its architecture;
            for an embedding ``a1111``, ``diffusers`` or ``clip_l and clip_g``; for a tiny VAE ``taesd``,
            ``taesd-half``, ``comfyui`` or ``diffusers``.
        family: The name of its `Family`; None if unknown.
        cross_attention_dim: The width of the prompt embeddings that the denoising network takes. For a LoRA, the width
            of its network; for an embedding, its own width; None if unknown.
        input_channels: The number of channels that the network takes, such as 4, or 9 for inpainting.
        algorithm: For a LoRA ``lora``, ``dora``, ``loha``, ``lokr`` or another name; else None.
        components: The components in a checkpoint, by their names in ``model_index.json``; the halves in a tiny VAE.
        missing: The components that the family needs and the checkpoint lacks.
    """

    kind: str
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
        format: One of `PLAIN_FORMATS`, or the name of a plugin's `Format`.
        size: The size on disk in bytes. For a folder, the size of the weights that are loaded.
        dtypes: The element types by torch's names, or the quantizations such as ``q8_0``, the most frequent first;
            empty if unknown.
        parameters: The number of elements in all tensors; None if unknown.
        native_size: The training resolution as ``WIDTHxHEIGHT``; None if the files do not say.
    """

    path: Path
    format: str
    size: int
    dtypes: tuple[str, ...] = ()
    parameters: int | None = None
    native_size: str | None = None
