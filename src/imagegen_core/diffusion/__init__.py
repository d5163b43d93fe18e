"""What the Stable Diffusion families share: loading, prompts, denoising, decoding. Torch lives here."""

from imagegen_core.diffusion.conditioning import Conditioning, encode_text
from imagegen_core.diffusion.worker import DiffusionWorker

__all__ = ["Conditioning", "DiffusionWorker", "encode_text"]
