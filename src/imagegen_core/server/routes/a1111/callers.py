"""What A1111's routes know of a caller: its options, and the mode that draws its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from imagegen_core.modes import Mode
from imagegen_core.server.known_options import fixed_options
from imagegen_core.server.model_card import ModelCard
from imagegen_core.server.options import Options
from imagegen_core.server.studio import Studio


def mode_of(studio: Studio, caller: str) -> Mode:
    """Return the mode of the checkpoint that a caller set; the default where it set none, or the mode is gone."""
    modes, chosen = studio.model.modes, studio.options.of(caller).mode
    return modes.find(chosen if chosen in modes.modes else None)


def named_card(studio: Studio, mode: Mode) -> ModelCard:
    """Return the card of a mode's model, under the name that ``sd-models`` gives it."""
    card = studio.card(mode)
    return replace(card, name=mode.name) if studio.model.modes.configured else card


def options_with(studio: Studio, caller: str, given: Mapping[str, Any]) -> Options:
    """Return a caller's options with others over them; see `Options.with_overrides`."""
    return studio.options.of(caller).with_overrides(given, studio.checkpoints(), _vae(studio))


def told_options(studio: Studio, caller: str) -> dict[str, Any]:
    """Return a caller's options by A1111's names; posted back, they change nothing."""
    mode = mode_of(studio, caller)
    return {name: values[0] for name, values in fixed_options(_vae(studio)).items()} | {
        "sd_model_checkpoint": mode.name if studio.model.modes.configured else studio.card().title,
        "sd_checkpoint_hash": "",
        "CLIP_stop_at_last_layers": studio.options.of(caller).clip_stop_at_last_layers,
    }


def _vae(studio: Studio) -> str | None:
    """The configured VAE's name; None where the checkpoints' own decode."""
    path = studio.settings.vae_path
    return None if path is None else path.name
