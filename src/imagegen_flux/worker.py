"""The FLUX.1 worker: CLIP's pooled state, T5's hidden states, and latents packed into patches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from imagegen_core import ResolvedRequest, Size
from imagegen_core.diffusion import (
    Conditioning,
    DiffusionWorker,
    Layers,
    NetworkInputs,
    Parts,
    check_multiples,
    check_prompt_length,
    check_t5_length,
    completed,
    encode_t5,
    encode_text_in_parts,
    load_components,
    t5_length,
)
from imagegen_flux.plugin import BACKEND
from imagegen_flux.transformer import check_patches, transformer_config

logger = logging.getLogger(__name__)

_PATCH = 2  # latents along each side of a patch
# https://github.com/black-forest-labs/flux, ``src/flux/cli.py``.
_DEV_TOKENS, _SCHNELL_TOKENS = 512, 256
# https://huggingface.co/black-forest-labs/FLUX.1-dev and FLUX.1-schnell, ``scheduler/scheduler_config.json``.
_DEV_LEVELS = {"shift": 3.0, "use_dynamic_shifting": True}
_SCHNELL_LEVELS = {"shift": 1.0, "use_dynamic_shifting": False}


class FluxWorker(DiffusionWorker):
    """Draws with a FLUX.1 checkpoint, dev or schnell (https://blackforestlabs.ai/announcing-black-forest-labs).

    FLUX.1 is distilled: it never takes a negative prompt. The guidance scale is an input of dev's network.
    """

    backend = BACKEND
    pipeline_class = "FluxPipeline"
    configs = Path(__file__).parent / "configs"

    def check(self, request: ResolvedRequest) -> None:
        """Check the size, and the prompt's weights and length.

        Raises:
            InvalidRequestError: One of them is out of range.
        """
        check_multiples(request.size, _PATCH * self.pipe.vae_scale_factor)
        most = self.settings.max_prompt_chunks
        check_prompt_length(self.pipe.tokenizer, request.prompt, "prompt", most)
        check_t5_length(self.pipe.tokenizer_2, request.prompt, "prompt", most * self._tokens)
        if request.guidance_scale > 1 and not self._takes_guidance:
            logger.warning("The guidance scale has no effect: FLUX.1 schnell is distilled for one scale")

    def reason_without_guidance(self, request: ResolvedRequest) -> str:  # noqa: ARG002 - for every request
        """Return the reason why no request is drawn with guidance by a negative prompt."""
        return "FLUX.1 is distilled with guidance and is never run a second time for it"

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Return T5's hidden states, padded to 512 tokens for dev and 256 for schnell, and CLIP's pooled state.

        A longer prompt is padded to a multiple of them.
        """
        return completed(self.encode_in_parts(prompt, clip_skip))

    def encode_in_parts(self, prompt: str, clip_skip: int) -> Parts[Conditioning]:  # noqa: ARG002 - of no use here
        """Encode as `encode` does, one chunk of one encoder at a time."""

        def hidden(output: Any) -> Tensor:
            return output.last_hidden_state  # type: ignore[no-any-return]

        pipe = self.pipe
        clip = yield from encode_text_in_parts(pipe.tokenizer, pipe.text_encoder, prompt, hidden)
        yield
        length = self._tokens * -(-t5_length(pipe.tokenizer_2, prompt) // self._tokens)
        tokens = encode_t5(pipe.tokenizer_2, pipe.text_encoder_2, prompt, length)
        return Conditioning(tokens.to(self.dtype), {"pooled_projections": clip.pooled})

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the guidance scale [1] in fp32 if the network takes it."""
        if not self._takes_guidance:
            return conditioning
        guidance = torch.full([1], request.guidance_scale, device=self.device, dtype=torch.float32)
        return Conditioning(conditioning.tokens, {**conditioning.added, "guidance": guidance})

    def image_tokens(self, size: Size) -> int:
        """Return the number of a picture's patches."""
        return super().image_tokens(size) // _PATCH**2

    def timestep_options(self, request: ResolvedRequest) -> dict[str, Any]:
        """Return the noise levels, evenly spaced down to one step's share, and the shift ``mu`` for the size."""
        return {"sigmas": np.linspace(1.0, 1 / request.steps, request.steps), **super().timestep_options(request)}

    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Pack the latents into patches, call the transformer, and unpack its prediction."""
        patches = functional.pixel_unshuffle(inputs.latents, _PATCH)
        height, width = patches.shape[-2:]
        prediction: Tensor = inputs.network(
            hidden_states=patches.flatten(2).transpose(1, 2).contiguous(),
            timestep=inputs.timesteps.to(patches.dtype) / 1000,  # the network multiplies it by 1000
            guidance=inputs.conditioning.added.get("guidance"),
            pooled_projections=inputs.conditioning.added["pooled_projections"],
            encoder_hidden_states=inputs.conditioning.tokens,
            txt_ids=patches.new_zeros(inputs.conditioning.tokens.shape[1], 3),
            img_ids=_positions(height, width).to(patches),
            return_dict=False,
            **inputs.options,
        )[0]
        rows, _, channels = prediction.shape
        return functional.pixel_shuffle(prediction.transpose(1, 2).reshape(rows, channels, height, width), _PATCH)

    def load_file(self, path: Path, vae: Any | None) -> dict[str, Any]:
        """Load the components from a file in the original layout, or from a file of a transformer alone.

        The file's network tells whether it is dev or schnell. The two have other noise levels, also if
        `Settings.base_model` is the other one.
        """

        def denoiser_config(layers: Layers, family: Mapping[str, Any]) -> dict[str, Any]:
            config = transformer_config(layers, family)
            check_patches(path, config["in_channels"], _PATCH**2 * self.family.latent_channels)
            return config

        components = load_components(
            path,
            self.dtype,
            family=self.family,
            denoiser_config=denoiser_config,
            configs=self.configs,
            base=self.settings.base_model,
            vae=vae,
            storage=self.memory_plan.storage,
        )
        scheduler, is_dev = components["scheduler"], bool(components["transformer"].config.guidance_embeds)
        if bool(scheduler.config.use_dynamic_shifting) == is_dev:
            return components
        levels = _DEV_LEVELS if is_dev else _SCHNELL_LEVELS
        return {**components, "scheduler": type(scheduler).from_config(scheduler.config, **levels)}

    @property
    def _takes_guidance(self) -> bool:
        """Whether the network takes the guidance scale, as dev's does and schnell's does not."""
        return bool(self.network.config.guidance_embeds)

    @property
    def _tokens(self) -> int:
        """The number of T5's tokens to pad a prompt to."""
        return _DEV_TOKENS if self._takes_guidance else _SCHNELL_TOKENS


def _positions(height: int, width: int) -> Tensor:
    """Return the positions of patches [height * width, 3]: zero, row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
