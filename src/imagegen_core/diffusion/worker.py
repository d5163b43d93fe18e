"""The base worker of diffusion models; a family adds its network's call and its prompt encoding."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imagegen_core.backend import Backend
from imagegen_core.diffusion.compute_thread import ComputeThread, computed
from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.decoding import decode_within_memory, pool
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.device import choose_device, choose_dtype, keep_large_buffers, limit_threads
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.guidance import ClassifierFreeGuidance
from imagegen_core.diffusion.libraries import quiet
from imagegen_core.diffusion.loading import check_fits_in_memory, load_pipeline, memory_for
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.diffusion.memory import (
    check_fits,
    decoding_bytes,
    device_memory,
    memory_errors,
    rows_that_fit,
    token_bytes,
    weight_bytes,
)
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.pipeline_setup import compile_errors, prepare
from imagegen_core.diffusion.prediction import check_noise
from imagegen_core.diffusion.previews import Previewer
from imagegen_core.diffusion.prompt_encoder import PromptEncoder
from imagegen_core.diffusion.recipe_builder import RecipeBuilder
from imagegen_core.diffusion.scheduling import ALIGNED_SIGMAS, Schedulers, dynamic_shift
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.errors import InvalidRequestError, ModelLoadError, SettingsError
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import to_text
from imagegen_core.importing import import_named, unusable
from imagegen_core.job import Job, StepDone
from imagegen_core.models.inspect import architecture, native_size
from imagegen_core.parts import Parts, completed
from imagegen_core.picture import Picture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, ResolvedRequest, Size
from imagegen_core.resolution.checkpoints import resolve_checkpoint
from imagegen_core.resolution.style_catalog import StyleCatalog
from imagegen_core.settings import Settings
from imagegen_core.stepped_worker import SteppedWorkerBase
from imagegen_core.styles import LoraUse
from imagegen_core.worker import DeviceMemory, Worker

logger = logging.getLogger(__name__)

_COMPILED_ROWS = (1, 2)  # with a second number of rows, torch compiles for a variable number


class _Group(NamedTuple):
    """The common properties of pictures in one forward pass."""

    size: str
    tokens: int
    adapters: tuple[Adapter, ...]
    extensions: tuple[tuple[str, Hashable], ...]

    def __str__(self) -> str:
        used = [f"{name} {key}" for name, key in self.extensions]
        return ", ".join([self.size, f"{self.tokens} tokens", *map(str, self.adapters), *used])


class DiffusionWorker(SteppedWorkerBase[Denoising]):
    """Draws with one diffusers pipeline on one device; implements `SteppedWorker`, `BatchInvariant` and others.

    A family's worker names its `backend` description and its diffusers pipeline. It implements `encode` and `predict`.
    Every other method has a default. Override what differs, such as `with_request`, `latents_shape`, `decode`, `check`
    or `load_file`. `UNetWorker` is the base of families with a UNet.

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
        worker_id: The worker's number in its process.
        settings: The worker's settings.
        pipe: The diffusers pipeline.
        device: The pipeline's device.
        dtype: The precision of its weights.
        checkpoint: The file or folder of the weights.
        styles: All styles, with a refusal for each that does not fit this checkpoint.
        family: The checkpoint's `imagegen_core.Family`.
        native_size: ``WIDTHxHEIGHT`` of a request without a size.
        default_sampler: The sampler of a request without a sampler.
        own_scheduler: The facts about the checkpoint's own scheduler.
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

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured checkpoint.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The checkpoint does not exist.
            ModelLoadError: The checkpoint is damaged, incomplete, or of another family.
            PluginError: A required library does not import.
            SettingsError: The device or an option is not available here.
        """
        self.settings = settings = (settings or Settings.load()).for_backend(self.backend.environment_prefix)
        super().__init__(worker_id)
        try:
            self.import_libraries()
        except Exception as error:
            raise unusable(f"Backend '{self.backend.name}'", error, f"diffusers:{self.pipeline_class}") from error
        registry = Registry.discover()
        self.checkpoint: Path = resolve_checkpoint(settings, self.backend, registry)
        limit_threads()
        self.device = choose_device(settings)
        self.dtype = choose_dtype(settings, self.device)
        self.family = registry.families[architecture(self.checkpoint, registry)]
        self.native_size = native_size(self.checkpoint, self.backend.default_size, registry)
        self._compute = ComputeThread()
        self.pipe = self._compute.run(self._load, settings)
        self._schedulers = Schedulers(
            self.pipe.scheduler,
            registry.samplers.values(),
            settings.scheduler if settings.source("scheduler") != "default" else self.family.default_sampler,
            self.aligned_sigmas,
        )
        self.default_sampler, self.own_scheduler = self._schedulers.default, self._schedulers.own
        self._embeddings: Embeddings = self.compute(
            Embeddings, self.pipe, self.embedding_encoders, settings.embeddings_root, settings.source("embeddings_root")
        )
        self._weights = weight_bytes(self.pipe)
        self._adapters = Adapters(self.pipe, self._embeddings, most_idle_bytes=self._weights)
        self._prompts = PromptEncoder(self._adapters)
        layers = self._adapters.layers
        self._extensions: Sequence[Extension] = self.compute(self._load_extensions, registry)
        self.styles = StyleCatalog(settings, registry, layers.cross_attention_dim, self.family.name, layers)
        self._recipes = (
            RecipeBuilder(
                self.backend,
                self.checkpoint,
                self.family.denoiser,
                registry.models.values(),
                self.dtype,
                self.device,
                settings.prediction,
            )
            if settings.recipe
            else None
        )
        self._compiles = settings.source("compile") if settings.compile else None
        self._padded_rows: int | None = None

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

    def check(self, request: ResolvedRequest) -> None:
        """Refuse a request that the family cannot draw; the request's LoRAs are active.

        Raises:
            InvalidRequestError: The family cannot draw it.
        """

    def reason_without_guidance(self, request: ResolvedRequest) -> str | None:
        """Return the reason why a request is drawn without guidance by a negative prompt; None if it is drawn with."""
        return None if request.guidance_scale > 1 else "it needs a guidance scale above 1.0"

    @property
    def embeddings(self) -> Embeddings:
        """The textual-inversion embeddings for prompts, from the folder and from active LoRAs."""
        return self._embeddings.with_bundled(self._adapters.embeddings)

    @property
    def embedding_sizes(self) -> dict[str, tuple[int, int]]:
        """The number and width of each embedding's vectors, by name; only the folder's embeddings."""
        return self._embeddings.sizes

    def encode_absent(self, clip_skip: int) -> Conditioning:
        """Encode the replacement for a missing negative prompt."""
        return completed(self._prompts.encode_one(self, "", clip_skip))

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:  # noqa: ARG002
        """Add the conditions of the request's other fields, such as the picture's size; the default adds nothing."""
        return conditioning

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
        return height * width // getattr(self.network.config, "patch_size", 1) ** 2  # type: ignore[no-any-return]

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
            OutOfMemoryError: The device's memory was too small, even for tiles.
        """
        return decode_within_memory(self.pipe, latents, size, self.device)

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

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function` on the model's compute thread: see `imagegen_core.HasComputeThread`."""
        return self._compute.run(undisturbed, function, *arguments)

    @computed
    @torch.inference_mode()
    def load_loras(self, loras: Sequence[LoraUse]) -> None:
        """Load LoRAs next to the weights, so that unsuitable files are known before the first picture.

        Raises:
            ModelNotFoundError: A LoRA's file does not exist.
            InvalidRequestError: A LoRA cannot be read, or does not fit the network.
        """
        self._adapters.use(tuple(self._lora(lora) for lora in loras))

    def memory_bytes(self) -> int:
        """Return the memory of the pipeline's weights and LoRAs, in bytes; shared tensors count once."""
        return self._weights + self._adapters.memory_bytes

    def device_memory(self) -> DeviceMemory:
        """Return the device's name, and its total and free memory."""
        return device_memory(self.device)

    def compute_beside(self, other: Worker) -> None:
        """Use another worker's compute thread from now on, if both are on one device; no drawing may run meanwhile."""
        if isinstance(other, DiffusionWorker) and other.device == self.device:
            self._compute = other._compute  # noqa: SLF001 - the same class

    @computed
    @torch.inference_mode()
    def warm_up(self, on_step: Callable[[StepDone], None] | None = None) -> None:
        """Compile the network at the native size, if the configuration asks for it.

        Raises:
            SettingsError: The network cannot be compiled here.
        """
        if not self._compiles:
            return
        request = GenerateRequest(prompt="a test", num_inference_steps=1)
        with compile_errors(self._compiles):
            for number, rows in enumerate(_COMPILED_ROWS, start=1):
                self.step([self.begin(Job(req=request)) for _ in range(rows)])
                if on_step:
                    on_step(StepDone(number, len(_COMPILED_ROWS)))

    @computed
    @torch.inference_mode()
    def begin(self, job: Job) -> Denoising:
        """Check the request, encode its prompt and draw its noise.

        Raises:
            InvalidRequestError: The request asks for something impossible.
            OutOfMemoryError: The picture is too large for the device.
        """
        return completed(self._begun(job))

    def begin_in_parts(self, job: Job) -> Parts[Denoising]:
        """Begin as `begin` does, one chunk of the prompt at a time: see `imagegen_core.BeginsInParts`."""
        parts = self._begun(job)
        while (state := self.compute(_after_next, parts)) is None:
            yield
        return cast("Denoising", state)

    @torch.inference_mode()
    def _begun(self, job: Job) -> Parts[Denoising]:
        request = self.backend.resolve(job.req, self.native_size)
        needed = self.row_bytes(request.size) + decoding_bytes(self.pipe, request.size)
        check_fits(needed, request.size, self.device, self._weights)
        adapters = self._wanted(request)
        options = self.timestep_options(request)
        scheduler = self._schedulers.make(request.scheduler, request.steps, self.device, request.schedule, options)
        step_options = self._schedulers.step_options(request.scheduler, scheduler, request.step_options)
        conditionings = yield from self._prompts.encode(self, request, adapters)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        latents = self.initial_latents(request.size, generator)
        if hasattr(scheduler, "init_noise_sigma"):  # flow-matching schedulers begin with plain noise
            latents = latents * scheduler.init_noise_sigma
        state = Denoising(
            request=request,
            scheduler=scheduler,
            generator=generator,
            latents=latents,
            conditionings=tuple(self.with_request(conditioning, request) for conditioning in conditionings),
            adapters=adapters,
            step_options=step_options,
            on_step=getattr(job, "on_step", None),
        )
        for extension in self._extensions:
            if (part := extension.begin(state)) is not None:
                state.parts[extension] = part
        return state

    def group(self, state: Denoising) -> Hashable:
        """Return the size, the LoRAs, the prompt's length and the extensions, equal in a shared forward pass."""
        shares = self.settings.batching == "fast"
        keys = [
            (extension.name, extension.group(part) if extension.exact or shares else f"alone {id(state)}")
            for extension, part in state.parts.items()
        ]
        used = tuple((name, key) for name, key in keys if key is not None)
        return _Group(str(state.request.size), state.conditionings[0].tokens.shape[1], state.adapters, used)

    @computed
    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> None:
        """Take one denoising step of each state, all in one forward pass; the states are of one group.

        Raises:
            OutOfMemoryError: The device's memory was too small; no state has moved.
        """
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            for state, prediction in zip(states, self._predictions(states), strict=True):
                state.advance(prediction)
            self._synchronize()

    @computed
    @torch.inference_mode()
    def trial(self, states: Sequence[Denoising]) -> bool:
        """Take one step of each state alone, and return whether a shared pass gives the same bits."""
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            together = self._predictions(states)
            alone = [self._predictions([state])[0] for state in states]
        for state, prediction in zip(states, alone, strict=True):
            state.advance(prediction)
        # NaN equals no value, not even itself. So a state with values that are not finite proves nothing about the
        # others.
        finite = [(shared, single) for shared, single in zip(together, alone, strict=True) if single.isfinite().all()]
        return bool(finite) and all(torch.equal(*pair) for pair in finite)

    def pad(self, rows: int | None) -> None:
        """Fill every forward pass up to `rows` from now on; None stops it."""
        self._padded_rows = rows

    def rows_that_fit(self, state: Denoising) -> int:
        """Return how many rows of this state's size a forward pass can have in the free memory."""
        return rows_that_fit(self.row_bytes(state.request.size), self.device)

    @computed
    @torch.inference_mode()
    def preview(self, state: Denoising) -> bytes:
        """Return the latents as a PNG with one pixel for each latent; see `Previewer`."""
        return encode_png(self._previewer.pixels(self.latent_image(state.latents, state.request.size)), {})

    @computed
    @torch.inference_mode()
    def finish(self, state: Denoising) -> Callable[[], Picture]:
        """Decode a finished state's latents, and return a function that encodes the picture with its recipe.

        Raises:
            OutOfMemoryError: The device's memory was too small, even for tiles.
        """
        request = state.request
        pixels = self.decode(state.latents, request.size)
        latents = pool(self.latent_image(state.latents, request.size))
        return lambda: Picture(encode_png(pixels, self._text(request)), request.seed, latents)

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        if self._recipes is None:
            return {}
        return to_text(self._recipes.recipe(request, self._schedulers.names(request.scheduler, request.schedule)))

    def _load_extensions(self, registry: Registry) -> list[Extension]:
        model = LoadedModel(self.pipe, self.network, self.family, self.device, self.dtype, self.settings)
        name = self.family.name
        offered = [offer for offer in registry.extensions.values() if name in (offer.architectures or (name,))]
        extensions = [self.guidance(model), *(offer.load(model) for offer in offered)]
        return sorted(extensions, key=lambda extension: extension.order)

    def _wanted(self, request: ResolvedRequest) -> tuple[Adapter, ...]:
        loras = tuple(self._lora(lora) for lora in request.loras)
        if request.style is None:
            return loras
        return (*loras, Adapter.of_style(self.styles.usable(request.style), request.style_level))

    def _lora(self, lora: LoraUse) -> Adapter:
        adapter = Adapter.of_lora(lora)
        if not self._adapters.has(adapter) and (refusal := self.styles.refusal(lora.path)):
            raise InvalidRequestError(f"The {adapter.title} cannot be used: {refusal}")
        return adapter

    def _predictions(self, states: Sequence[Denoising]) -> Sequence[Tensor]:
        """Return the network's prediction for each state's next step [rows, ...], all in one forward pass."""
        inputs = NetworkInputs.of(self._network(states), states, self._padded_rows)
        for extension in self._extensions:
            if any(extension in state.parts for state in states):
                extension.before_network(inputs)
        rows = [state.rows for state in states]
        return torch.split(self.predict(inputs)[: sum(rows)], rows)

    def _network(self, states: Sequence[Denoising]) -> Callable[..., Any]:
        """Return the network; with LoRAs the uncompiled network, because the compiled one ignores their hooks."""
        network = self.network
        return network.forward if self._compiles and states[0].adapters else network  # type: ignore[no-any-return]

    @cached_property
    def _token_bytes(self) -> int:
        return token_bytes(self.network)

    @cached_property
    def _previewer(self) -> Previewer:
        return Previewer(self.pipe.vae)

    def _synchronize(self) -> None:
        """Wait for the device, so that a returned step is complete: it can be timed, and cancelled in time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the worker's own device, not torch's default device
        elif self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def _load(self, settings: Settings) -> Any:
        if self.flow_matching and settings.prediction is not None:
            raise SettingsError(
                f"{settings.source('prediction')}={settings.prediction} does not suit the backend "
                f"'{self.backend.name}', whose networks predict the velocity of a flow: unset it"
            )
        if self.device.type == "cpu":
            keep_large_buffers()
        check_fits_in_memory(self.checkpoint, self.dtype)
        if self.checkpoint.is_dir():
            self.check_folder(self.checkpoint)
        pipe = load_pipeline(
            self.pipeline_class,
            self.checkpoint,
            self.dtype,
            configs=self.file_configs,
            base=settings.base_model,
            vae=settings.vae_path,
            prediction=settings.prediction,
            load_file=self.load_file,
            optional=self.optional_components,
            **self.pipeline_options,
        )
        check_noise(self.checkpoint, pipe.scheduler, flow_matching=self.flow_matching)
        with memory_for(self.checkpoint):
            prepare(pipe, getattr(pipe, self.family.denoiser), self.device, self.dtype, settings)
        return pipe


def _after_next(parts: Parts[Denoising]) -> Denoising | None:
    """Run the next part; return the state after the last part, and None after others.

    A `StopIteration` from another thread would stay alive through its own traceback, and with it the state.
    """
    try:
        next(parts)
    except StopIteration as end:
        state: Denoising = end.value
        return state
    return None
