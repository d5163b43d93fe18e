"""The values of a request's input picture, as the networks take them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imagegen_core.diffusion.canvas import Canvas
from imagegen_core.request import ResolvedRequest, Size


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture to encode.

    Attributes:
        values: Values from -1 to 1 in fp32 on the CPU, [1, 3, height, width].
        digest: The SHA-256 of the shape and the values; None keeps no encoding of the picture.
    """

    values: Tensor
    digest: str | None = None

    @classmethod
    def of(cls, values: npt.NDArray[np.float32]) -> Self:
        """Hash a picture's values."""
        digest = hashlib.sha256(f"{values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
        return cls(torch.from_numpy(values), digest.hexdigest())

    @property
    def size(self) -> Size:
        """The picture's size."""
        return Size(self.values.shape[-1], self.values.shape[-2])


@dataclass(frozen=True, slots=True)
class InputValues:
    """What a drawing takes from its input picture.

    Attributes:
        canvas: The prepared picture; None without one.
        image: The picture to begin with, if the drawing does not begin with noise alone.
        around: For a network that sees it, the picture without the masked part; grey where everything is drawn.
        mask: 1 where the picture is drawn, else 0, [1, 1, height, width].
    """

    canvas: Canvas | None
    image: Pixels | None
    around: Pixels | None
    mask: Tensor

    @classmethod
    def of(cls, request: ResolvedRequest, *, begins: bool = True, sees: bool = False) -> Self:
        """Prepare the pictures of a request; this may take longer than a step, so call it on another thread.

        Args:
            request: The request.
            begins: Whether the drawing begins with the picture.
            sees: Whether the network sees the picture around the mask.

        Raises:
            PictureError: A picture is damaged.
            InvalidRequestError: The mask is empty, or the image is too narrow for its resize.
        """
        canvas = None if request.image is None else Canvas.of(request)
        sides = (request.size.height, request.size.width)
        mask, pixels = np.ones((1, 1, *sides), np.float32), None
        if canvas is not None:
            pixels = canvas.pixels()
            if canvas.mask is not None:
                mask = canvas.mask_values()
        around = np.zeros((1, 3, *sides), np.float32)
        if sees and canvas is not None and canvas.mask is not None:
            around = canvas.pixels() * (mask < 0.5)  # noqa: PLR2004 - as in diffusers
        return cls(
            canvas,
            Pixels.of(pixels) if pixels is not None and begins else None,
            Pixels.of(around) if sees else None,
            torch.from_numpy(mask),
        )
