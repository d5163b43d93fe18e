"""The seeds of a request's pictures, with A1111's extra seeds.

Source: ``process_images_inner`` in ``modules/processing.py`` and ``ImageRNG`` in ``modules/rng.py`` of A1111 1.10.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import cycle, islice

from imagegen_core.request import VAE_REDUCTION, GenerateRequest, Variation, with_counted_seeds
from imagegen_core.server.a1111.body import DrawingBody

_RANDOM_SEEDS = 2**32


def seeded(body: DrawingBody, requests: Sequence[GenerateRequest]) -> list[GenerateRequest]:
    """Return the requests of all pictures, with seeds that count up.

    Each of the ``n_iter`` rounds draws `requests`, or a single request ``batch_size`` times.

    With a strength of the extra seed, the extra seeds count up instead, and all pictures have the same seed.

    Raises:
        InvalidRequestError: A seed is out of range.
    """
    count = (len(requests) if len(requests) > 1 else body.batch_size) * body.n_iter
    size = _resized_from(body)
    if not body.subseed_strength:
        varied = Variation(resize_from=size)
        seeds = [request.seed for request in with_counted_seeds(requests[0], count)]
        return [
            request.model_copy(update={"seed": seed, "variation": varied})
            for seed, request in zip(seeds, cycle(requests), strict=False)
        ]
    (first,) = with_counted_seeds(requests[0], 1)
    extra = secrets.randbelow(_RANDOM_SEEDS) if body.subseed == -1 else body.subseed
    return [
        request.model_copy(
            update={
                "seed": first.seed,
                "variation": Variation(seed=extra + number, strength=body.subseed_strength, resize_from=size),
            }
        )
        for number, request in enumerate(islice(cycle(requests), count))
    ]


def _resized_from(body: DrawingBody) -> str | None:
    """Return the size for the noise's middle; A1111 needs both sides, and rounds down to whole latents."""
    width, height = (side // VAE_REDUCTION for side in (body.seed_resize_from_w, body.seed_resize_from_h))
    return f"{width * VAE_REDUCTION}x{height * VAE_REDUCTION}" if width > 0 and height > 0 else None
