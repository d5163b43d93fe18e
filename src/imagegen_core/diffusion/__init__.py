"""Shared code of diffusion models: loading, prompts, denoising, decoding; core imports torch only here."""

from imagegen_core.diffusion.batch_invariance import make_rowwise
from imagegen_core.diffusion.conditioning import Conditioning, TextEmbedding, encode_text, encode_text_in_parts
from imagegen_core.diffusion.decoding import pool
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.file_components import load_components
from imagegen_core.diffusion.guidance import ClassifierFreeGuidance
from imagegen_core.diffusion.memory import memory_errors
from imagegen_core.diffusion.model import DiffusionModel
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.networks import WeightsForm
from imagegen_core.diffusion.numerics import device_numerics
from imagegen_core.diffusion.on_device import OnDevice
from imagegen_core.diffusion.pretrained import load_pretrained, pipeline_class
from imagegen_core.diffusion.prompt_checks import check_clip_skip, check_prompt_length, check_t5_length
from imagegen_core.diffusion.size_checks import check_multiples
from imagegen_core.diffusion.t5 import encode_t5, t5_length
from imagegen_core.diffusion.unet_worker import UNetWorker
from imagegen_core.diffusion.worker import DiffusionWorker
from imagegen_core.models.networks.source import Layers
from imagegen_core.parts import Parts, completed

__all__ = [
    "ClassifierFreeGuidance",
    "Conditioning",
    "Denoising",
    "DiffusionModel",
    "DiffusionWorker",
    "Extension",
    "Layers",
    "LoadedModel",
    "NetworkInputs",
    "OnDevice",
    "Parts",
    "TextEmbedding",
    "UNetWorker",
    "WeightsForm",
    "check_clip_skip",
    "check_multiples",
    "check_prompt_length",
    "check_t5_length",
    "completed",
    "device_numerics",
    "encode_t5",
    "encode_text",
    "encode_text_in_parts",
    "load_components",
    "load_pretrained",
    "make_rowwise",
    "memory_errors",
    "pipeline_class",
    "pool",
    "t5_length",
]
