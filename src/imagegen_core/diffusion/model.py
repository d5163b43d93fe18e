"""A loaded diffusers pipeline with its device, and the decisions of its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imagegen_core.backend import Backend
from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.decoding import decode_picture
from imagegen_core.diffusion.device import release_buffers
from imagegen_core.diffusion.extension import Extension
from imagegen_core.diffusion.guidance import ClassifierFreeGuidance
from imagegen_core.diffusion.libraries import quiet
from imagegen_core.diffusion.loading import check_fits_in_memory, load_pipeline, memory_for
from imagegen_core.diffusion.memory import token_bytes
from imagegen_core.diffusion.memory_planning import checkpoint_plan
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.networks import WeightsForm
from imagegen_core.diffusion.numerics import numerics_plan
from imagegen_core.diffusion.on_device import OnDevice
from imagegen_core.diffusion.pipeline_setup import has_channels_last, prepare
from imagegen_core.diffusion.prediction import check_noise
from imagegen_core.diffusion.residency import Residency
from imagegen_core.diffusion.scheduling import ALIGNED_SIGMAS, dynamic_shift
from imagegen_core.diffusion.stored_weights import store_weights
from imagegen_core.diffusion.tiny_vae import load_decoders
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.diffusion.vae_setup import is_channels_last
from imagegen_core.errors import ModelLoadError, SettingsError
from imagegen_core.importing import import_named, unusable
from imagegen_core.memory_plan import MemoryPlan
from imagegen_core.models.inspect import architecture, native_size
from imagegen_core.numerics import NumericsPlan
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import ResolvedRequest, Size
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from imagegen_core.settings import Settings


class DiffusionModel(OnDevice, ABC):
    """One diffusers pipeline on one device.

    A family's worker names its `backend` description and its diffusers pipeline. It implements `encode` and `predict`.
    Every other method has a default. Override what differs, such as `with_request`, `latents_shape`, `decode`, `check`
    or `load_file`.

    Attributes:
        backend: The description of the worker.
        pipeline_class: The pipeline's class in diffusers, such as ``MyPipeline``.
        pipeline_options: Further arguments of the pipeline, such as components to leave out.
        optional_components: Components that a checkpoint may lack.
        flow_matching: Whether the network predicts the velocity of a flow (https://arxiv.org/abs/2209.03003). If not,
            it predicts noise, a picture or a velocity of diffusion.
        embedding_encoders: The CLIP text encoders whose prompts may name textual-inversion embeddings.
        configs: A folder of configs for single files; several architectures of a family may have a subfolder each, with
            the architecture's name. None for a family without single files.
        aligned_sigmas: The eleven noise levels of the schedule Align Your Steps.
        guidance: The extension for guidance by a negative prompt.
        unread: The beginnings of tensors' names, such as ``unet.`` or ``vae.decoder.``, that a worker computes without
            torch. These tensors are not read: they stay on the meta device, and `prepare` replaces what computes them.
        settings: The worker's settings.
        pipe: The diffusers pipeline.
        decoder: The autoencoder that decodes pictures: ``pipe.vae``, or the tiny VAE of `Settings.fast_decode`.
        device: The pipeline's device.
        dtype: The precision of its weights.
        checkpoint: The file or folder of the weights.
        family: The checkpoint's `imagegen_core.Family`.
        native_size: ``WIDTHxHEIGHT`` of a request without a size.
        numerics: The numerics plan, fixed from the load on.
        memory_plan: The memory plan, fixed from the load on.
        residency: The places of the pipeline's components.
    """

    backend: ClassVar[Backend]
    pipeline_class: ClassVar[str]
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    optional_components: ClassVar[Sequence[str]] = ()
    flow_matching: ClassVar[bool] = True
    embedding_encoders: ClassVar[Sequence[str]] = ()
    configs: ClassVar[Path | None] = None
    aligned_sigmas: ClassVar[Sequence[float]] = ALIGNED_SIGMAS
    guidance: ClassVar[type[Extension]] = ClassifierFreeGuidance
    unread: Collection[str] = ()

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Load the configured checkpoint.

        Args:
            settings: The worker's settings.
            registry: The plugins.

        Raises:
            ModelNotFoundError: The checkpoint does not exist.
            ModelLoadError: The checkpoint is damaged, incomplete, or of another family.
            PluginError: A required library does not import.
            SettingsError: The device or an option is not available here.
        """
        self.settings = settings
        try:
            self.import_libraries()
        except Exception as error:
            raise unusable(f"Backend '{self.backend.name}'", error, f"diffusers:{self.pipeline_class}") from error
        self.checkpoint: Path = resolve_checkpoint(settings, self.backend, registry)
        super().__init__(settings)
        self.family = registry.families[architecture(self.checkpoint, registry)]
        self.native_size = native_size(self.checkpoint, self.backend.default_size, registry)
        self.memory_plan: MemoryPlan
        self.residency: Residency
        self.pipe = self._compute.run(self._load)
        self.decoder, self._preview_decoder = self._compute.run(
            load_decoders, self.pipe, self.checkpoint, self.device, self.dtype, settings
        )
        self.residency.stays(self.decoder, self._preview_decoder)
        self.numerics: NumericsPlan = self.compute(self.plan)

    @classmethod
    def import_libraries(cls) -> None:
        """Import the pipeline with its networks and tokenizers: see `imagegen_core.NeedsLibraries`."""
        make_torchvision_importable()
        with quiet():
            import_named(f"diffusers:{cls.pipeline_class}")

    @abstractmethod
    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Encode a prompt; `with_request` adds the request's other conditions later.

        A family may also have `encode_in_parts`, a generator that does the same. Then a long prompt does not delay
        other requests.

        Args:
            prompt: The prompt.
            clip_skip: The number of last layers to leave out, in addition to the family's usual number.
        """

    @abstractmethod
    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Call ``inputs.network`` in the family's own way, and return its prediction [rows, ...]."""

    @property
    def network(self) -> Any:
        """The pipeline's network for denoising."""
        return getattr(self.pipe, self.family.denoiser)

    @property
    def weights_form(self) -> WeightsForm:
        """The form of the weights that `prepare` expects; in any other form, it converts them."""
        network = has_channels_last(self.device, self.dtype, self.settings)
        vae = is_channels_last(self.device, self.settings)
        channels_last = [name for name, is_so in ((self.family.denoiser, network), ("vae", vae)) if is_so]
        return WeightsForm(self.memory_plan.storage, self.unread, channels_last)

    def load_pipe(self) -> Any:
        """Load the checkpoint's pipeline into the main memory, without the tensors in `unread`.

        Raises:
            ModelLoadError: The checkpoint is damaged, incomplete, or of another family.
        """
        settings = self.settings
        return load_pipeline(
            self.pipeline_class,
            self.checkpoint,
            self.dtype,
            configs=self.file_configs,
            base=settings.base_model,
            vae=settings.vae_path,
            prediction=settings.prediction,
            load_file=self.load_file,
            optional=self.optional_components,
            form=self.weights_form,
            **self.pipeline_options,
        )

    def prepare(self, pipe: Any) -> None:
        """Set a loaded pipeline up for its device, as the settings ask; it runs on the compute thread."""
        prepare(pipe, self.family.denoiser, self.device, self.dtype, self.settings, self.memory_plan)

    def plan(self) -> NumericsPlan:
        """Return the numerics plan of the prepared pipeline; it runs on the compute thread."""
        return numerics_plan(
            self.network,
            self.decoder,
            self.device,
            self.dtype,
            self.settings,
            self.memory_plan,
            self.residency.bytes_with("vae"),
        )

    def check(self, request: ResolvedRequest) -> None:
        """Refuse a request that the family cannot draw; the request's LoRAs are active.

        Raises:
            InvalidRequestError: The family cannot draw it.
        """

    def reason_without_guidance(self, request: ResolvedRequest) -> str | None:
        """Return the reason why a request is drawn without guidance by a negative prompt; None if it is drawn with."""
        return None if request.guidance_scale > 1 else "it needs a guidance scale above 1.0"

    def prompts(self, request: ResolvedRequest) -> dict[str, str]:
        """Return the texts to encode for a request, by their fields."""
        prompts = {"prompt": request.prompt}
        if request.negative_prompt and self.reason_without_guidance(request) is None:
            prompts["negative_prompt"] = request.negative_prompt
        return prompts

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:  # noqa: ARG002
        """Add the conditions of the request's other fields, such as the picture's size; the default adds nothing."""
        return conditioning

    def with_negative_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the conditions to the negative prompt's conditioning; the default adds the same as `with_request`."""
        return self.with_request(conditioning, request)

    def latents_shape(self, size: Size) -> tuple[int, ...]:
        """Return the shape of the latents: [1, channels, height, width], both sides reduced as by the VAE."""
        reduction = self.pipe.vae_scale_factor
        return (1, self.pipe.vae.config.latent_channels, size.height // reduction, size.width // reduction)

    def initial_latents(self, size: Size, generator: torch.Generator) -> Tensor:
        """Draw the noise to begin with, in `latents_shape`, before the scheduler scales it."""
        from diffusers.utils.torch_utils import randn_tensor

        shape = self.latents_shape(size)
        return randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)  # type: ignore[no-any-return]

    def image_tokens(self, size: Size) -> int:
        """Return the number of a picture's tokens in the network."""
        height, width = self.latents_shape(size)[-2:]
        return int(height * width // getattr(self.network.config, "patch_size", 1) ** 2)

    def timestep_options(self, request: ResolvedRequest) -> dict[str, Any]:
        """Return further arguments for the scheduler's ``set_timesteps``: ``mu`` if its shift depends on the size."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return {}
        return {"mu": dynamic_shift(config, self.image_tokens(request.size))}

    def row_bytes(self, size: Size) -> int:
        """Estimate the peak memory of one more row in a forward pass, in bytes."""
        return self._token_bytes * self.image_tokens(size)

    def latent_image(self, latents: Tensor, size: Size) -> Tensor:  # noqa: ARG002 - for families
        """Return latents as [1, channels, height, width], for the fingerprint and previews."""
        return latents

    def decode(self, latents: Tensor, size: Size) -> npt.NDArray[np.uint8]:
        """Decode final latents to pixels [height, width, 3].

        Raises:
            OutOfMemoryError: The device's memory was too small.
        """
        # Both make room before the free memory is looked at.
        if self.decoder is self.pipe.vae:
            self.residency.bring("vae")
        if self.memory_plan.storage is not None:
            release_buffers()
        return decode_picture(self.decoder, latents, size, self.device, self.numerics.tile_of(size))

    def load_file(self, path: Path, vae: Any | None) -> dict[str, Any]:  # noqa: ARG002 - for families
        """Load the pipeline's components from a single file; the default refuses such files.

        Args:
            path: A ``.safetensors`` or ``.ckpt`` file.
            vae: The autoencoder of `Settings.vae_path`, to use instead of the file's own.

        Raises:
            ModelLoadError: The file is damaged, incomplete or of another family.
        """
        raise ModelLoadError(
            f"{path} is a single file, and the backend '{self.backend.name}' draws only diffusers-format folders: "
            "convert it, or take the model's folder"
        )

    @property
    def file_configs(self) -> Path | None:
        """The folder of configs for a single file of the checkpoint's architecture."""
        own = self.configs / self.family.name if self.configs else None
        return own if own and own.is_dir() else self.configs

    def check_folder(self, path: Path) -> None:
        """Refuse a diffusers-format folder that the family cannot draw, before its weights are read.

        Raises:
            ModelLoadError: The family cannot draw it.
        """

    @cached_property
    def _token_bytes(self) -> int:
        return token_bytes(self.network)

    def _load(self) -> Any:
        settings = self.settings
        if self.flow_matching and settings.prediction is not None:
            raise SettingsError(
                f"{settings.source('prediction')}={settings.prediction} does not suit the backend "
                f"'{self.backend.name}', whose networks predict the velocity of a flow: unset it"
            )
        if self.checkpoint.is_dir():
            self.check_folder(self.checkpoint)
        self.memory_plan = self._plan_memory()
        check_fits_in_memory(
            self.checkpoint, self.dtype, self.memory_plan.weights if self.memory_plan.storage else None
        )
        pipe = self.load_pipe()
        check_noise(self.checkpoint, pipe.scheduler, flow_matching=self.flow_matching)
        with memory_for(self.checkpoint):
            if self.memory_plan.storage is not None:  # a family's own `load_file` may have left some
                store_weights(pipe)
            self.residency = Residency(pipe, self.family.denoiser, self.device, self.memory_plan)
            self.prepare(pipe)
        if self.memory_plan.storage is not None:
            release_buffers()
        return pipe

    def _plan_memory(self) -> MemoryPlan:
        size = Size.parse(self.native_size)
        return checkpoint_plan(self.checkpoint, self.family, size, self.device, self.dtype, self.settings)
