"""Requests for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from imagegen_core.parameter import Parameters
from imagegen_core.request.hires import HiresOptions
from imagegen_core.request.micro_conditioning import MicroConditioning
from imagegen_core.request.picture_field import PictureField, PictureSource
from imagegen_core.request.picture_options import InpaintOptions, OutpaintOptions
from imagegen_core.request.style import StyleLoraRequest
from imagegen_core.request.variation import Variation
from imagegen_core.styles import LoraUse


class GenerateRequest(BaseModel):
    """A request for a picture. Each worker validates it on use, with the same rules.

    Attributes:
        prompt: Description of the picture.
        size: ``WIDTHxHEIGHT`` in pixels, multiples of 8; the default is the checkpoint's native size.
        num_inference_steps: Number of denoising steps, from 1.
        guidance_scale: Strength of the prompt, from 0 to 100. Values above 1.0 use classifier-free guidance, which
            runs the network twice per step; values up to 1.0 use only the prompt.
        seed: 0 to 2**63 - 1; None chooses a random seed.
        style_lora: The style.
        negative_prompt: Description of unwanted content; needs a guidance scale above 1.0.
        scheduler: A sampler's name, such as ``Euler a`` or ``EulerAncestralDiscreteScheduler``, or ``checkpoint`` for
            the checkpoint's own. The default is the configured sampler, else LCM (for EDM checkpoints, their own).
        clip_skip: Number of last text encoder layers to skip, in addition to the family's usual number. diffusers
            counts the same way: 1 is A1111's "Clip skip: 2".
        schedule: The noise schedule's name, such as ``Karras`` or ``SGM Uniform``, or timesteps such as
            ``999, 749, 499, 249``. The default is the sampler's own. See `imagegen_core.schedules`.
        guidance_rescale: Correction of overexposure by guidance, from 0 to 1; needs a guidance scale above 1.0.
            See https://arxiv.org/abs/2305.08891, section 3.4.
        eta: See `StepOptions`, also for the following; refused if the sampler does not support it.
        s_churn: See `StepOptions`.
        s_tmin: See `StepOptions`.
        s_tmax: See `StepOptions`.
        s_noise: See `StepOptions`.
        image: A picture to begin with: its bytes, a `pathlib.Path` or a PIL image, and over HTTP base64 or a data URL.
        mask: A mask of the image's size: white parts are drawn again, and black parts stay as they are.
        strength: The part of the steps that is drawn, from 0 to 1: the lower, the closer to the image. At least one
            step is drawn. The default is 0.8, and 1.0 with a mask, with `outpaint`, or for an instruct-pix2pix
            checkpoint.
        resize: How the image gets the size of the drawn picture: ``stretch``, ``crop``, ``pad``, or ``latent`` for the
            image's latents. Without `size`, the picture has the image's size, down to multiples of 8.
        inpaint: How the masked part is drawn.
        outpaint: Pixels to draw around the image.
        image_guidance_scale: Strength of the image for an instruct-pix2pix checkpoint, from 1 to 100; the default is
            1.5. See https://arxiv.org/abs/2211.09800, section 3.2.1.
        variation: A second seed, or another size, for the noise.
        micro_conditioning: Sizes and a crop as conditions, for networks that were trained with them.
        hires: A second stage at a larger size.
        refiner: The model for the last steps, by its name; in a server, a mode or a checkpoint in its list. "" is none.
        switch_at: The part of the noise levels before the refiner, between 0 and 1, as diffusers' ``denoising_end`` and
            ``denoising_start``; the default is 0.8.
    """

    model_config = ConfigDict(extra="forbid")

    prompt: str
    size: str = "1024x1024"
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    seed: int | None = None
    style_lora: StyleLoraRequest = Field(default_factory=StyleLoraRequest)
    negative_prompt: str | None = None
    scheduler: str | None = None
    clip_skip: int = 0
    schedule: str | None = None
    guidance_rescale: float = 0.0
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    image: Annotated[PictureSource, PictureField("image")] = None
    mask: Annotated[PictureSource, PictureField("mask")] = None
    strength: float | None = None
    resize: str | None = None
    inpaint: InpaintOptions = Field(default_factory=InpaintOptions)
    outpaint: OutpaintOptions = Field(default_factory=OutpaintOptions)
    image_guidance_scale: float | None = None
    variation: Variation = Field(default_factory=Variation)
    micro_conditioning: MicroConditioning = Field(default_factory=MicroConditioning)
    hires: HiresOptions = Field(default_factory=HiresOptions)
    refiner: str | None = None
    switch_at: float | None = None

    # A private attribute, because it names files: clients must not be able to set it.
    _loras: tuple[LoraUse, ...] = PrivateAttr(default=())
    _parameters: Parameters = PrivateAttr(default_factory=Parameters)

    @property
    def loras(self) -> tuple[LoraUse, ...]:
        """LoRAs in addition to the style; see `with_loras`."""
        return self._loras

    def with_loras(self, loras: Iterable[LoraUse]) -> Self:
        """Return a copy of this request with `loras` in addition to its style."""
        copy = self.model_copy()
        copy._loras = tuple(loras)  # noqa: SLF001 - an attribute of this class
        return copy

    @property
    def parameters(self) -> Parameters:
        """The values of the parameters that plugins declare; see `with_parameters`."""
        return self._parameters

    def with_parameters(self, given: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Self:
        """Return a copy of this request with values of plugins' parameters, instead of its own.

        Args:
            given: The values by name.
            defaults: The defaults of the declared parameters; imagegen fills them in before it draws.
        """
        copy = self.model_copy()
        copy._parameters = Parameters(given, defaults)  # noqa: SLF001 - an attribute of this class
        return copy

    @classmethod
    def given(cls, **fields: Any) -> GenerateRequest:
        """Create a request; fields with the value None keep their defaults."""
        return cls(**{name: value for name, value in fields.items() if value is not None})
