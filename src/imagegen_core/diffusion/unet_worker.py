"""The base worker of families with a UNet and CLIP text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.embeddings import TOKENIZERS
from imagegen_core.diffusion.memory import unet_row_bytes
from imagegen_core.diffusion.network_inputs import NetworkInputs
from imagegen_core.diffusion.prompt_checks import check_clip_skip, check_prompt_length
from imagegen_core.diffusion.single_file import load_single_file
from imagegen_core.diffusion.worker import DiffusionWorker
from imagegen_core.models.folders import component_kinds, read_json
from imagegen_core.models.networks.channels import LATENT_CHANNELS, check_channels
from imagegen_core.request import ResolvedRequest, Size
from imagegen_core.settings import PredictionName


class UNetWorker(DiffusionWorker):
    """Draws with a diffusers ``UNet2DConditionModel``; a family implements `encode`.

    The pipeline has ``unet``, ``vae``, the first of `embedding_encoders` with its tokenizer, and the family's own
    components.
    """

    flow_matching = False
    embedding_encoders: ClassVar[Sequence[str]] = ("text_encoder", "text_encoder_2")

    def check(self, request: ResolvedRequest) -> None:
        """Check the prompts' weights and lengths, and that `clip_skip` leaves a layer.

        Raises:
            InvalidRequestError: One of them is out of range.
        """
        encoder = self.embedding_encoders[0]
        check_clip_skip(getattr(self.pipe, encoder), request.clip_skip)
        tokenizer, embeddings = getattr(self.pipe, TOKENIZERS[encoder]), self.embeddings.of(encoder)
        for field, prompt in self.prompts(request).items():
            check_prompt_length(tokenizer, prompt, field, self.settings.max_prompt_chunks, embeddings)

    def reason_without_guidance(self, request: ResolvedRequest) -> str | None:
        """Return the base's reason, or that the network is distilled with guidance."""
        if self._is_distilled:
            return "this checkpoint was distilled with guidance and is never run a second time for it"
        return super().reason_without_guidance(request)

    def with_request(self, conditioning: Conditioning, request: ResolvedRequest) -> Conditioning:
        """Add the embedded guidance scale ``timestep_cond`` [1, time_cond_proj_dim] if the network takes it."""
        if not self._is_distilled:
            return conditioning
        scale = torch.tensor([request.guidance_scale - 1])
        embedding = self.pipe.get_guidance_scale_embedding(scale, self.network.config.time_cond_proj_dim)
        return conditioning.with_added(timestep_cond=embedding.to(self.device, self.dtype))

    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Call the UNet."""
        added = dict(inputs.conditioning.added)
        prediction: Tensor = inputs.network(
            inputs.latents,
            inputs.timesteps,
            encoder_hidden_states=inputs.conditioning.tokens,
            timestep_cond=added.pop("timestep_cond", None),
            added_cond_kwargs=added,
            return_dict=False,
            **inputs.options,
        )[0]
        return prediction

    def row_bytes(self, size: Size) -> int:
        """Estimate the peak memory of one more row in a forward pass, in bytes."""
        height, width = self.latents_shape(size)[-2:]
        return unet_row_bytes(self.network, height * width)

    def load_file(self, path: Path, vae: Any | None) -> dict[str, Any]:
        """Load the components from a checkpoint file in LDM's naming, or from a file of a UNet alone."""
        settings = self.settings
        configs, base = cast("Path", self.file_configs), settings.base_model
        return load_single_file(
            path,
            self.dtype,
            configs,
            base,
            vae,
            settings.prediction,
            family=self.family,
            prediction_of_weights=self.prediction_of_weights,
            form=self.weights_form,
        )

    def prediction_of_weights(self, state: Mapping[str, Tensor]) -> PredictionName | None:  # noqa: ARG002 - for families
        """Return the network's prediction type by its weights, if nothing else states it; None is the family's usual.

        Args:
            state: The file's tensors by name. Each access reads one tensor from the file.
        """
        return None

    def check_folder(self, path: Path) -> None:
        """Check that the UNet takes latents alone.

        Raises:
            ModelLoadError: It also takes a picture, a mask or the like.
        """
        has_vae = self.settings.vae_path is None and "vae" in component_kinds(path)
        vae = read_json(path, "vae/config.json") if has_vae else {}
        channels = read_json(path, "unet/config.json").get("in_channels", LATENT_CHANNELS)
        check_channels(path, channels, vae.get("latent_channels", LATENT_CHANNELS))

    @property
    def _is_distilled(self) -> bool:
        """Whether the network takes the guidance scale as an input, as latent consistency models do."""
        return self.network.config.time_cond_proj_dim is not None
