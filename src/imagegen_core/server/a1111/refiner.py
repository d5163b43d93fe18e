"""A1111's refiner fields.

Source: ``apply_refiner`` in ``modules/sd_samplers_common.py`` of A1111 1.10. Before each call of the network, the
refiner takes over if (999 - timestep) / 1000 is ``refiner_switch_at`` or more.
"""

from __future__ import annotations

import math
from typing import Any

from imagegen_core.errors import InvalidRequestError
from imagegen_core.modes import Mode
from imagegen_core.request import shown
from imagegen_core.server.a1111.body import DrawingBody
from imagegen_core.server.a1111.options import find_checkpoint
from imagegen_core.server.context import ServerContext

_NONE = ("", "None", "none")
_LEVELS = 1000
_DIGITS = 6  # so that 0.3 * 1000 is 300


def refiner_of(body: DrawingBody, context: ServerContext, base: Mode) -> dict[str, Any]:
    """Return the fields of a request about its refiner; without a refiner they turn a mode's off.

    Args:
        body: The request's body.
        context: The server.
        base: The mode that draws the request. As in A1111, its own checkpoint is no refiner.

    Raises:
        InvalidRequestError: A field has an invalid value.
    """
    if body.refiner_checkpoint is None:
        return {}
    if body.refiner_checkpoint in _NONE:
        return {"refiner": ""}
    mode = find_checkpoint(body.refiner_checkpoint, context.checkpoints(), "refiner_checkpoint")
    if not (body.refiner_switch_at or 0) > 0:
        raise InvalidRequestError(
            f"Invalid refiner_switch_at {shown(body.refiner_switch_at)}: the refiner would draw all steps; choose it "
            "by sd_model_checkpoint, or take a number above 0, such as 0.8",
            "refiner_switch_at",
        )
    # At this switch, diffusers' rule for whole timesteps is A1111's. At 1 the refiner has no step.
    switch_at = math.ceil(round((body.refiner_switch_at or 0) * _LEVELS, _DIGITS)) / _LEVELS
    if switch_at >= 1 or mode.key == base.key:
        return {"refiner": ""}
    return {"refiner": mode.name, "switch_at": switch_at}
