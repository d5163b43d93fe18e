"""Textual-inversion embeddings (https://arxiv.org/abs/2208.01618): names in prompts for vectors from files."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.diffusion.embedding_files import embedding_files, part_keys, read_tensors
from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.errors import ImagegenError, ModelNotFoundError
from imagegen_core.models.tensors import quoted

logger = logging.getLogger(__name__)

TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
"""The tokenizers of CLIP text encoders, by their names in a pipeline."""
_PARTS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # in files for pipelines with both


@dataclass(frozen=True, slots=True)
class Embedding:
    """A name for prompts, and its vectors.

    Attributes:
        name: The name in prompts, in upper or lower case.
        vectors: For each text encoder, by its name in the pipeline, the vectors [count, width] that replace its token
            embeddings. They have the encoder's dtype and device. The counts are equal.
    """

    name: str
    vectors: Mapping[str, Tensor]


class Embeddings:
    """The embeddings for prompts, from a folder and from LoRAs."""

    def __init__(self, pipe: Any, encoders: Sequence[str], folder: Path | None, source: str) -> None:
        """Read a folder's embeddings; skip unsuitable files with a warning that gives the reason.

        Args:
            pipe: A diffusers pipeline.
            encoders: Its CLIP text encoders, as far as it has them; without encoders, no file is read.
            folder: The folder of the files, with its subfolders; None for no files. Prompts use a file's name without
                its suffix.
            source: The setting of `folder`, for errors.

        Raises:
            ModelNotFoundError: The folder does not exist.
        """
        self._encoders: dict[str, Any] = {
            name: getattr(pipe, name) for name in encoders if getattr(pipe, name, None) is not None
        }
        self._tokenizers: dict[str, Any] = {name: getattr(pipe, TOKENIZERS[name], None) for name in self._encoders}
        self._embeddings: tuple[Embedding, ...] = ()
        self._others: Embeddings | None = None
        self._of_encoders: dict[str, EncoderEmbeddings] = {}
        if folder is None or not self._encoders:
            return
        if not folder.is_dir():
            raise ModelNotFoundError(f"The folder of embeddings {folder} is not there: correct {source}")
        self._embeddings = tuple(self._read(folder))

    def embedding(self, name: str, tensors: Mapping[str, Tensor]) -> Embedding:
        """Make an embedding for the pipeline's text encoders.

        Args:
            name: The name in prompts.
            tensors: The vectors, by their keys in an embedding's file.

        Raises:
            ValueError: The vectors do not fit, or some are unused; the message is the end of a sentence.
        """
        keys = part_keys(tensors)
        for key in keys.values():
            if tensors[key].ndim not in (1, 2):
                shape = list(tensors[key].shape)
                raise ValueError(f"its tensor {quoted(key)} has the shape {shape}, and expected is [vectors, width]")
        parts = {encoder: _PARTS[encoder] for encoder in self._encoders}
        if len(self._encoders) == 1 and ("" in keys or "text_encoder" in parts):
            if "" not in keys:
                raise ValueError(
                    "it has parts for two text encoders, and this checkpoint has one; take one for its family"
                )
            parts = dict.fromkeys(parts, "")
        vectors = {
            encoder: self._vectors(encoder, tensors[keys[part]] if part in keys else None)
            for encoder, part in parts.items()
        }
        counts = {parts[encoder]: len(part) for encoder, part in vectors.items()}
        if len({*counts.values()}) > 1:
            listed = " and ".join(f"{count} in {part}" for part, count in counts.items())
            raise ValueError(f"its parts differ in the number of vectors, {listed}; it is incomplete or damaged")
        if not self._name_ids(name):
            raise ValueError("its name has no letters that a prompt could have; rename it")
        return Embedding(name, vectors)

    def with_bundled(self, bundled: Sequence[Embedding]) -> Embeddings:
        """Return these embeddings and `bundled`; for equal names, `bundled` wins."""
        if not bundled:
            return self
        view = copy.copy(self)
        view._embeddings, view._others, view._of_encoders = tuple(bundled), self, {}  # noqa: SLF001 - the same class
        return view

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """The number and width of each embedding's vectors for the first text encoder, by the embedding's name."""
        firsts = {embedding.name: next(iter(embedding.vectors.values())) for embedding in self._embeddings}
        return {name: (vectors.shape[0], vectors.shape[1]) for name, vectors in firsts.items()}

    def of(self, encoder: str) -> EncoderEmbeddings:
        """Return the embeddings for one text encoder, by its name in the pipeline, such as ``text_encoder_2``."""
        if encoder not in self._of_encoders:
            vectors: dict[str, Tensor] = {}
            for embedding in self._embeddings:
                vectors.setdefault(embedding.name, embedding.vectors[encoder])
            others = None if self._others is None else self._others.of(encoder)
            self._of_encoders[encoder] = EncoderEmbeddings(self._tokenizers[encoder], vectors, others)
        return self._of_encoders[encoder]

    def _read(self, folder: Path) -> Iterator[Embedding]:
        paths: dict[tuple[int, ...], Path] = {}
        for path in embedding_files(folder):
            shown = path.relative_to(folder)
            try:
                embedding = self.embedding(path.stem, read_tensors(path))
            except (ImagegenError, ValueError) as error:
                logger.warning("The embedding %s is skipped: %s", shown, error)
                continue
            first = paths.setdefault(self._name_ids(path.stem), shown)
            if first == shown:
                yield embedding
            else:
                logger.warning(
                    "The embedding %s is skipped: %s has the same name for prompts; rename one", shown, first
                )

    def _name_ids(self, name: str) -> tuple[int, ...]:
        tokenizer = next(iter(self._tokenizers.values()))
        return tuple(tokenizer(name, add_special_tokens=False).input_ids)

    def _vectors(self, encoder: str, tensor: Tensor | None) -> Tensor:
        """Check a part, and convert it for its encoder as [count, width]."""
        width = self._encoders[encoder].config.hidden_size
        if tensor is None or tensor.shape[-1] != width:
            have = "none" if tensor is None else f"vectors {tensor.shape[-1]} wide"
            raise ValueError(f"this checkpoint's {encoder} takes vectors {width} wide, and it has {have} for it")
        longest = self._tokenizers[encoder].model_max_length - 2
        vectors = tensor.detach().reshape(-1, width)
        if not 0 < len(vectors) <= longest:
            raise ValueError(f"it has {len(vectors)} vectors, and from 1 to {longest} can stand for a name")
        fitted: Tensor = vectors.to(self._encoders[encoder].get_input_embeddings().weight)
        if not torch.isfinite(fitted).all():
            raise ValueError(f"its vectors hold values that are infinite or not numbers in {fitted.dtype}")
        return fitted
