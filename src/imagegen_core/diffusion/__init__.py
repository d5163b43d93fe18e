"""Shared code of diffusion models: loading, prompts, denoising, decoding; core imports torch only here."""

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.conditioning import Conditioning, encode_text, encode_text_in_parts
from imagegen_core.diffusion.decoding import pool
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.guidance import ClassifierFreeGuidance
from imagegen_core.diffusion.memory import memory_errors
from imagegen_core.diffusion.model import DiffusionModel
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.on_device import OnDevice
from imagegen_core.diffusion.pretrained import load_pretrained
from imagegen_core.diffusion.prompt_checks import check_clip_skip, check_prompt_length
from imagegen_core.diffusion.unet_worker import UNetWorker
from imagegen_core.diffusion.worker import DiffusionWorker
from imagegen_core.parts import Parts, completed

__all__ = [
    "ClassifierFreeGuidance",
    "Conditioning",
    "Denoising",
    "DiffusionModel",
    "DiffusionWorker",
    "Extension",
    "LoadedModel",
    "NetworkInputs",
    "OnDevice",
    "Parts",
    "UNetWorker",
    "check_clip_skip",
    "check_prompt_length",
    "completed",
    "encode_text",
    "encode_text_in_parts",
    "load_pretrained",
    "make_rowwise",
    "memory_errors",
    "pool",
]
