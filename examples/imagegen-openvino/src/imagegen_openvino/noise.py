"""The noise of torch's CPU generator in numpy, so that a seed gives the same picture as with torch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_VECTOR = 16  # torch draws this many numbers at once; it draws fewer numbers singly
_FLOAT_BITS, _DOUBLE_BITS = 24, 53  # the bits of a random integer that torch turns into a fraction


class Noise:
    """Normal numbers as ``torch.randn`` gives them in float32, except for the last digit of some.

    torch draws from a Mersenne Twister, and turns pairs of uniform numbers into normal numbers by Box and Muller's
    method. See ``normal_fill`` in ATen's ``native/cpu/DistributionTemplates.h``; for fewer than 16 numbers, see
    ``normal_distribution`` in ``core/DistributionsHelper.h``.
    """

    def __init__(self, seed: int) -> None:
        """Start from a seed; torch uses its lower 32 bits."""
        self._bits = np.random.MT19937()
        # numpy's own seeding of this generator differs; the seeding of its old interface equals torch's.
        self._bits.state = np.random.RandomState(seed % 2**32).get_state(legacy=False)  # type: ignore[assignment]

    def normal(self, *shape: int) -> Floats:
        """Draw an array with an even number of elements."""
        size = math.prod(shape)
        return (self._many(size) if size >= _VECTOR else self._few(size)).reshape(shape)

    def _many(self, size: int) -> Floats:
        numbers = np.empty(size, np.float32)
        rest = size % _VECTOR
        uniform = self._uniform(size)
        numbers[: size - rest] = _normal(uniform[: size - rest])
        if rest:  # torch draws the last sixteen numbers again
            numbers[-_VECTOR:] = _normal(self._uniform(_VECTOR))
        return numbers

    def _uniform(self, size: int) -> Floats:
        whole: npt.NDArray[np.uint64] = self._bits.random_raw(size) % 2**_FLOAT_BITS
        return whole.astype(np.float32) * np.float32(2.0**-_FLOAT_BITS)

    def _few(self, size: int) -> Floats:
        high, low = self._bits.random_raw(2 * size).reshape(size, 2).T
        whole = (high * 2**32 + low) % 2**_DOUBLE_BITS
        turn, length = (whole * 2.0**-_DOUBLE_BITS).reshape(-1, 2).T
        radius, angle = np.sqrt(-2 * np.log1p(-length)), 2 * np.pi * turn
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _normal(uniform: Floats) -> Floats:
    """Apply Box and Muller's method to pairs at a distance of eight."""
    length, turn = uniform.reshape(-1, 2, _VECTOR // 2).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(1 - length)), np.float32(2 * np.pi) * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
