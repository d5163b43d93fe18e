"""The worker's part of a picture's recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from imagegen_core.backend import Backend
from imagegen_core.diffusion.scheduling import Sampling
from imagegen_core.diffusion.stage_upscaling import LoadedUpscaler
from imagegen_core.images.recipe import Recipe
from imagegen_core.models.named import NamedModel
from imagegen_core.numerics import NumericsPlan
from imagegen_core.request import ResolvedRequest, Size
from imagegen_core.settings import PredictionName

_HASH_DIGITS = 10


class RecipeBuilder:
    """Builds recipes for one worker's pictures, with its checkpoint, its backend and its numerics plan."""

    def __init__(
        self,
        backend: Backend,
        checkpoint: Path,
        network: str,
        models: Iterable[NamedModel],
        device: torch.device,
        numerics: NumericsPlan,
        prediction: PredictionName | None,
        embed_inputs: int,
    ) -> None:
        """Start to hash the checkpoint in the background.

        Args:
            backend: The worker's backend.
            checkpoint: The worker's checkpoint, a file or a folder.
            network: The folder of the network's weights in a checkpoint's folder.
            models: The plugins' named models; a model's name says more than its path.
            device: The worker's device.
            numerics: The worker's numerics plan.
            prediction: The configured prediction type; None if the checkpoint decides.
            embed_inputs: The largest input picture within a recipe, in bytes as PNG.
        """
        own = checkpoint.name if checkpoint.is_dir() else checkpoint.stem
        self._name = next((model.name for model in models if model.path == checkpoint), own)
        self._backend, self._device, self._numerics = backend.name, str(device), numerics
        self._prediction, self._embed_inputs = prediction, embed_inputs
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-hash")
        self._hash: Future[str | None] = executor.submit(_hash, checkpoint, network)
        executor.shutdown(wait=False)

    def recipe(self, request: ResolvedRequest, sampling: Sampling, upscaler: LoadedUpscaler | None = None) -> Recipe:
        """Return the recipe of a picture.

        Args:
            request: The request.
            sampling: The full names of its sampler and schedule.
            upscaler: The upscaler between its stages, if there is one.
        """
        return Recipe.of(
            request,
            embed_inputs=self._embed_inputs,
            scheduler=sampling.sampler,
            schedule=sampling.schedule,
            checkpoint=self._name,
            checkpoint_hash=self._hash.result(),
            backend=self._backend,
            dtype=self._numerics.precision,
            device=self._device,
            versions=self._numerics.versions if upscaler is None else {**self._numerics.versions, **upscaler.versions},
            upscaler_hash=None if upscaler is None else upscaler.digest,
            numerics=self._numerics.of_picture((request.second_stage or request).size),  # as it is decoded
            prediction=self._prediction,
        )

    def refined(self, recipe: Recipe, size: Size) -> Recipe:
        """Return the recipe of another worker's picture, whose last steps this worker has drawn as the refiner.

        Args:
            recipe: The recipe as of the first worker.
            size: The picture's size.
        """
        numerics = self._numerics.of_picture(size)
        return replace(
            recipe,
            refiner=self._name,
            refiner_hash=self._hash.result(),
            refiner_dtype=None if self._numerics.precision == recipe.dtype else self._numerics.precision,
            refiner_numerics=None if numerics == recipe.numerics else numerics,
            versions={**self._numerics.versions, **recipe.versions},
        )


def _hash(checkpoint: Path, network: str) -> str | None:
    """Return ten hexadecimal digits of the SHA-256 of a file, or of the network's only file in a folder, else None."""
    files = [checkpoint] if checkpoint.is_file() else sorted((checkpoint / network).glob("*.safetensors"))
    if len(files) != 1:
        return None
    with files[0].open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_DIGITS]
