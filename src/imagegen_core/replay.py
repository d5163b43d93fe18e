"""Draw a picture again from its recipe: the request, the settings and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from imagegen_core.errors import PictureError
from imagegen_core.images.embedding import embedded_bytes
from imagegen_core.images.recipe import Recipe
from imagegen_core.modes import load_modes
from imagegen_core.numerics import differences
from imagegen_core.picture_files.input_picture import InputPicture
from imagegen_core.request import GenerateRequest
from imagegen_core.settings import Settings


def request_of(recipe: Recipe, settings: Settings) -> GenerateRequest:
    """Return the request of a recipe, with its LoRAs as far as a configured mode has them."""
    request = recipe.request()
    if not recipe.loras:
        return request
    known = {lora.path.stem: lora for mode in load_modes(settings).modes.values() for lora in mode.loras}
    return request.with_loras(
        [replace(known[lora.name], strength=lora.strength) for lora in recipe.loras if lora.name in known]
    )


def with_pictures(
    request: GenerateRequest, recipe: Recipe, *, image: object | None = None, mask: object | None = None
) -> GenerateRequest:
    """Return a recipe's request with its input pictures; the recipe has their hashes, and may embed the pictures.

    Args:
        request: The request from the recipe.
        recipe: The recipe.
        image: The image: bytes, a path or a PIL image; None if the recipe has none, or embeds it.
        mask: The mask, in the same forms.

    Raises:
        PictureError: A picture is missing, is not the recipe's, or cannot be read.
    """
    given = {name: source for name, source in (("image", image), ("mask", mask)) if source is not None}
    sources = {**(recipe.pictures or {}), **given}
    pictures = {name: InputPicture.of(source, f"the {name}") for name, source in sources.items()}
    for name, wanted in (("image", recipe.image), ("mask", recipe.mask)):
        if wanted is None and name in pictures:
            raise PictureError(f"The picture was drawn without {name}: leave {name} out")
        if wanted is not None and name not in pictures:
            raise PictureError(f"The picture was drawn from {name} {wanted[:10]}…: give this picture as {name}")
        if wanted is not None and pictures[name].digest != wanted:
            raise PictureError(
                f"The given {name} is another picture: its hash is {pictures[name].digest[:10]}…, and the recipe's is "
                f"{wanted[:10]}…; give the {name} that it was drawn from"
            )
    return request.model_copy(update=pictures)


def settings_of(recipe: Recipe, settings: Settings) -> Settings:
    """Return settings for the recipe's backend, prediction and numerics plan; the device decides the rest of the plan.

    Raises:
        SettingsError: The recipe has an impossible value.
    """
    replayed = settings.override(
        backend=recipe.backend,
        dtype=recipe.dtype,
        recipe=True,
        embed_inputs=embedded_bytes(recipe.pictures),
        prediction=recipe.prediction,
        **_plan_settings(recipe.numerics),
    )
    if recipe.numerics and recipe.numerics.get("decoder") is None:
        return replayed.model_copy(update={"fast_decode": None})
    return replayed


def recipe_differences(wanted: Recipe, drawn: Recipe) -> list[str]:
    """Describe the differences of the drawn picture's recipe in words, without its enlarging afterwards."""
    then, now = ({**asdict(recipe), "upscalings": None} for recipe in (wanted, drawn))
    return differences(then, now)


def _plan_settings(numerics: Mapping[str, Any]) -> dict[str, Any]:
    if not numerics:
        return {}
    layout = numerics.get("layout")
    return {
        "rows_per_pass": numerics.get("rows") or 1,
        "vae_dtype": numerics.get("vae_precision"),
        "vae_channels_last": None if layout is None else "VAE channels last" in layout,
        "vae_tiling": numerics.get("tile") is not None,
        "attention_slicing": numerics.get("attention") == "sliced",
        "enable_xformers": numerics.get("attention") == "xformers",
        "int8": numerics.get("computation") == "int8",
        "compile": bool(numerics.get("compiled")),
        "batching": numerics.get("batching"),
        "weight_storage": numerics.get("storage"),
    }
