"""Encode prompts for the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from imagegen_core import ModelLoadError
from imagegen_openvino.folder import Marks
from imagegen_openvino.noise import Floats
from imagegen_openvino.runtime import Network


@dataclass(frozen=True, slots=True)
class Conditioning:
    """An encoded prompt for the UNet.

    Attributes:
        tokens: The embedded prompt [1, length, width] for cross-attention.
        pooled: The whole prompt's embedding [1, width]; None for SD1.5.
    """

    tokens: Floats
    pooled: Floats | None

    def zeros(self) -> Conditioning:
        """Return a conditioning of zeros with the same shapes."""
        return Conditioning(np.zeros_like(self.tokens), None if self.pooled is None else np.zeros_like(self.pooled))

    def lengthened(self, filler: Conditioning, length: int) -> Conditioning:
        """Return this prompt with tokens of `filler` at its end, up to `length`, a multiple of the filler's length."""
        missing = (length - self.tokens.shape[1]) // filler.tokens.shape[1]
        return Conditioning(np.concatenate([self.tokens, *[filler.tokens] * missing], axis=1), self.pooled)


class TextEncoder:
    """A CLIP text encoder with its tokenizer. Prompts are plain text: brackets have no meaning."""

    def __init__(self, network: Network, tokenizer: Path, marks: Marks) -> None:
        """Take a network from token ids [1, length] to hidden states, and perhaps a projection.

        Raises:
            ModelLoadError: The tokenizer's file is missing or damaged.
        """
        self._network = network
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # tokenizers raises no other class
            raise ModelLoadError(f"Cannot read {tokenizer} ({error}): export the checkpoint again") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._marks = marks

    def encode(self, prompt: str) -> Conditioning:
        """Encode a prompt in chunks of the encoder's length; only the first chunk's projection counts."""
        marks = self._marks
        ids = self._tokenizer.encode(prompt, add_special_tokens=False).ids
        room = marks.length - 2
        states, pooled = [], None
        for start in range(0, max(len(ids), 1), room):
            chunk = ids[start : start + room]
            framed = [marks.start, *chunk, marks.end, *[marks.padding] * (room - len(chunk))]
            state, *projection = self._network(ids=np.array([framed], np.int64))
            states.append(state)
            pooled = projection[0] if projection and pooled is None else pooled
        return Conditioning(np.concatenate(states, axis=1), pooled)


def encode(encoders: Sequence[TextEncoder], prompt: str) -> Conditioning:
    """Encode a prompt with all text encoders: join their hidden states by width, and keep the last projection."""
    embedded = [encoder.encode(prompt) for encoder in encoders]
    return Conditioning(
        np.concatenate([conditioning.tokens for conditioning in embedded], axis=-1), embedded[-1].pooled
    )
