"""The worker that the Stable Diffusion families share; a family adds how it reads prompts."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import torch

from imagegen_core.backend import Backend
from imagegen_core.diffusion.adapters import ActiveStyle, Adapters
from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.decoding import decode, pool, upcast
from imagegen_core.diffusion.denoising import Denoising, step_together
from imagegen_core.diffusion.device import choose_device, choose_dtype, keep_large_buffers
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.loading import load_pipeline, load_vae
from imagegen_core.diffusion.provenance import Provenance
from imagegen_core.diffusion.scheduling import Schedulers
from imagegen_core.errors import InvalidRequestError, SettingsError
from imagegen_core.images.png import encode_png
from imagegen_core.images.recipe import to_text
from imagegen_core.job import Job
from imagegen_core.models.inspect import architecture, native_size
from imagegen_core.models.resolve import resolve_checkpoint
from imagegen_core.models.style_catalog import StyleCatalog
from imagegen_core.picture import Picture
from imagegen_core.plugins.registry import Registry
from imagegen_core.request import Drawing, Size
from imagegen_core.settings import Settings

logger = logging.getLogger(__name__)

_CACHED_PROMPTS = 64


class DiffusionWorker(ABC):
    """Draws with one diffusers pipeline on one device; implements `SteppedWorker`.

    A family names its `backend` description, its diffusers pipeline and a folder with the configs that its single
    files go without, and implements `encode`.

    Attributes:
        worker_id: Tells workers of one process apart.
        pipe: The diffusers pipeline, with ``text_encoder``, ``unet``, ``vae`` and what the family adds.
        device: Where it computes.
        dtype: The precision of its weights.
        checkpoint: Where the weights came from.
        styles: The styles there are, those that fit this checkpoint and those that do not.
        native_size: ``WIDTHxHEIGHT`` drawn where a request leaves its size out.
    """

    backend: ClassVar[Backend]
    pipeline_class: ClassVar[str]
    pipeline_options: ClassVar[Mapping[str, Any]] = {}
    configs: ClassVar[Path]

    def __init__(self, worker_id: int = 0, settings: Settings | None = None) -> None:
        """Load the configured checkpoint.

        Args:
            worker_id: Tells workers of one process apart.
            settings: The configuration; None reads the environment and ``imagegen.toml``.

        Raises:
            ModelNotFoundError: The checkpoint is not there.
            ModelLoadError: It is damaged, incomplete, or another family's.
            SettingsError: The device or an option is not available here.
        """
        settings = (settings or Settings.load()).for_backend(self.backend.environment_prefix)
        self.worker_id = worker_id
        registry = Registry.discover()
        self.checkpoint: Path = resolve_checkpoint(settings, self.backend, registry)
        self.device = choose_device(settings)
        self.dtype = choose_dtype(settings, self.device)
        self.native_size = native_size(self.checkpoint, self.backend.default_size)
        self.pipe = self._load(settings)
        self._schedulers = Schedulers(self.pipe.scheduler, registry.samplers.values(), settings.scheduler)
        width = self.pipe.unet.config.cross_attention_dim
        self.styles = StyleCatalog(settings, registry, width, architecture(self.checkpoint))
        self._adapters = Adapters(self.pipe)
        self._embeddings = Embeddings(self.pipe, settings.embeddings_root, settings.source("embeddings_root"))
        self._provenance = (
            Provenance(self.backend, self.checkpoint, registry.models.values(), self.dtype, self.device)
            if settings.recipe
            else None
        )
        self._drawing = threading.Lock()
        self._remembered = lru_cache(maxsize=_CACHED_PROMPTS)(self._encode_styled)

    @abstractmethod
    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Embed a prompt; what depends on the picture's size comes with `sized`.

        Args:
            prompt: The prompt.
            clip_skip: Last layers to leave out, beyond those that the family always does.
        """

    def encode_absent(self, clip_skip: int) -> Conditioning:
        """What stands for a negative prompt that was not given."""
        return self._encoded("", clip_skip)

    def sized(self, conditioning: Conditioning, size: Size) -> Conditioning:  # noqa: ARG002 - for families
        """Add what the network is told of the picture's size; nothing, unless the family says otherwise."""
        return conditioning

    def run_job(self, job: Job) -> tuple[bytes, int]:
        """Draw the job's request: the PNG, and the seed used.

        Raises:
            InvalidRequestError: The request asks for what cannot be drawn.
        """
        picture = self._draw(job)
        return picture.png, picture.seed

    def run_job_with_latents(self, job: Job) -> tuple[bytes, int, bytes]:
        """Draw as `run_job` does, and give the pooled latents of that same pass: see `Picture.latents`."""
        picture = self._draw(job)
        return picture.png, picture.seed, picture.latents

    @torch.inference_mode()
    def begin(self, job: Job) -> Denoising:
        """Check the request, encode its prompt and draw its noise.

        Raises:
            InvalidRequestError: The request asks for what cannot be drawn.
        """
        drawing = Drawing.of(job.req, self.native_size)
        style = self._style(drawing)
        self._adapters.use(style)
        scheduler = self._schedulers.make(drawing.scheduler, drawing.steps, self.device)
        generator = torch.Generator("cpu").manual_seed(drawing.seed)
        return Denoising(
            drawing=drawing,
            scheduler=scheduler,
            generator=generator,
            latents=self._noise(drawing.size, generator) * scheduler.init_noise_sigma,
            conditionings=tuple(self.sized(one, drawing.size) for one in self._conditionings(drawing)),
            style=style,
            guidance_embedding=self._guidance_embedding(drawing.guidance_scale),
            on_step=getattr(job, "on_step", None),
        )

    @torch.inference_mode()
    def step(self, states: Sequence[Denoising]) -> None:
        """Take each state one denoising step on, all in one forward pass; they share a shape and a style."""
        self._adapters.use(states[0].style)
        step_together(self.pipe.unet, states)

    @torch.inference_mode()
    def finish(self, states: Sequence[Denoising]) -> list[Picture]:
        """Decode the latents of states that are done, and encode their pictures, each with its recipe."""
        return [
            Picture(
                encode_png(decode(self.pipe.vae, state.latents), self._text(state.drawing)),
                state.drawing.seed,
                pool(state.latents),
            )
            for state in states
        ]

    def _text(self, drawing: Drawing) -> dict[str, str]:
        if self._provenance is None:
            return {}
        return to_text(self._provenance.recipe(drawing, self._schedulers.name(drawing.scheduler)))

    def _draw(self, job: Job) -> Picture:
        with self._drawing:
            state = self.begin(job)
            while not state.done:
                self.step([state])
            return self.finish([state])[0]

    def _conditionings(self, drawing: Drawing) -> list[Conditioning]:
        self._check_clip_skip(drawing.clip_skip)
        prompt = self._encoded(drawing.prompt, drawing.clip_skip)
        wanted = drawing.negative_prompt
        if drawing.guidance_scale <= 1 or self._is_guidance_distilled:
            if wanted:
                logger.warning("The negative prompt has no effect: %s", self._why_unguided())
            return [prompt]
        absent = self.encode_absent(drawing.clip_skip)
        negative = absent if wanted is None else self._encoded(wanted, drawing.clip_skip)
        filler = absent if wanted is None else self._encoded("", drawing.clip_skip)
        tokens = max(one.tokens.shape[1] for one in (negative, prompt))
        return [negative.lengthened(filler, tokens), prompt.lengthened(filler, tokens)]

    def _check_clip_skip(self, clip_skip: int) -> None:
        layers = self.pipe.text_encoder.config.num_hidden_layers
        if clip_skip >= layers - 1:
            raise InvalidRequestError(
                f"Invalid clip_skip {clip_skip}: this checkpoint's text encoder has {layers} layers; "
                f"expected a whole number from 0 to {layers - 2}"
            )

    def _why_unguided(self) -> str:
        if self._is_guidance_distilled:
            return "this checkpoint was distilled with guidance and is never run a second time for it"
        return "it needs a guidance scale above 1.0"

    def _style(self, drawing: Drawing) -> ActiveStyle | None:
        if drawing.style is None:
            return None
        return ActiveStyle.at_level(self.styles.usable(drawing.style), drawing.style_level)

    def _encoded(self, prompt: str, clip_skip: int) -> Conditioning:
        active = self._adapters.active
        return self._remembered(prompt, clip_skip, active and (active.style.style.adapter_name, active.weight))

    def _encode_styled(self, prompt: str, clip_skip: int, _style: tuple[str, float] | None) -> Conditioning:
        """What a prompt means under a style, which also changes the text encoders: part of what is remembered by."""
        return self.encode(self._embeddings.expand(prompt), clip_skip)

    @property
    def _is_guidance_distilled(self) -> bool:
        return self.pipe.unet.config.time_cond_proj_dim is not None

    def _guidance_embedding(self, guidance_scale: float) -> torch.Tensor | None:
        if not self._is_guidance_distilled:
            return None
        embedding: torch.Tensor = self.pipe.get_guidance_scale_embedding(
            torch.tensor([guidance_scale - 1]), embedding_dim=self.pipe.unet.config.time_cond_proj_dim
        )
        return embedding.to(self.device, self.dtype)

    def _noise(self, size: Size, generator: torch.Generator) -> torch.Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        scale = self.pipe.vae_scale_factor
        shape = (1, self.pipe.unet.config.in_channels, size.height // scale, size.width // scale)
        return randn_tensor(shape, generator=generator, device=self.device, dtype=self.dtype)  # type: ignore[no-any-return]

    def _load(self, settings: Settings) -> Any:
        if self.device.type == "cpu":
            keep_large_buffers()
        pipe = load_pipeline(
            self.pipeline_class,
            self.checkpoint,
            self.dtype,
            configs=self.configs,
            base=settings.base_model,
            **self.pipeline_options,
        )
        if settings.vae_path:
            folder = self.checkpoint if self.checkpoint.is_dir() else settings.base_model or self.configs
            pipe.vae = load_vae(settings.vae_path, self.dtype, folder)
        if self.device.type != "cpu":
            pipe.to(self.device)
        if pipe.vae.config.force_upcast and self.dtype == torch.float16:
            upcast(pipe.vae)  # SDXL's VAE overflows in fp16
        if settings.enable_xformers:
            _enable_xformers(pipe, settings.source("enable_xformers"))
        if settings.attention_slicing:
            pipe.enable_attention_slicing()
        return pipe


def _enable_xformers(pipe: Any, source: str) -> None:
    try:
        pipe.enable_xformers_memory_efficient_attention()
    except (ImportError, ValueError) as error:
        raise SettingsError(
            f"{source} asks for xformers, which cannot be used here ({error}): "
            "pip install 'imagegen-core[xformers]' on a machine with CUDA, or unset it"
        ) from error
