"""Textual-inversion embeddings (https://arxiv.org/abs/2208.01618): words that mean vectors from files."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imagegen_core.errors import ImagegenError, ModelNotFoundError
from imagegen_core.models.headers import read_header
from imagegen_core.models.inspect import describe

logger = logging.getLogger(__name__)

_SUFFIXES = (".safetensors", ".pt", ".bin")
_ENCODERS = (("tokenizer", "text_encoder", "clip_l"), ("tokenizer_2", "text_encoder_2", "clip_g"))


class Embeddings:
    """The embeddings of a folder, as words of a pipeline's tokenizers: each is called by its file's name."""

    def __init__(self, pipe: Any, folder: Path | None, source: str) -> None:
        """Add the folder's embeddings to the pipeline; those that do not fit are skipped, with a warning that says why.

        Args:
            pipe: A diffusers pipeline.
            folder: Where the files lie; None for none.
            source: Where `folder` was configured, for errors.

        Raises:
            ModelNotFoundError: The folder is not there.
        """
        self._words: dict[str, str] = {}
        if folder is None:
            return
        if not folder.is_dir():
            raise ModelNotFoundError(f"The folder of embeddings {folder} is not there: correct {source}")
        for path in sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES):
            try:
                self._words[path.stem.casefold()] = _add(pipe, path)
            except (ImagegenError, ValueError) as error:
                logger.warning("The embedding %s is skipped: %s", path.name, error)
        names = "|".join(re.escape(name) for name in sorted(self._words, key=len, reverse=True))
        self._named = re.compile(rf"(?<!\w)(?:{names})(?!\w)", re.IGNORECASE)

    def expand(self, prompt: str) -> str:
        """The prompt with each embedding's name replaced by the tokens that stand for its vectors."""
        if not self._words:
            return prompt
        return self._named.sub(lambda found: self._words[found[0].casefold()], prompt)


def _add(pipe: Any, path: Path) -> str:
    """Add a file's vectors to the pipeline's encoders; the tokens that stand for them."""
    if (found := describe(path)).kind != "embedding":
        raise ValueError(f"it is of the kind {found.kind}")
    vectors = _vectors(path)
    encoders = [names for names in _ENCODERS if getattr(pipe, names[1], None) is not None]
    parts = {names: vectors.get(names[2] if len(encoders) > 1 else "", None) for names in encoders}
    for names, part in parts.items():
        width = getattr(pipe, names[1]).config.hidden_size
        if part is None or part.shape[1] != width:
            have = "none" if part is None else f"vectors {part.shape[1]} wide"
            raise ValueError(f"this checkpoint's {names[1]} takes vectors {width} wide, and it has {have} for it")
    count = max(len(part) for part in parts.values() if part is not None)
    tokens = [f"<{path.stem.casefold()}-{index}>" for index in range(count)]
    for (tokenizer, encoder, _), part in parts.items():
        if part is not None:
            _teach(getattr(pipe, tokenizer), getattr(pipe, encoder), tokens, part)
    return " ".join(tokens)


def _vectors(path: Path) -> dict[str, Tensor]:
    """The vectors [count, width] by encoder, under "" where there is one; diffusers', A1111's and SDXL's layouts."""
    if read_header(path).format == "safetensors":
        from safetensors.torch import load_file

        state: dict[str, Any] = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    if "string_to_param" in state:
        state = {"": next(iter(state["string_to_param"].values()))}
    tensors = {name: tensor.detach() for name, tensor in state.items() if isinstance(tensor, Tensor)}
    if "clip_l" not in tensors:
        tensors = {"": next(iter(tensors.values()))}
    return {name: tensor.reshape(-1, tensor.shape[-1]) for name, tensor in tensors.items()}


@torch.no_grad()
def _teach(tokenizer: Any, encoder: Any, tokens: list[str], vectors: Tensor) -> None:
    tokenizer.add_tokens(tokens)
    if encoder.get_input_embeddings().num_embeddings < len(tokenizer):
        encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    table = encoder.get_input_embeddings().weight
    for token, vector in zip(tokens, vectors, strict=True):
        table[tokenizer.convert_tokens_to_ids(token)] = vector.to(table)
    for module in encoder.modules():
        # Old configs have transformers pool at the largest id, which is no longer the end's.
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
