"""The recipe of a picture: its inputs, stored in its PNG in our own form and in A1111's."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagegen_core.errors import PictureError
from imagegen_core.images.embedding import embedded
from imagegen_core.picture_files.decode import COMMENT, PictureFile, called

if TYPE_CHECKING:
    from imagegen_core.request import GenerateRequest, ResolvedRequest

logger = logging.getLogger(__name__)

OWN_CHUNK = "imagegen"
A1111_CHUNK = COMMENT
_FORMAT = 1
_DDIM = ("DDIM", "DDIMScheduler")  # A1111 has a separate name for their eta
_OPTIONS = ("inpaint", "outpaint", "variation", "micro_conditioning", "hires")
_HIRES_INFOTEXT = {
    "Hires upscale": "scale",
    "Hires resize": "size",
    "Hires steps": "steps",
    "Hires upscaler": "upscaler",
}
_OF_SOME_BACKENDS = ("checkpoint", "checkpoint_hash", "dtype", "device")
_LATER = frozenset(  # left out when unset, so that old pictures keep their bytes
    {"schedule", "guidance_rescale", "eta", "s_churn", "s_tmin", "s_tmax", "s_noise", "prediction"}
    | {"parameters", "processors", "image", "mask", "strength", "resize", "inpaint", "outpaint"}
    | {"image_guidance_scale", "variation", "micro_conditioning", "hires", "upscaler_hash", "pictures"}
    | {"refiner", "switch_at", "refiner_hash", "refiner_dtype", "refiner_numerics"}
)


@dataclass(frozen=True, slots=True)
class Upscaling:
    """A picture was enlarged after it was drawn: both sides by `factor`, over all passes."""

    upscaler: str
    factor: int


@dataclass(frozen=True, slots=True)
class UsedLora:
    """A LoRA in addition to the style: the file's name without its suffix, and the strength."""

    name: str
    strength: float


@dataclass(frozen=True)
class Recipe:
    """All inputs of a picture.

    Attributes:
        prompt: The prompt.
        negative_prompt: The negative prompt.
        seed: The seed of the noise.
        width: The width in pixels, before enlarging.
        height: The height in pixels, before enlarging.
        steps: The number of denoising steps.
        guidance_scale: The guidance scale.
        scheduler: The sampler's name, such as ``LCM`` or ``DPM++ 2M Karras``; None for a backend without samplers.
        clip_skip: The text encoder's layer that reads the prompt, counted from the last as 1; None is the checkpoint's
            own.
        style: The style's id, or None.
        style_level: The style's level; 0 without a style.
        loras: The LoRAs in addition to the style, from a mode.
        checkpoint: The checkpoint's name; None for a backend without checkpoints.
        checkpoint_hash: The first ten hexadecimal digits of its file's SHA-256, A1111's model hash; for a folder, of
            its UNet's file; None if that is no single file.
        backend: The backend's name.
        dtype: ``fp16``, ``bf16`` or ``fp32``; None for a backend without a choice.
        device: The device, such as ``cuda:0``; None if unknown.
        versions: The versions of the distributions involved, by name.
        upscalings: The enlargements after drawing, in order.
        schedule: The noise schedule; None is the sampler's own.
        guidance_rescale: See `imagegen_core.GenerateRequest`; None if not requested, like the next ones.
        eta: See `imagegen_core.GenerateRequest`.
        s_churn: See `imagegen_core.GenerateRequest`.
        s_tmin: See `imagegen_core.GenerateRequest`.
        s_tmax: See `imagegen_core.GenerateRequest`.
        s_noise: See `imagegen_core.GenerateRequest`.
        prediction: The prediction type, if the configuration sets it.
        numerics: The numerics plan's choices for this picture; see `imagegen_core.NumericsPlan.of_picture`.
        parameters: The plugins' parameters that differ from their defaults, by name; None if there are none.
        processors: The plugins that changed the drawn picture, in order, each with its version; None if there are none.
        image: The SHA-256 of the input picture's size and RGB pixels; see `InputPicture.digest`. None without one.
        mask: The same of the mask.
        strength: See `imagegen_core.GenerateRequest`; None if not requested, like the next ones.
        resize: See `imagegen_core.GenerateRequest`.
        inpaint: The options that differ from their defaults, by name; like the next ones.
        outpaint: See `imagegen_core.GenerateRequest`.
        image_guidance_scale: See `imagegen_core.GenerateRequest`.
        variation: See `imagegen_core.GenerateRequest`.
        micro_conditioning: See `imagegen_core.GenerateRequest`.
        hires: See `imagegen_core.GenerateRequest`.
        upscaler_hash: The first ten hexadecimal digits of the SHA-256 of the file of ``hires.upscaler``; None without a
            file.
        refiner: The checkpoint's name of the refiner; None if there was none.
        switch_at: See `imagegen_core.GenerateRequest`.
        refiner_hash: The same as `checkpoint_hash` for the refiner.
        refiner_dtype: The refiner's precision, if it differs from `dtype`.
        refiner_numerics: The choices of the refiner's numerics plan, if they differ from `numerics`.
        pictures: The input pictures' pixels as PNG in base64, by field, as far as the setting `embed_inputs` allows.
    """

    prompt: str
    negative_prompt: str | None
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str | None
    clip_skip: int | None
    style: str | None
    style_level: int
    checkpoint: str | None
    checkpoint_hash: str | None
    backend: str
    dtype: str | None
    device: str | None
    versions: Mapping[str, str] = field(default_factory=dict)
    upscalings: tuple[Upscaling, ...] = ()
    loras: tuple[UsedLora, ...] = ()
    schedule: str | None = None
    guidance_rescale: float | None = None
    eta: float | None = None
    s_churn: float | None = None
    s_tmin: float | None = None
    s_tmax: float | None = None
    s_noise: float | None = None
    prediction: str | None = None
    numerics: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] | None = None
    processors: tuple[str, ...] | None = None
    image: str | None = None
    mask: str | None = None
    strength: float | None = None
    resize: str | None = None
    inpaint: Mapping[str, Any] | None = None
    outpaint: Mapping[str, Any] | None = None
    image_guidance_scale: float | None = None
    variation: Mapping[str, Any] | None = None
    micro_conditioning: Mapping[str, Any] | None = None
    hires: Mapping[str, Any] | None = None
    upscaler_hash: str | None = None
    refiner: str | None = None
    switch_at: float | None = None
    refiner_hash: str | None = None
    refiner_dtype: str | None = None
    refiner_numerics: Mapping[str, Any] | None = None
    pictures: Mapping[str, str] | None = None

    @classmethod
    def of(cls, request: ResolvedRequest, *, embed_inputs: int = 0, **facts: Any) -> Recipe:
        """Build the recipe of a request.

        Args:
            request: The request.
            embed_inputs: The largest input picture that the recipe has itself, in bytes as PNG; 0 embeds none.
            facts: The fields that a request does not decide: `backend`, and as far as the backend has them
                `checkpoint`, `device` and others. A `scheduler` and a `schedule` replace the request's, with their
                full names.
        """
        asked: dict[str, Any] = {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "width": request.size.width,
            "height": request.size.height,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "scheduler": request.scheduler,
            "schedule": request.schedule,
            "clip_skip": request.clip_skip + 1 if request.clip_skip else None,
            "style": request.style,
            "style_level": request.style_level,
            "loras": tuple(UsedLora(lora.path.stem, lora.strength) for lora in request.loras),
            "guidance_rescale": request.guidance_rescale or None,
            **asdict(request.step_options),
            "parameters": dict(request.parameters.given) or None,
            **{name: picture and picture.digest for name, picture in request.pictures.items()},
            **{name: getattr(request, name) for name in ("strength", "resize", "image_guidance_scale")},
            **{name: getattr(request, name).given() or None for name in _OPTIONS},
            "refiner": request.refiner,
            "switch_at": request.switch_at,
            "pictures": embedded(request.pictures, embed_inputs) or None,
        }
        absent: dict[str, Any] = dict.fromkeys(_OF_SOME_BACKENDS)
        return cls(**absent | asked | facts)

    def request(self) -> GenerateRequest:
        """Return the request for this picture, without its input pictures and the LoRAs of its mode."""
        from imagegen_core.request import (
            GenerateRequest,
            HiresOptions,
            InpaintOptions,
            MicroConditioning,
            OutpaintOptions,
            StyleLoraRequest,
            Variation,
        )

        return GenerateRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt,
            size=f"{self.width}x{self.height}",
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            scheduler=self.scheduler,
            clip_skip=self.clip_skip - 1 if self.clip_skip else 0,
            style_lora=StyleLoraRequest(style=self.style, level=self.style_level),
            schedule=self.schedule,
            guidance_rescale=self.guidance_rescale or 0.0,
            eta=self.eta,
            s_churn=self.s_churn,
            s_tmin=self.s_tmin,
            s_tmax=self.s_tmax,
            s_noise=self.s_noise,
            strength=self.strength,
            resize=self.resize,
            image_guidance_scale=self.image_guidance_scale,
            inpaint=InpaintOptions(**(self.inpaint or {})),
            outpaint=OutpaintOptions(**(self.outpaint or {})),
            variation=Variation(**(self.variation or {})),
            micro_conditioning=MicroConditioning(**(self.micro_conditioning or {})),
            hires=HiresOptions(**(self.hires or {})),
            refiner=self.refiner,
            switch_at=self.switch_at,
        ).with_parameters(self.parameters or {})


def to_text(recipe: Recipe) -> dict[str, str]:
    """Return the text chunks of a recipe: ``imagegen``, exact, and ``parameters`` in A1111's form.

    Lone surrogates, which no encoder accepts, become ``?`` in both.
    """
    stated = {name: value for name, value in asdict(recipe).items() if value is not None or name not in _LATER}
    own = json.dumps({"format": _FORMAT} | stated, ensure_ascii=False)
    return {chunk: _writable(text) for chunk, text in {OWN_CHUNK: own, A1111_CHUNK: _infotext(recipe)}.items()}


def read_recipe(source: bytes | Path) -> Recipe:
    """Read the recipe from a PNG.

    Args:
        source: The PNG itself, or its path.

    Raises:
        PictureError: It is not a PNG, has no recipe, or has one that is damaged or from a newer imagegen.
    """
    file = PictureFile.read(source, png_only=True)
    text = file.text
    if OWN_CHUNK not in text:
        raise PictureError(f"There is no recipe in {called(source)}: give a PNG that imagegen drew")
    return parse_recipe(text[OWN_CHUNK], called(source))


def parse_recipe(text: str, name: str) -> Recipe:
    """Parse the text of an ``imagegen`` chunk; error messages call its picture `name`.

    Raises:
        PictureError: The text is damaged or from a newer imagegen.
    """
    from pydantic import TypeAdapter

    try:
        stated = json.loads(text)["format"]
        if isinstance(stated, int) and stated > _FORMAT:
            raise PictureError(
                f"Cannot read the recipe of {name}: its format is {stated} and this imagegen reads up to {_FORMAT}; "
                "update imagegen-core"
            )
        return TypeAdapter(Recipe).validate_json(text, strict=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PictureError(f"Cannot read the recipe of {name}: it is damaged; take the file as it was drawn") from error


def with_upscaling(text: Mapping[str, str], done: Upscaling, name: str) -> dict[str, str]:
    """Add `done` to the recipe in a picture's text chunks; foreign and damaged text stays as it is."""
    if OWN_CHUNK not in text:
        return dict(text)
    try:
        recipe = parse_recipe(text[OWN_CHUNK], name)
    except PictureError as error:
        logger.warning("%s; its text is kept as it is", error)
        return dict(text)
    return dict(text) | to_text(replace(recipe, upscalings=(*recipe.upscalings, done)))


def with_processor(text: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the recipe's chunks with `name` as the latest processor; nothing if there is no readable recipe."""
    if OWN_CHUNK not in text:
        return {}
    try:
        recipe = parse_recipe(text[OWN_CHUNK], "the picture")
    except PictureError as error:
        logger.warning("%s; its text is kept as it is", error)
        return {}
    return to_text(replace(recipe, processors=(*(recipe.processors or ()), name)))


def _infotext(recipe: Recipe) -> str:
    """Return A1111's text of a recipe, by ``create_infotext`` in its ``modules/processing.py`` (1.10)."""
    factor = 1
    for upscaling in recipe.upscalings:
        factor *= upscaling.factor
    values: dict[str, Any] = {
        "Steps": recipe.steps,
        "Sampler": recipe.scheduler,
        "Schedule type": recipe.schedule,
        "CFG scale": recipe.guidance_scale,
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.checkpoint_hash,
        "Model": recipe.checkpoint,
        "Clip skip": recipe.clip_skip,
        "Eta DDIM" if recipe.scheduler in _DDIM else "Eta": recipe.eta,
        "Sigma churn": recipe.s_churn,
        "Sigma tmin": recipe.s_tmin,
        "Sigma tmax": recipe.s_tmax,
        "Sigma noise": recipe.s_noise,
        "CFG Rescale": recipe.guidance_rescale,
        "Denoising strength": recipe.strength,
        "Image CFG scale": recipe.image_guidance_scale,
        **_variation_infotext(recipe.variation or {}),
        **{name: (recipe.hires or {}).get(option) for name, option in _HIRES_INFOTEXT.items()},
        "Refiner": f"{recipe.refiner} [{recipe.refiner_hash}]" if recipe.refiner_hash else recipe.refiner,
        "Refiner switch at": recipe.switch_at,
        "Style": recipe.style,
        "Style level": recipe.style_level or None,
        "LoRAs": ", ".join(f"{lora.name}:{lora.strength:g}" for lora in recipe.loras) or None,
        "Postprocess upscale by": factor if recipe.upscalings else None,
        "Postprocess upscaler": ", ".join(upscaling.upscaler for upscaling in recipe.upscalings) or None,
        **{name: _plain(value) for name, value in (recipe.parameters or {}).items()},
        "Processors": ", ".join(recipe.processors or ()) or None,
        "Version": f"imagegen {recipe.versions['imagegen-core']}" if "imagegen-core" in recipe.versions else None,
    }
    negative = f"\nNegative prompt: {recipe.negative_prompt}" if recipe.negative_prompt else ""
    stated = ", ".join(f"{key}: {quoted(value)}" for key, value in values.items() if value is not None)
    return f"{recipe.prompt}{negative}\n{stated}".strip()


def _variation_infotext(variation: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "Variation seed": variation.get("seed"),
        "Variation seed strength": variation.get("strength"),
        "Seed resize from": variation.get("resize_from"),
    }


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def quoted(value: object) -> str:
    """Quote a value like ``quote`` in A1111's ``modules/infotext_utils.py``."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(sign in text for sign in ",\n:") else text


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
