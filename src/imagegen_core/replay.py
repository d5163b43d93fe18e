"""Draw a picture again from its recipe: the request, the settings and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from imagegen_core.images.recipe import Recipe
from imagegen_core.modes import load_modes
from imagegen_core.numerics import differences
from imagegen_core.request import GenerateRequest, StyleLoraRequest
from imagegen_core.settings import Settings
from imagegen_core.styles import LoraUse


def request_of(recipe: Recipe, settings: Settings) -> GenerateRequest:
    """Return the request of a recipe; it lacks the LoRAs that no configured mode has."""
    request = GenerateRequest(
        prompt=recipe.prompt,
        negative_prompt=recipe.negative_prompt,
        size=f"{recipe.width}x{recipe.height}",
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance_scale,
        seed=recipe.seed,
        scheduler=recipe.scheduler,
        clip_skip=recipe.clip_skip - 1 if recipe.clip_skip else 0,
        style_lora=StyleLoraRequest(style=recipe.style, level=recipe.style_level),
        schedule=recipe.schedule,
        guidance_rescale=recipe.guidance_rescale or 0.0,
        eta=recipe.eta,
        s_churn=recipe.s_churn,
        s_tmin=recipe.s_tmin,
        s_tmax=recipe.s_tmax,
        s_noise=recipe.s_noise,
    )
    return request.with_loras(_loras(recipe, settings)) if recipe.loras else request


def settings_of(recipe: Recipe, settings: Settings) -> Settings:
    """Return settings for the recipe's backend, prediction and numerics plan; the device decides the rest of the plan.

    Raises:
        SettingsError: The recipe has an impossible value.
    """
    return settings.override(
        backend=recipe.backend,
        dtype=recipe.dtype,
        recipe=True,
        prediction=recipe.prediction,
        **_plan_settings(recipe.numerics),
    )


def recipe_differences(wanted: Recipe, drawn: Recipe) -> list[str]:
    """Describe the differences of the drawn picture's recipe in words; enlarging comes after drawing."""
    then, now = ({**asdict(recipe), "upscalings": None} for recipe in (wanted, drawn))
    return differences(then, now)


def _plan_settings(numerics: Mapping[str, Any]) -> dict[str, Any]:
    if not numerics:
        return {}
    return {
        "rows_per_pass": numerics.get("rows") or 1,
        "vae_tiling": numerics.get("tile") is not None,
        "attention_slicing": numerics.get("attention") == "sliced",
        "enable_xformers": numerics.get("attention") == "xformers",
        "compile": bool(numerics.get("compiled")),
        "batching": numerics.get("batching"),
    }


def _loras(recipe: Recipe, settings: Settings) -> list[LoraUse]:
    """Select the recipe's LoRAs that a configured mode has; the picture lacks the others."""
    known = {lora.path.stem: lora for mode in load_modes(settings).modes.values() for lora in mode.loras}
    return [replace(known[lora.name], strength=lora.strength) for lora in recipe.loras if lora.name in known]
