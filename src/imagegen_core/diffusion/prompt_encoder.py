"""Encode a request's prompts with the family's `encode`, and keep recent prompts."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple, Protocol

from cachetools import LRUCache

from imagegen_core.diffusion.conditioning import Conditioning
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.parts import Parts, works_in_parts
from imagegen_core.request import ResolvedRequest

logger = logging.getLogger(__name__)

_CHUNK = 77  # tokens
_CACHED_TOKENS = 128 * _CHUNK  # of all prompts together
_LONGEST_CACHED = 16 * _CHUNK  # so that a few long prompts do not displace all others


class EncodesPrompts(Protocol):
    """The part of a family's worker that encodes prompts; see `DiffusionWorker`."""

    def check(self, request: ResolvedRequest) -> None:
        """Refuse a request whose prompts the family cannot encode."""
        ...

    def reason_without_guidance(self, request: ResolvedRequest) -> str | None:
        """Return the reason why a request is drawn without a negative prompt; None if it is drawn with one."""
        ...

    def encode(self, prompt: str, clip_skip: int) -> Conditioning:
        """Encode a prompt."""
        ...

    def encode_absent(self, clip_skip: int) -> Conditioning:
        """Encode the replacement for a missing negative prompt."""
        ...


class _CacheKey(NamedTuple):
    """The cache key of an encoded prompt; it includes the LoRAs, because these also change the text encoders."""

    prompt: str
    clip_skip: int
    adapters: tuple[Adapter, ...]


class PromptEncoder:
    """Encodes the prompts of requests.

    Its methods take the family's worker as an argument. A reference to the worker would make a reference cycle, and
    only the garbage collector would free the model.
    """

    def __init__(self, adapters: Adapters) -> None:
        """Create an empty cache; `adapters` are the pipeline's LoRAs."""
        self._adapters = adapters
        self._cache: LRUCache[_CacheKey, Conditioning] = LRUCache(_CACHED_TOKENS, _tokens)

    def encode(
        self, family: EncodesPrompts, request: ResolvedRequest, adapters: tuple[Adapter, ...]
    ) -> Parts[list[Conditioning]]:
        """Encode the negative prompt and the prompt of a guided request, else only the prompt, all equally long.

        The LoRAs are activated before each part, because steps of other requests in between activate their own.

        Raises:
            InvalidRequestError: The family cannot encode a prompt.
        """
        parts = self._conditionings(family, request)
        while True:
            self._adapters.use(adapters)
            try:
                next(parts)
            except StopIteration as end:
                conditionings: list[Conditioning] = end.value
                return conditionings
            yield

    def encode_one(self, family: EncodesPrompts, prompt: str, clip_skip: int) -> Parts[Conditioning]:
        """Encode a prompt with the active LoRAs, or take it from the cache."""
        key = _CacheKey(prompt, clip_skip, self._adapters.active)
        conditioning = self._cache.get(key)
        if conditioning is None:
            if works_in_parts(family, "encode"):
                in_parts: Any = family
                conditioning = yield from in_parts.encode_in_parts(prompt, clip_skip)
            else:
                conditioning = family.encode(prompt, clip_skip)
            if _tokens(conditioning) <= _LONGEST_CACHED:
                self._cache[key] = conditioning
        return conditioning

    def _conditionings(self, family: EncodesPrompts, request: ResolvedRequest) -> Parts[list[Conditioning]]:
        family.check(request)
        prompt = yield from self.encode_one(family, request.prompt, request.clip_skip)
        if reason := family.reason_without_guidance(request):
            _warn_without_guidance(request, reason)
            return [prompt]
        yield
        if request.negative_prompt is None:
            negative = filler = family.encode_absent(request.clip_skip)
        else:
            negative = yield from self.encode_one(family, request.negative_prompt, request.clip_skip)
            filler = negative
        tokens = max(_tokens(negative), _tokens(prompt))
        if request.negative_prompt is not None and min(_tokens(negative), _tokens(prompt)) < tokens:
            filler = yield from self.encode_one(family, "", request.clip_skip)
        return [negative.lengthened(filler, tokens), prompt.lengthened(filler, tokens)]


def _warn_without_guidance(request: ResolvedRequest, reason: str) -> None:
    if request.negative_prompt:
        logger.warning("The negative prompt has no effect: %s", reason)
    if request.guidance_rescale:
        logger.warning("The guidance rescale has no effect: %s", reason)


def _tokens(conditioning: Conditioning) -> int:
    return conditioning.tokens.shape[1]
