"""Encode a request's prompts with the family's `encode`, and keep recent prompts."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from cachetools import LRUCache

from imagegen_core.diffusion.conditioning import Conditioning, prompt_chunks
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_core.diffusion.guidance import is_guided
from imagegen_core.diffusion.loras.adapters import Adapter, Adapters
from imagegen_core.errors import InvalidRequestError
from imagegen_core.parts import Parts, works_in_parts
from imagegen_core.request import ResolvedRequest

_CHUNK = 77  # tokens
_CACHED_TOKENS = 128 * _CHUNK  # of all prompts together
_LONGEST_CACHED = 16 * _CHUNK  # so that a few long prompts do not displace all others


class EncodesPrompts(Protocol):
    """The part of a family's worker that encodes prompts; see `DiffusionWorker`."""

    @property
    def embeddings(self) -> Embeddings:
        """The textual-inversion embeddings for prompts."""
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
    """Checks and encodes the prompts of a pipeline.

    Its methods take the family's worker as an argument. A reference to the worker would make a reference cycle, and
    only the garbage collector would free the model.
    """

    def __init__(self, pipe: Any, adapters: Adapters, max_chunks: int) -> None:
        """Create an empty cache.

        Args:
            pipe: The pipeline, with ``tokenizer`` and ``text_encoder``.
            adapters: Its LoRAs.
            max_chunks: Maximum length of a prompt in chunks of 75 tokens.
        """
        self._pipe, self._adapters, self._max_chunks = pipe, adapters, max_chunks
        self._cache: LRUCache[_CacheKey, Conditioning] = LRUCache(_CACHED_TOKENS, _tokens)

    def encode(
        self, family: EncodesPrompts, request: ResolvedRequest, adapters: tuple[Adapter, ...]
    ) -> Parts[list[Conditioning]]:
        """Encode the negative prompt and the prompt of a guided request, else only the prompt, all equally long.

        The LoRAs are activated before each part, because steps of other requests in between activate their own.

        Raises:
            InvalidRequestError: A prompt is too long, or `clip_skip` is too large.
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
        self._check_clip_skip(request.clip_skip)
        guided, wanted = is_guided(self._pipe, request), request.negative_prompt
        self._check_length(family, request.prompt, "prompt")
        if guided and wanted:
            self._check_length(family, wanted, "negative_prompt")
        prompt = yield from self.encode_one(family, request.prompt, request.clip_skip)
        if not guided:
            return [prompt]
        yield
        absent = family.encode_absent(request.clip_skip)
        negative, filler = absent, absent
        if wanted is not None:
            negative = yield from self.encode_one(family, wanted, request.clip_skip)
            filler = yield from self.encode_one(family, "", request.clip_skip)
        tokens = max(_tokens(negative), _tokens(prompt))
        return [negative.lengthened(filler, tokens), prompt.lengthened(filler, tokens)]

    def _check_clip_skip(self, clip_skip: int) -> None:
        layers = self._pipe.text_encoder.config.num_hidden_layers
        if clip_skip >= layers - 1:
            raise InvalidRequestError(
                f"Invalid clip_skip {clip_skip}: this checkpoint's text encoder has {layers} layers; "
                f"expected a whole number from 0 to {layers - 2}",
                "clip_skip",
            )

    def _check_length(self, family: EncodesPrompts, prompt: str, field: str) -> None:
        count = len(prompt_chunks(self._pipe.tokenizer, prompt, family.embeddings.of("text_encoder"), field))
        if count > self._max_chunks:
            raise InvalidRequestError(
                f"Invalid {field} of {count} chunks of up to 75 tokens: expected at most {self._max_chunks}, the limit "
                "max_prompt_chunks; shorten it, or leave out BREAKs",
                field,
            )


def _tokens(conditioning: Conditioning) -> int:
    return conditioning.tokens.shape[1]
