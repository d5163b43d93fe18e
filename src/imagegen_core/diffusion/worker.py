"""The base worker of diffusion models: requests with their prompts, LoRAs, samplers and steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from imagegen_core.diffusion.beginnings import Beginnings
from imagegen_core.diffusion.compute_thread import computed
from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.cuda_graphs import graph_cache
from imagegen_core.diffusion.decoding import pool
from imagegen_core.diffusion.denoising import Denoising
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.extension import Extension, LoadedModel
from imagegen_core.diffusion.extension_loading import extension_versions, load_extensions
from imagegen_core.diffusion.graph_cache import GraphCache, is_replayable
from imagegen_core.diffusion.half_drawn import HalfDrawn
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.diffusion.memory import memory_errors, rows_that_fit
from imagegen_core.diffusion.model import DiffusionModel
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.painting import extra_of
from imagegen_core.diffusion.pipeline_setup import compile_errors
from imagegen_core.diffusion.previews import Previewer, TinyPreviewer
from imagegen_core.diffusion.prompt_encoder import PromptEncoder
from imagegen_core.diffusion.proof import prove
from imagegen_core.diffusion.recipe_builder import RecipeBuilder
from imagegen_core.diffusion.scheduling import Schedulers
from imagegen_core.diffusion.shared_weights import SHARED_WEIGHTS
from imagegen_core.diffusion.stage_upscaling import StageUpscaling
from imagegen_core.diffusion.starting_points import StartingPoints
from imagegen_core.diffusion.tiny_vae import is_tiny
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import to_text
from imagegen_core.job import Job, StepDone
from imagegen_core.parts import Parts, after_next, completed
from imagegen_core.picture import Picture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import GenerateRequest, ResolvedRequest
from imagegen_core.resolution.style_catalog import StyleCatalog
from imagegen_core.settings import Settings
from imagegen_core.stepped_worker import SteppedWorkerBase
from imagegen_core.styles import LoraUse

_ENLARGING = "between two stages"  # the group of pictures that an upscaler enlarges
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


class DiffusionWorker(DiffusionModel, SteppedWorkerBase[Denoising]):
    """Draws with one diffusers pipeline on one device; implements `SteppedWorker`, `BatchInvariant` and others.

    A family inherits from this class, and overrides methods of `DiffusionModel`. `UNetWorker` is the base
    of families with a UNet.

    Attributes:
        worker_id: The worker's number in its process.
        styles: All styles, with a refusal for each that does not fit this checkpoint.
        default_sampler: The sampler of a request without a sampler.
        own_scheduler: The facts about the checkpoint's own scheduler.
        lacking: The fields of requests that this checkpoint does not take, beside those of its backend.
    """

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured checkpoint.

        Args:
            worker_id: The worker's number in its process.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The checkpoint does not exist.
            ModelLoadError: The checkpoint is damaged, incomplete, or of another family.
            PluginError: A required library or an extension does not import.
            SettingsError: The device or an option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(self.backend.environment_prefix)
        registry = Registry.discover()
        SteppedWorkerBase.__init__(self, worker_id)
        DiffusionModel.__init__(self, settings, registry)
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
        self._graphs: GraphCache | None = self.compute(
            graph_cache, self.network, self.device, settings, self.memory_plan
        )
        self._adapters = Adapters(
            self.pipe,
            self.family,
            self._embeddings,
            most_idle_bytes=self.residency.most_bytes,
            device=self.device,
            on_unload=self._graphs.forget if self._graphs else None,
        )
        self._prompts = PromptEncoder(self._adapters)
        layers = self._adapters.layers
        model = LoadedModel(self.pipe, self.network, self.family, self.device, self.dtype, settings)
        self._extensions: Sequence[Extension] = self.compute(load_extensions, model, self.guidance, registry)
        versions = extension_versions(self.family.name, registry)
        self.numerics = replace(self.numerics, versions={**self.numerics.versions, **versions})
        self.styles = StyleCatalog(settings, registry, layers.cross_attention_dim, self.family.name, layers)
        self._upscaling = StageUpscaling(settings, registry)
        self.numerics = replace(self.numerics, upscalers=self._upscaling.identities())
        starting_points = StartingPoints(
            self.pipe.vae, partial(self.residency.bring, "vae"), extra_of(model), self.device, self.dtype
        )
        self.lacking = starting_points.lacking
        self._beginnings = Beginnings(
            self._schedulers,
            self._prompts,
            self._adapters,
            self.styles,
            self._extensions,
            starting_points,
            self._upscaling,
        )
        self._recipes = (
            RecipeBuilder(
                self.backend,
                self.checkpoint,
                self.family.denoiser,
                registry.models.values(),
                self.device,
                self.numerics,
                settings.prediction,
                settings.embed_inputs,
            )
            if settings.recipe
            else None
        )
        self._compiles = settings.source("compile") if settings.compile else None

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

    @computed
    @torch.inference_mode()
    def load_loras(self, loras: Sequence[LoraUse]) -> None:
        """Load LoRAs next to the weights, so that unsuitable files are known before the first picture.

        Raises:
            ModelNotFoundError: A LoRA's file does not exist.
            InvalidRequestError: A LoRA cannot be read, or does not fit the network.
        """
        self._adapters.use(tuple(self._beginnings.adapter(lora) for lora in loras))

    def changed_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the network's parameters that the active LoRAs change, for a worker that computes without torch.

        Each item is the parameter's name in the network, and its values with the change, in float32. The network's
        own parameters stay as they are.
        """
        return self._adapters.changed_parameters(self.family.denoiser)

    def memory_bytes(self) -> int:
        """Return the memory of the pipeline's weights, LoRAs, upscalers and graphs, in bytes.

        Tensors that several models of this process share count once: in equal parts for each of the models.
        """
        networks = [part for part in self.pipe.components.values() if isinstance(part, torch.nn.Module)]
        graphs = self._graphs.memory_bytes if self._graphs else 0
        shared = SHARED_WEIGHTS.saved_bytes(networks)
        beside = self._adapters.memory_bytes + self._upscaling.memory_bytes + graphs
        return self.residency.most_bytes - shared + beside

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

    def begin(self, job: Job) -> Denoising:
        """Check the request, encode its prompt and draw its noise.

        Raises:
            InvalidRequestError: The request asks for something impossible.
            OutOfMemoryError: The picture is too large for the device.
        """
        return completed(self.begin_in_parts(job))

    def begin_in_parts(self, job: Job) -> Parts[Denoising]:
        """Begin as `begin` does, one chunk of the prompt at a time: see `imagegen_core.BeginsInParts`."""
        parts = self._beginnings.begin(self, job)
        while (state := self.compute(after_next, parts)) is None:
            yield
        return cast("Denoising", state)

    def group(self, state: Denoising) -> Hashable:
        """Return the size, the LoRAs, the prompt's length and the extensions, equal in a shared forward pass.

        States between two stages have a group of their own, whose steps are parts of enlarging.
        """
        if state.is_between_stages:
            return _ENLARGING
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

        A state between two stages takes one part of the way to its next stage instead.

        Raises:
            OutOfMemoryError: The device's memory was too small; no state has moved.
        """
        if states[0].is_between_stages:
            for state in states:
                self._beginnings.next_stage(self, state)
            self.synchronize()
            return
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            for state, prediction in zip(states, self._predictions(states), strict=True):
                state.advance(prediction)
                self._beginnings.next_stage(self, state)
            self.synchronize()

    @computed
    @torch.inference_mode()
    def trial(self, states: Sequence[Denoising]) -> bool:
        """Take one step of each state alone, and return whether shared passes give the same bits; see `prove`."""
        self._adapters.use(states[0].adapters)
        with memory_errors(states[0].request.size):
            alone, same = prove(self._predictions, states)
        for state, prediction in zip(states, alone, strict=True):
            state.advance(prediction)
            self._beginnings.next_stage(self, state)
        return same

    def rows_that_fit(self, state: Denoising) -> int:
        """Return the rows of a filled pass; of other passes, how many rows the free memory can take."""
        if state.is_between_stages:
            return 1
        size = state.request.size
        weights = self.residency.bytes_with(self.family.denoiser)
        return self.numerics.rows or rows_that_fit(self.row_bytes(size), self.device, self.memory_plan.total, weights)

    @computed
    @torch.inference_mode()
    def preview(self, state: Denoising) -> bytes:
        """Return the latents as a PNG: decoded by a tiny VAE if there is one, else with one pixel for each latent."""
        return encode_png(self._previewer.pixels(self.latent_image(state.latents, state.request.size)), {})

    @computed
    @torch.inference_mode()
    def finish(self, state: Denoising) -> Callable[[], Picture]:
        """Decode a finished state's latents, and return a function that encodes the picture with its recipe.

        Raises:
            OutOfMemoryError: The device's memory was too small.
        """
        request = state.request
        pixels = self.decode(state.latents, request.size)
        latents = pool(self.latent_image(state.latents, request.size))
        asked, canvas = state.asked or request, state.start.canvas if state.start else None
        before = state.before

        def encode() -> Picture:
            pasted = pixels if canvas is None else canvas.pasted(pixels)
            return Picture(encode_png(pasted, self._text(asked, before)), request.seed, latents)

        return encode

    def run_first_part(self, job: Job) -> HalfDrawn:
        """Draw the steps before the refiner: see `imagegen_core.HandsOver`.

        Raises:
            InvalidRequestError: The request asks for something impossible.
        """
        with self._drawing:
            return self._ended(replace(job, is_first_part=True), self.hand_over)

    @computed
    @torch.inference_mode()
    def hand_over(self, state: Denoising) -> HalfDrawn:
        """Return the half-drawn picture of a state whose steps before the refiner are done."""
        request, recipes = state.request, self._recipes
        sampling = self._schedulers.names(request.scheduler, request.schedule)
        recipe = None if recipes is None else partial(recipes.recipe, request, sampling)
        return HalfDrawn.of(state, self.default_sampler, self.pipe, recipe)

    def _text(self, request: ResolvedRequest, before: HalfDrawn | None) -> dict[str, str]:
        if self._recipes is None:
            return {}
        if before is not None:
            return {} if before.recipe is None else to_text(self._recipes.refined(before.recipe(), request.size))
        name = request.hires.upscaler
        upscaler = None if name is None or request.hires.latent_mode else self._upscaling.loaded(name)
        sampling = self._schedulers.names(request.scheduler, request.schedule)
        return to_text(self._recipes.recipe(request, sampling, upscaler))

    def _predictions(self, states: Sequence[Denoising]) -> Sequence[Tensor]:
        """Return the network's prediction for each state's next step [rows, ...], all in one forward pass."""
        filled = self.numerics.rows
        inputs = NetworkInputs.of(self._network(states), states, filled)
        for extension in self._extensions:
            if any(extension in state.parts for state in states):
                extension.before_network(inputs)
        rows = [state.rows for state in states]
        return torch.split(self.predict(inputs)[: sum(rows)], rows)

    def _network(self, states: Sequence[Denoising]) -> Callable[..., Any]:
        """Return the network for a pass, with graphs if no extension changes the pass.

        With LoRAs it is the uncompiled network, because the compiled one ignores their hooks.
        """
        network, adapters = self.network, states[0].adapters
        if self._compiles and adapters:
            return network.forward  # type: ignore[no-any-return]
        if self._graphs and is_replayable(states):
            return partial(self._graphs.call, adapters)
        return network  # type: ignore[no-any-return]

    @cached_property
    def _previewer(self) -> Previewer | TinyPreviewer:
        vae = self._preview_decoder
        return TinyPreviewer(vae) if is_tiny(vae) else Previewer(vae)
