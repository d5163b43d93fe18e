"""A caller's options, mode and model card, for A1111's routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.modes import Mode
from imagegen_core.server.a1111.known_options import fixed_options
from imagegen_core.server.a1111.options import Options
from imagegen_core.server.context import ServerContext


def mode_of(context: ServerContext, caller: str) -> Mode:
    """Return the mode of a caller's checkpoint; the default mode if none is set or the mode is gone."""
    modes, chosen = context.mode_manager.modes, context.options.of(caller).mode
    return modes.find(chosen if chosen in modes.modes else None)


def named_card(context: ServerContext, mode: Mode) -> ModelCard:
    """Return the card of a mode's model, with the name from ``sd-models``."""
    card = context.card(mode)
    return replace(card, name=mode.name) if context.mode_manager.modes.configured else card


def options_with(context: ServerContext, caller: str, given: Mapping[str, Any]) -> Options:
    """Return a caller's options with overrides; see `Options.with_overrides`."""
    return context.options.of(caller).with_overrides(given, context.checkpoints(), _vae(context))


def told_options(context: ServerContext, caller: str) -> dict[str, Any]:
    """Return a caller's options by A1111's names; a client can post them back without effect."""
    mode, options = mode_of(context, caller), context.options.of(caller)
    fixed = {name: values[0] for name, values in fixed_options(_vae(context)).items()}
    return {**fixed, **options.all_input_pictures} | {
        "sd_model_checkpoint": mode.name if context.mode_manager.modes.configured else context.card().title,
        "sd_checkpoint_hash": "",
        "CLIP_stop_at_last_layers": options.clip_stop_at_last_layers,
    }


def _vae(context: ServerContext) -> str | None:
    """Return the configured VAE's name; None if each checkpoint uses its own VAE."""
    path = context.settings.vae_path
    return None if path is None else path.name
