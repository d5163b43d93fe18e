"""Conversion of A1111's sampler, noise schedule and step options to this server's fields."""

from __future__ import annotations

from typing import Any

from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.plugins.registry import Registry
from imagegen_core.samplers import OwnScheduler, Sampler, find_sampling
from imagegen_core.schedules import AUTOMATIC, plain_name
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.txt2img import Txt2ImgBody

_UNASKED_ETA = _UNASKED_NOISE = 1.0  # A1111's defaults
_NORMAL = plain_name("Normal")
_SAME_SAMPLER, _SAME_SCHEDULE = ("", "Use same sampler"), ("", "Use same scheduler")  # for the second stage


def sampling_of(body: DrawingBody, card: ModelCard, registry: Registry) -> dict[str, Any]:
    """Return the sampling fields of a `GenerateRequest`.

    A1111's clients send default values even to samplers without such options. These values are ignored.

    Raises:
        InvalidRequestError: There is no such sampler or schedule.
    """
    sampler = _sampler(body.sampler, card, registry)
    adds_noise = sampler is None or sampler.eta == 1 or bool(body.s_churn)
    return {
        "scheduler": body.sampler,
        "schedule": _schedule(body.scheduler, body.sampler, sampler),
        "eta": None if _asks_no_eta(body, sampler) else body.eta,
        "s_churn": body.s_churn or None,
        "s_tmin": body.s_tmin or None,
        "s_tmax": body.s_tmax or None,  # A1111's 0 means infinity
        "s_noise": None if body.s_noise == _UNASKED_NOISE or not adds_noise else body.s_noise,
    }


def second_sampling_of(body: Txt2ImgBody, card: ModelCard, registry: Registry) -> dict[str, str | None]:
    """Return the sampling fields of `HiresOptions`; None is the first stage's.

    Another sampler has the first stage's schedule, unless the request gives one: see
    ``StableDiffusionProcessingTxt2Img.init`` in ``modules/processing.py``.

    Raises:
        InvalidRequestError: There is no such sampler or schedule.
    """
    name = None if body.hr_sampler_name in _SAME_SAMPLER else body.hr_sampler_name
    schedule = None if body.hr_scheduler in _SAME_SCHEDULE else body.hr_scheduler
    if name is None and schedule is None:
        return {"scheduler": None, "schedule": None}
    sampler = _sampler(name or body.sampler, card, registry)
    return {"scheduler": name, "schedule": _schedule(schedule or body.scheduler, name or body.sampler, sampler)}


def _sampler(asked: str | None, card: ModelCard, registry: Registry) -> Sampler | None:
    """Return the sampler of the request; None if the worker does not report its default sampler."""
    name = asked or card.sampler
    if name is None:
        return None
    own = card.own_scheduler or OwnScheduler("")
    return find_sampling(name, None, registry.samplers.values(), own)[0]


def _asks_no_eta(body: DrawingBody, sampler: Sampler | None) -> bool:
    """Return True if ``eta`` has no effect: it is A1111's default, or the sampler's own value."""
    if sampler is None:
        return body.eta == _UNASKED_ETA
    return sampler.eta is not None and body.eta in (sampler.eta, _UNASKED_ETA)


def _schedule(asked: str | None, name: str | None, sampler: Sampler | None) -> str | None:
    """Return the schedule's name; None keeps the server's default sampler unchanged.

    ComfyUI's default is ``normal``, and clients for both servers send it along. Some A1111 samplers have no schedule of
    k-diffusion. They ignore ``normal`` here: see ``modules/sd_samplers_timesteps.py``.
    """
    schedule = asked or AUTOMATIC
    if plain_name(schedule) == _NORMAL and (sampler is None or sampler.automatic is None):
        schedule = AUTOMATIC
    return None if name is None and plain_name(schedule) == plain_name(AUTOMATIC) else schedule
