"""The encoder computes what the autoencoder computes, in parts, and keeps the latest encodings within its bytes."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from imagegen_core import Job
from imagegen_core.diffusion import picture_encoder
from imagegen_core.diffusion.input_values import InputValues, Pixels
from imagegen_core.diffusion.picture_encoder import PictureEncoder
from imagegen_core.parts import completed
from tests.pictures_in.conftest import Pair, ask, picture

LIMIT = 30  # seconds


def values(seed: int) -> Pixels:
    """Return a random picture of 64x48 pixels."""
    return Pixels.of(np.random.default_rng(seed).uniform(-1, 1, (1, 3, 48, 64)).astype(np.float32))


@pytest.fixture
def encoder(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An encoder, and the pictures that its autoencoder got."""
    vae, encoded = pair.worker.pipe.vae, []
    original = vae.encoder.conv_in.forward

    def note(pixels: Any) -> Any:
        encoded.append(pixels)
        return original(pixels)

    monkeypatch.setattr(vae.encoder.conv_in, "forward", note)
    return PictureEncoder(vae, lambda: None), encoded


@torch.inference_mode()
def test_moments_are_those_of_the_autoencoder(pair: Pair, encoder: Any) -> None:
    moments = completed(encoder[0].encode(values(1), None))
    assert moments.equal(pair.worker.pipe.vae.encode(values(1).values).latent_dist.parameters)


@torch.inference_mode()
def test_encodings_are_kept_within_their_bytes_and_the_oldest_leaves(
    encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps, encoded = encoder
    size = completed(keeps.encode(values(1), None)).nbytes
    monkeypatch.setattr(picture_encoder, "_KEPT_BYTES", 2 * size)
    for seed in (2, 1, 3, 1):  # 3 displaces 2, because 1 was used after it
        completed(keeps.encode(values(seed), None))
    assert len(encoded) == 3
    completed(keeps.encode(values(2), None))
    assert len(encoded) == 4
    assert sum(moments.nbytes for moments in keeps._kept.values()) == 2 * size


@torch.inference_mode()
def test_a_picture_without_a_hash_is_not_kept(encoder: Any) -> None:
    keeps, encoded = encoder
    for _ in range(2):
        completed(keeps.encode(Pixels(values(1).values), None))
    assert len(encoded) == 2


def test_pictures_are_prepared_beside_the_prompts(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder waits here for the pictures, so they must not wait for it."""
    prepared, original = threading.Event(), InputValues.of

    def prepare(*arguments: Any, **options: Any) -> InputValues:
        values = original(*arguments, **options)
        prepared.set()
        return values

    monkeypatch.setattr(InputValues, "of", prepare)
    in_time = []
    hook = pair.worker.pipe.text_encoder.register_forward_pre_hook(lambda *_: in_time.append(prepared.wait(LIMIT)))
    try:
        pair.worker.begin(Job(req=ask(prompt="a prompt of its own", image=picture(), size="64x48")))
    finally:
        hook.remove()
    assert in_time == [True]
