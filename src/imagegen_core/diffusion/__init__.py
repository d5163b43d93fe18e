"""Shared code of the Stable Diffusion families: loading, prompts, denoising, decoding; core imports torch only here."""

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.conditioning import Conditioning, encode_text, encode_text_in_parts
from imagegen_core.diffusion.worker import DiffusionWorker
from imagegen_core.parts import Parts, completed

__all__ = [
    "Conditioning",
    "DiffusionWorker",
    "Parts",
    "completed",
    "encode_text",
    "encode_text_in_parts",
    "make_rowwise",
]
