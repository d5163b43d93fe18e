"""The request body of A1111's ``txt2img``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import Field

from imagegen_core.request.hires import LATENT_MODES
from imagegen_core.server.a1111.body import LONGEST_NAME, DrawingBody, Whole, refuse_asked

LATENTS = tuple(name.capitalize() for name in LATENT_MODES)
"""A1111's names for enlargements of latents; the first is the default."""
_SAME = ("", "None", "Use same checkpoint")
_UNASKED_OF_HIRES: dict[str, tuple[Any, ...]] = {
    "hr_checkpoint_name": _SAME,
    "hr_additional_modules": ([], ["Use same choices"]),  # of Forge
}


class Txt2ImgBody(DrawingBody):
    """A1111's fields of ``txt2img``; those of hires count only with ``enable_hr``.

    Source: ``StableDiffusionProcessingTxt2Img`` in ``modules/processing.py``. Forge adds ``hr_cfg``.
    """

    UNASKED: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **DrawingBody.UNASKED,
        "firstpass_image": ("",),
        "firstphase_width": (0,),
        "firstphase_height": (0,),
    }

    enable_hr: bool = False
    hr_scale: float = 2
    hr_resize_x: Whole = 0
    hr_resize_y: Whole = 0
    hr_upscaler: str = Field(default=LATENTS[0], max_length=LONGEST_NAME)
    hr_second_pass_steps: Whole = 0
    hr_sampler_name: str = Field(default="", max_length=LONGEST_NAME)
    hr_scheduler: str = Field(default="", max_length=LONGEST_NAME)
    hr_prompt: str = ""
    hr_negative_prompt: str = ""
    hr_cfg: float | None = None

    @property
    def details(self) -> dict[str, Any]:
        """See `DrawingBody.details`, and ``StableDiffusionProcessingTxt2Img.init``."""
        if not self.enable_hr:
            return {}
        sides = f"{self.hr_resize_x}x{self.hr_resize_y}" if self.hr_resize_x or self.hr_resize_y else None
        return {
            "Denoising strength": self.denoising_strength,
            "Hires upscale": None if sides else self.hr_scale,
            "Hires resize": sides,
            "Hires sampler": None if self.hr_sampler_name in ("", self.sampler) else self.hr_sampler_name,
            "Hires prompt": None if self.hr_prompt in ("", self.prompt) else self.hr_prompt,
            "Hires negative prompt": (
                None if self.hr_negative_prompt in ("", self.negative_prompt) else self.hr_negative_prompt
            ),
            "Hires steps": self.hr_second_pass_steps or None,
            "Hires upscaler": self.hr_upscaler or LATENTS[0],
        }

    def check(self, parameters: Collection[str] = ()) -> None:
        """See `DrawingBody.check`."""
        super().check(parameters)
        if self.enable_hr:
            refuse_asked(_UNASKED_OF_HIRES, self.model_extra or {}, parameters)
