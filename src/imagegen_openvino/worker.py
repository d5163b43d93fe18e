"""The workers: torch's workers of the families, with the UNet and the VAE's decoder in OpenVINO."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from imagegen_core import GenerateRequest, Job, NumericsPlan, Registry, Settings, SettingsError, Size, checkpoint_family
from imagegen_core.diffusion import NetworkInputs, UNetWorker
from imagegen_openvino.checkpoint_files import digest_of, unet_files, vae_files
from imagegen_openvino.constants import give_weights
from imagegen_openvino.conversion import converted_decoder, converted_unet
from imagegen_openvino.input_ranges import InputRanges
from imagegen_openvino.network_cache import NetworkCache
from imagegen_openvino.plugin import BACKEND
from imagegen_openvino.runtime import Runtime, versions
from imagegen_openvino.unet import DTYPES, OpenVinoDecoder, OpenVinoUNet
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

_TORCHS_OWN = (
    "compile",
    "enable_xformers",
    "attention_slicing",
    "vae_channels_last",
    "cuda_graphs",
    "memory",
    "weight_storage",
)
# Few steps show all noise levels. Guidance shows the network without a prompt, too.
_TRIAL_PROMPTS = ("a portrait of a woman", "a mountain lake at sunset", "a table with fruit, flowers and a book")
_TRIAL_STEPS, _TRIAL_GUIDANCE, _TRIAL_SIDE = 4, 5.0, 512
_UNET, _DECODER, _OTHERS = "unet.", "vae.decoder.", ("text_encoder", "vae.encoder.")


class OpenVinoUNetWorker(UNetWorker):
    """Draws with a UNet and a VAE decoder that OpenVINO computes; all else is the family's worker in torch.

    A network is converted once, and kept in the user's cache folder. Later starts map it from there, and do not read
    the checkpoint's own tensors.
    """

    backend = BACKEND
    unread: tuple[str, ...] = (_UNET, _DECODER)

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured checkpoint.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The checkpoint does not exist.
            ModelLoadError: The checkpoint is damaged, incomplete, or of another family, or the cache cannot be written.
            SettingsError: The device, the precision or an option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(BACKEND.environment_prefix).for_device()
        for field in _TORCHS_OWN:
            if getattr(settings, field):
                raise SettingsError(f"{settings.source(field)} is for torch, and the backend is 'openvino': unset it")
        self._runtime = Runtime(settings)
        self._cache = NetworkCache()
        own = {"device": "cpu", "dtype": self._runtime.precision, "weight_storage": "full"}
        super().__init__(worker_id, settings.override(**own))
        if self.settings.int8:
            self._learn_ranges()

    def prepare(self, pipe: Any) -> None:
        """Convert the UNet and the VAE's decoder, or read the converted networks, and compile them."""
        self._set_vae_precision(pipe.vae)
        unet = self._origin("unet", digest_of(unet_files(self.checkpoint), self._cache.hashes), pipe.unet)
        vae = self._origin("vae", digest_of(vae_files(self.checkpoint, self.settings), self._cache.hashes), pipe.vae)
        self._origins = (unet, vae)
        network = self._cache.network(self._runtime.core, unet, self._convert_unet)
        give_weights(pipe.unet, network)
        decoder = self._cache.network(self._runtime.core, vae, self._convert_decoder)
        self._ranges = [
            InputRanges(self._cache.ranges(origin)) if self.settings.int8 else None for origin in self._origins
        ]
        self._unet = OpenVinoUNet(self._runtime, network, pipe.unet, self._ranges[0])
        dtype = next(pipe.vae.decoder.parameters()).dtype
        self._decoder = OpenVinoDecoder(self._runtime, decoder, dtype, self._ranges[1])
        pipe.unet.forward, pipe.vae.decoder.forward = self._unet, self._decoder

    def plan(self) -> NumericsPlan:
        """Return torch's plan, with OpenVINO's device and version."""
        plan, runtime = super().plan(), self._runtime
        return replace(
            plan,
            device=runtime.device.lower(),
            processor=runtime.processor,
            threads=runtime.threads,
            layout="openvino",
            attention="openvino",
            storage=None,
            flags={**plan.flags, "openvino": True},
            versions={**plan.versions, **versions()},
        )

    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Call the UNet with the request's LoRAs."""
        self._unet.use(inputs.states[0].adapters, self.changed_parameters)
        return super().predict(inputs)

    def memory_bytes(self) -> int:
        """Return the memory of the weights, in bytes; each further network is another copy of the UNet."""
        copy: int = sum(parameter.nbytes for parameter in self.pipe.unet.parameters())
        return super().memory_bytes() + self._unet.further * copy

    def _learn_ranges(self) -> None:
        """Draw trial pictures if the ranges for int8 are unknown, and compile the networks again."""
        learned = [ranges for ranges in self._ranges if ranges is not None]
        if all(ranges.complete for ranges in learned):
            return
        native = Size.parse(self.native_size)
        side = min(_TRIAL_SIDE, native.width, native.height)
        for seed, prompt in enumerate(_TRIAL_PROMPTS):
            request = GenerateRequest(
                prompt=prompt,
                size=f"{side}x{side}",
                num_inference_steps=_TRIAL_STEPS,
                guidance_scale=_TRIAL_GUIDANCE,
                seed=seed,
            )
            self.run_job(Job(req=request))
        networks: tuple[OpenVinoUNet | OpenVinoDecoder, ...] = (self._unet, self._decoder)
        for ranges, origin, network in zip(learned, self._origins, networks, strict=True):
            ranges.complete = True
            self._cache.keep_ranges(origin, ranges.limits)
            self.compute(network.recompile)

    def _set_vae_precision(self, vae: Any) -> None:
        """Give the VAE its configured precision, else fp32 if it overflows in fp16 by its config."""
        if self.settings.vae_dtype is not None:
            torch.nn.Module.to(vae, DTYPES[self.settings.vae_dtype])
        elif self.dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            torch.nn.Module.to(vae, torch.float32)

    def _origin(self, network: str, digest: str, module: Any) -> dict[str, Any]:
        """Return all that decides a converted network."""
        config = {name: value for name, value in module.config.items() if not name.startswith("_")}
        return {
            "network": network,
            "sha256": digest,
            "config": config,
            "precision": str(self.dtype),
            "for_cpu": self._runtime.is_cpu,
            "versions": versions(),
        }

    def _convert_unet(self) -> AbstractContextManager[Any]:
        return converted_unet(self._load_without(_DECODER, *_OTHERS).unet, for_cpu=self._runtime.is_cpu)

    def _convert_decoder(self) -> AbstractContextManager[Any]:
        vae = self._load_without(_UNET, *_OTHERS).vae
        return converted_decoder(vae.decoder, vae.config.latent_channels, for_cpu=self._runtime.is_cpu)

    def _load_without(self, *unread: str) -> Any:
        self.unread = unread
        try:
            return self.load_pipe()
        finally:
            del self.unread  # the class has its own


class OpenVinoStableDiffusionWorker(OpenVinoUNetWorker, DiffusersCudaWorker):
    """Draws with a Stable Diffusion 1.x or 2.x checkpoint."""


class OpenVinoStableDiffusionXLWorker(OpenVinoUNetWorker, DiffusersSDXLCudaWorker):
    """Draws with a Stable Diffusion XL checkpoint."""


def make_worker(worker_id: int = 0, settings: Settings | None = None) -> OpenVinoUNetWorker:
    """Load the configured checkpoint with the worker of its family.

    Args:
        worker_id: The worker's number in its process.
        settings: The configuration; None reads the environment and ``imagegen.toml``.

    Raises:
        ImagegenError: See `OpenVinoUNetWorker`.
    """
    settings = (settings or Settings.load()).for_backend(BACKEND.environment_prefix)
    family = checkpoint_family(settings, BACKEND, Registry.discover())
    worker = OpenVinoStableDiffusionXLWorker if family.name == "sdxl" else OpenVinoStableDiffusionWorker
    return worker(worker_id, settings)
