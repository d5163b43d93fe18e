"""The base worker of the Stable Diffusion families; a family adds its prompt encoding."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch

from imagegen_core.backend import Backend
from imagegen_core.diffusion.compute_thread import ComputeThread, computed
from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.construction_lock import undisturbed
from imagegen_core.diffusion.decoding import decode_within_memory, pool
from imagegen_core.diffusion.denoising import Denoising, advance, predict, step_together
from imagegen_core.diffusion.device import choose_device, choose_dtype, keep_large_buffers, limit_threads
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.guidance import guidance_embedding
from imagegen_core.diffusion.libraries import quiet
from imagegen_core.diffusion.loading import check_fits_in_memory, load_pipeline, memory_for
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.diffusion.memory import check_fits, device_memory, memory_errors, rows_that_fit, weight_bytes
from imagegen_core.diffusion.pipeline_setup import compile_errors, prepare
from imagegen_core.diffusion.previews import Previewer
from imagegen_core.diffusion.prompt_encoder import PromptEncoder
from imagegen_core.diffusion.recipe_builder import RecipeBuilder
from imagegen_core.diffusion.scheduling import ALIGNED_SIGMAS, Schedulers
from imagegen_core.diffusion.torchvision import make_torchvision_importable
from imagegen_core.errors import InvalidRequestError
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

    def __str__(self) -> str:
        return ", ".join([self.size, f"{self.tokens} tokens", *map(str, self.adapters)])


class DiffusionWorker(SteppedWorkerBase[Denoising]):
    """Draws with one diffusers pipeline on one device; implements `SteppedWorker`, `BatchInvariant` and others.

    A family names its `backend` description, its diffusers pipeline, and a folder of configs for single files. It
    implements `encode`. A family with several architectures may have a subfolder of configs for each, with the
    architecture's name. A family may name the eleven noise levels of the schedule Align Your Steps.

    Attributes:
        worker_id: The worker's number in its process.
        pipe: The diffusers pipeline, with ``text_encoder``, ``unet``, ``vae`` and the family's own components.
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
    configs: ClassVar[Path]
    aligned_sigmas: ClassVar[Sequence[float]] = ALIGNED_SIGMAS

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
        settings = (settings or Settings.load()).for_backend(self.backend.environment_prefix)
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
            Embeddings, self.pipe, settings.embeddings_root, settings.source("embeddings_root")
        )
        self._weights = weight_bytes(self.pipe)
        self._adapters = Adapters(self.pipe, self._embeddings, most_idle_bytes=self._weights)
        self._prompts = PromptEncoder(self.pipe, self._adapters, settings.max_prompt_chunks)
        layers = self._adapters.layers
        self.styles = StyleCatalog(settings, registry, layers.cross_attention_dim, self.family.name, layers)
        self._recipes = (
            RecipeBuilder(
                self.backend,
                self.checkpoint,
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
        """Encode a prompt with `encode_text` and `embeddings`; `sized` adds the picture's size later.

        A family may also have `encode_in_parts`, a generator that does the same with `encode_text_in_parts`. Then a
        long prompt does not delay other requests.

        Args:
            prompt: The prompt.
            clip_skip: The number of last layers to leave out, in addition to the family's usual number.
        """

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

    def sized(self, conditioning: Conditioning, size: Size) -> Conditioning:  # noqa: ARG002 - for families
        """Add the picture's size to the conditioning; the default adds nothing."""
        return conditioning

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
        check_fits(self.pipe, request.size, self.device, self._weights)
        adapters = self._wanted(request)
        scheduler = self._schedulers.make(request.scheduler, request.steps, self.device, request.schedule)
        step_options = self._schedulers.step_options(request.scheduler, scheduler, request.step_options)
        conditionings = yield from self._prompts.encode(self, request, adapters)
        guidance = guidance_embedding(self.pipe, request.guidance_scale)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        return Denoising(
            request=request,
            scheduler=scheduler,
            generator=generator,
            latents=self._noise(request.size, generator) * scheduler.init_noise_sigma,
            conditionings=tuple(self.sized(conditioning, request.size) for conditioning in conditionings),
            adapters=adapters,
            guidance_embedding=None if guidance is None else guidance.to(self.device, self.dtype),
            step_options=step_options,
            on_step=getattr(job, "on_step", None),
        )

    def group(self, state: Denoising) -> Hashable:
        """Return the size, the LoRAs and the prompt's length, which must be equal in a shared forward pass."""
        return _Group(str(state.request.size), state.conditionings[0].tokens.shape[1], state.adapters)

    @computed
    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> None:
        """Take one denoising step of each state, all in one forward pass; the states are of one group.

        Raises:
            OutOfMemoryError: The device's memory was too small; no state has moved.
        """
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            step_together(self._network(states), states, self._padded_rows)
            self._synchronize()

    @computed
    @torch.inference_mode()
    def trial(self, states: Sequence[Denoising]) -> bool:
        """Take one step of each state alone, and return whether a shared pass gives the same bits."""
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            network = self._network(states)
            together = predict(network, states, self._padded_rows)
            alone = [predict(network, [state], self._padded_rows)[0] for state in states]
        for state, prediction in zip(states, alone, strict=True):
            advance(state, prediction)
        # NaN equals no value, not even itself. So a state with values that are not finite proves nothing about the
        # others.
        finite = [(shared, single) for shared, single in zip(together, alone, strict=True) if single.isfinite().all()]
        return bool(finite) and all(torch.equal(*pair) for pair in finite)

    def pad(self, rows: int | None) -> None:
        """Fill every forward pass up to `rows` from now on; None stops it."""
        self._padded_rows = rows

    def rows_that_fit(self, state: Denoising) -> int:
        """Return how many rows of this state's size a forward pass can have in the free memory."""
        return rows_that_fit(self.pipe, state.request.size, self.device)

    @computed
    @torch.inference_mode()
    def preview(self, state: Denoising) -> bytes:
        """Return the latents as a PNG with one pixel for each latent; see `Previewer`."""
        return encode_png(self._previewer.pixels(state.latents), {})

    @computed
    @torch.inference_mode()
    def finish(self, state: Denoising) -> Callable[[], Picture]:
        """Decode a finished state's latents, and return a function that encodes the picture with its recipe.

        Raises:
            OutOfMemoryError: The device's memory was too small, even for tiles.
        """
        pixels = decode_within_memory(self.pipe, state.latents, state.request.size, self.device)
        latents = pool(state.latents)
        return lambda: Picture(encode_png(pixels, self._text(state.request)), state.request.seed, latents)

    def _text(self, request: ResolvedRequest) -> dict[str, str]:
        if self._recipes is None:
            return {}
        return to_text(self._recipes.recipe(request, self._schedulers.names(request.scheduler, request.schedule)))

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

    def _network(self, states: Sequence[Denoising]) -> Callable[..., Any]:
        """Return the UNet; with LoRAs the uncompiled UNet, because the compiled one ignores their hooks."""
        unet = self.pipe.unet
        return unet.forward if self._compiles and states[0].adapters else unet  # type: ignore[no-any-return]

    @cached_property
    def _previewer(self) -> Previewer:
        return Previewer(self.pipe.vae)

    def _synchronize(self) -> None:
        """Wait for the device, so that a returned step is complete: it can be timed, and cancelled in time."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the worker's own device, not torch's default device
        elif self.device.type != "cpu":
            getattr(torch, self.device.type).synchronize()

    def _noise(self, size: Size, generator: torch.Generator) -> torch.Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        scale = self.pipe.vae_scale_factor
        shape = (1, self.pipe.unet.config.in_channels, size.height // scale, size.width // scale)
        return randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)  # type: ignore[no-any-return]

    def _load(self, settings: Settings) -> Any:
        if self.device.type == "cpu":
            keep_large_buffers()
        check_fits_in_memory(self.checkpoint, self.dtype)
        own = self.configs / self.family.name
        pipe = load_pipeline(
            self.pipeline_class,
            self.checkpoint,
            self.dtype,
            family=self.family,
            configs=own if own.is_dir() else self.configs,
            base=settings.base_model,
            vae=settings.vae_path,
            prediction=settings.prediction,
            **self.pipeline_options,
        )
        with memory_for(self.checkpoint):
            prepare(pipe, self.device, self.dtype, settings)
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
