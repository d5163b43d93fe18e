"""Check by shapes alone that the matrices of a LoRA fit together and fit the layer.

The algorithms and their names are LyCORIS's (https://arxiv.org/abs/2309.14859): LoRA and LoCon, also with a Tucker
core; LoHa, a Hadamard product of two LoRAs; LoKr, a Kronecker product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_PLAIN = 2  # the dimensions of a linear layer's weight


class ShapeError(ValueError):
    """The mismatch, in words."""


def rank(shapes: Shapes) -> int | None:
    """Return the rank that divides alpha; None if the matrices are full, and alpha has no effect.

    Args:
        shapes: A layer's tensors by their roles, of one algorithm.
    """
    if "down" in shapes:
        return shapes["down"][0]
    if "hada_w1_b" in shapes:
        return shapes["hada_w1_b"][0]
    # LyCORIS divides by the rank of the second factor if both are products.
    factor = shapes.get("lokr_w2_b", shapes.get("lokr_w1_b"))
    return factor[0] if factor else None


def delta_shape(shapes: Shapes) -> Shape:
    """Return the shape of a layer's change. The kernel has one extent or several.

    Args:
        shapes: A layer's tensors by their roles, of one algorithm.

    Raises:
        ShapeError: The tensors do not fit together.
    """
    if any(0 in shape for shape in shapes.values()):
        raise ShapeError("it has an empty matrix")
    if "down" in shapes:
        return _lora(shapes)
    if "hada_w1_a" in shapes:
        return _loha(shapes)
    return _lokr(shapes)


def fits(delta: Shape, weight: Shape) -> bool:
    """Return whether a change can be added to a weight. A 1x1 kernel counts as none."""
    return _squeezed(delta) == _squeezed(weight) or (
        delta[:1] == weight[:1] and len(delta) == _PLAIN and math.prod(delta) == math.prod(weight)
    )


def _lora(shapes: Shapes) -> Shape:
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    _expect(len(down) >= _PLAIN and len(up) >= _PLAIN, "its matrices have fewer than two dimensions")
    _expect(math.prod(up[2:]) == 1, f"its up matrix is of shape {_shown(up)}")
    if mid is None:
        _expect(up[1] == down[0], f"its matrices are of ranks {down[0]} and {up[1]}")
        return (up[0], *down[1:])
    _expect(len(mid) > _PLAIN and mid[:2] == (up[1], down[0]), f"its core is of shape {_shown(mid)}")
    _expect(math.prod(down[2:]) == 1, f"its down matrix is of shape {_shown(down)}")
    return (up[0], down[1], *mid[2:])


def _loha(shapes: Shapes) -> Shape:
    first = _product(shapes["hada_w1_a"], shapes["hada_w1_b"], shapes.get("hada_t1"))
    second = _product(shapes["hada_w2_a"], shapes["hada_w2_b"], shapes.get("hada_t2"))
    _expect(first == second, f"its two products are of shapes {_shown(first)} and {_shown(second)}")
    return first


def _lokr(shapes: Shapes) -> Shape:
    first, second = shapes.get("lokr_w1"), shapes.get("lokr_w2")
    if first is None:
        first = _product(shapes["lokr_w1_a"], shapes["lokr_w1_b"])
    if second is None:
        second = _product(shapes["lokr_w2_a"], shapes["lokr_w2_b"], shapes.get("lokr_t2"))
    _expect(len(first) == _PLAIN and len(second) >= _PLAIN, "its factors have fewer than two dimensions")
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _product(left: Shape, right: Shape, core: Shape | None = None) -> Shape:
    """Return the shape of ``left @ right``, or with a Tucker core of ``core ×₁ leftᵀ ×₂ right``."""
    _expect(len(left) == len(right) == _PLAIN, "its matrices do not have two dimensions")
    if core is None:
        _expect(left[1] == right[0], f"its matrices are of ranks {left[1]} and {right[0]}")
        return (left[0], right[1])
    _expect(len(core) > _PLAIN and core[:2] == (left[0], right[0]), f"its core is of shape {_shown(core)}")
    return (left[1], right[1], *core[2:])


def _expect(holds: bool, fault: str) -> None:
    if not holds:
        raise ShapeError(fault)


def _squeezed(shape: Shape) -> Shape:
    while len(shape) > _PLAIN and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shown(shape: Shape) -> str:
    return "×".join(map(str, shape[:6])) or "one number"
