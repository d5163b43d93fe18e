"""A1111's sampler, noise schedule and step options, as this server names them."""

from __future__ import annotations

from typing import Any

from imagegen_core.hosting.model_card import ModelCard
from imagegen_core.plugins.registry import Registry
from imagegen_core.samplers import OwnScheduler, Sampler, find_sampling
from imagegen_core.schedules import AUTOMATIC, plain_name
from imagegen_core.server.a1111.body import Txt2ImgBody

_UNASKED_ETA = _UNASKED_NOISE = 1.0  # A1111's defaults
_NORMAL = plain_name("Normal")


def sampling_of(body: Txt2ImgBody, card: ModelCard, registry: Registry) -> dict[str, Any]:
    """Return the fields of a `GenerateRequest` that say how it is sampled.

    A1111's clients send its defaults along, also to samplers that have no such thing: these ask nothing.

    Raises:
        InvalidRequestError: There is no such sampler or schedule.
    """
    sampler = _sampler(body, card, registry)
    adds_noise = sampler is None or sampler.eta == 1 or bool(body.s_churn)
    return {
        "scheduler": body.sampler,
        "schedule": _schedule(body, sampler),
        "eta": None if _asks_no_eta(body, sampler) else body.eta,
        "s_churn": body.s_churn or None,
        "s_tmin": body.s_tmin or None,
        "s_tmax": body.s_tmax or None,  # A1111's 0 is infinity
        "s_noise": None if body.s_noise == _UNASKED_NOISE or not adds_noise else body.s_noise,
    }


def _sampler(body: Txt2ImgBody, card: ModelCard, registry: Registry) -> Sampler | None:
    """The sampler that draws; None where the worker does not say which it takes by itself."""
    name = body.sampler or card.sampler
    if name is None:
        return None
    own = card.own_scheduler or OwnScheduler("")
    return find_sampling(name, None, registry.samplers.values(), own)[0]


def _asks_no_eta(body: Txt2ImgBody, sampler: Sampler | None) -> bool:
    """Whether ``eta`` leaves the sampler as it is: at its default, or at 0 where the sampler adds no noise."""
    if sampler is None:
        return body.eta == _UNASKED_ETA
    return sampler.eta is not None and body.eta in (sampler.eta, _UNASKED_ETA)


def _schedule(body: Txt2ImgBody, sampler: Sampler | None) -> str | None:
    """The schedule's name; None leaves the server's default sampler as the server has it.

    Clients that also speak to ComfyUI send its default, ``normal``, along. Where A1111's sampler has no schedule of
    k-diffusion's, it draws as ever: see ``modules/sd_samplers_timesteps.py``.
    """
    schedule = body.scheduler or AUTOMATIC
    if plain_name(schedule) == _NORMAL and (sampler is None or sampler.automatic is None):
        schedule = AUTOMATIC
    return None if body.sampler is None and plain_name(schedule) == plain_name(AUTOMATIC) else schedule
