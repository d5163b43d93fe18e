"""A worker for Stable Diffusion 3 without T5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from imagegen_core import Backend, Family
from imagegen_core.diffusion import Conditioning, DiffusionWorker, NetworkInputs

FLOW = Family(
    name="flow",
    title="A model of flow matching",
    package=None,
    components=("transformer", "vae", "text_encoder", "text_encoder_2"),
    pipelines=("StableDiffusion3Pipeline",),
    latent_channels=16,
)
BACKEND = Backend(
    name="flow",
    summary="a test's",
    worker="tests.diffusion.flow_worker:FlowWorker",
    default_size="64x64",
    architectures=("flow",),
)


class FlowWorker(DiffusionWorker):
    """Draws with a Stable Diffusion 3 without T5."""

    backend = BACKEND
    pipeline_class = "StableDiffusion3Pipeline"
    optional_components = ("text_encoder_3", "tokenizer_3")

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Encode with the pipeline's own method."""
        options: dict[str, Any] = {"do_classifier_free_guidance": False, "clip_skip": clip_skip or None}
        tokens, _, pooled, _ = self.pipe.encode_prompt(prompt, None, None, device=self.device, **options)
        return Conditioning(tokens, {"pooled": pooled})

    def predict(self, inputs: NetworkInputs) -> Tensor:
        """Call the transformer."""
        prediction: Tensor = inputs.network(
            inputs.latents,
            timestep=inputs.timesteps,
            encoder_hidden_states=inputs.conditioning.tokens,
            pooled_projections=inputs.conditioning.added["pooled"],
            return_dict=False,
        )[0]
        return prediction
