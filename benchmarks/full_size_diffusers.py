"""Plain diffusers as a side of the full-size benchmark.

The pipeline is the one of diffusers' "Latent Consistency Model". Without a dtype it loads in fp32, as "Load pipelines"
says. "Accelerate inference" recommends bf16 or fp16: https://huggingface.co/docs/diffusers/optimization/fp16.
"""

from __future__ import annotations

from typing import Any

from full_size_case import Case, Laps
from plain_pipeline import encoded, plain_pipeline


class Diffusers:
    """Draws with a pipeline of diffusers and Pillow's PNG encoder."""

    def __init__(self, model: str, device: str, dtype: str) -> None:
        """Load the pipeline in a dtype: ``fp32``, ``bf16`` or ``fp16``."""
        self._pipe, self._device = plain_pipeline(model, dtype, device), device
        self._laps = Laps(device)
        self._prepared: set[Case] = set()
        self._after(self._pipe, "encode_prompt", "text")
        self._around_decode(self._pipe.vae)

    def prepare(self, case: Case) -> None:
        """See `Program`."""
        if case.shortest not in self._prepared:
            self._prepared.add(case.shortest)
            self.draw(case.shortest, seed=0)

    def draw(self, case: Case, seed: int) -> dict[str, float]:
        """See `Program`."""
        import torch

        laps = self._laps = Laps(self._device)
        (image,) = self._pipe(
            case.prompt(seed),
            num_inference_steps=case.steps,
            guidance_scale=case.guidance,
            width=case.side,
            height=case.side,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images
        encoded(image)
        laps.lap("PNG")
        return laps.results(case.steps)

    def _after(self, holder: Any, method: str, name: str) -> None:
        """End a part after each call of a method."""
        original = getattr(holder, method)

        def measured(*arguments: Any, **keywords: Any) -> Any:
            result = original(*arguments, **keywords)
            self._laps.lap(name)
            return result

        setattr(holder, method, measured)

    def _around_decode(self, vae: Any) -> None:
        """End the steps before the VAE's call, and the VAE's part after it."""
        self._after(vae, "decode", "VAE")
        decode = vae.decode

        def measured(*arguments: Any, **keywords: Any) -> Any:
            self._laps.lap("steps")
            return decode(*arguments, **keywords)

        vae.decode = measured
