"""Shared code of the Stable Diffusion families: loading, prompts, denoising, decoding; core imports torch only here."""

from imagegen_core.diffusion.conditioning import Conditioning, encode_text, encode_text_in_parts
from imagegen_core.diffusion.decoding import pool
from imagegen_core.diffusion.memory import memory_errors
from imagegen_core.diffusion.on_device import OnDevice
from imagegen_core.diffusion.pretrained import load_pretrained
from imagegen_core.diffusion.worker import DiffusionWorker
from imagegen_core.parts import Parts, completed

__all__ = [
    "Conditioning",
    "DiffusionWorker",
    "OnDevice",
    "Parts",
    "completed",
    "encode_text",
    "encode_text_in_parts",
    "load_pretrained",
    "memory_errors",
    "pool",
]
