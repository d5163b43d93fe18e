"""Decode final latents to pixels, and pool them to a small fingerprint for the picture's file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imagegen_core import ImagegenError
from imagegen_openvino.noise import Floats
from imagegen_openvino.runtime import Network

_POOLED_SIDE = 8


def decode(decoder: Network, latents: Floats) -> npt.NDArray[np.uint8]:
    """Decode latents [1, 4, h, w] to pixels [8 h, 8 w, 3].

    Raises:
        ImagegenError: The pixels are not finite.
    """
    ((image,),) = decoder(latents=latents)
    if not np.isfinite(image).all():
        raise ImagegenError("The networks computed no numbers (NaN): set CUDA_DTYPE to fp32, or export again")
    levels = np.rint(np.clip(image / 2 + 0.5, 0, 1) * 255)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(1, 2, 0))


def pool(latents: Floats) -> bytes:
    """Average latents [1, 4, h, w] in float32 down to 8×8, as 512 bytes of little-endian float16, NCHW.

    If a side is no multiple of 8, windows overlap, as in torch's ``adaptive_avg_pool2d``.
    """
    rows, columns = (_windows(side) for side in latents.shape[2:])
    means = [[latents[:, :, row, column].mean(axis=(2, 3)) for column in columns] for row in rows]
    return np.array(means).transpose(2, 3, 0, 1).astype("<f2").tobytes()


def _windows(side: int) -> list[slice]:
    starts = (index * side // _POOLED_SIDE for index in range(_POOLED_SIDE))
    ends = (-(-(index + 1) * side // _POOLED_SIDE) for index in range(_POOLED_SIDE))
    return [slice(start, end) for start, end in zip(starts, ends, strict=True)]
