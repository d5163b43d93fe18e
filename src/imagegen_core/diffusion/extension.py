"""Parts of denoising beside the network: guidance, ControlNet, masks, caches and the like."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from imagegen_core.diffusion.denoising import Denoising
    from imagegen_core.diffusion.network_inputs import NetworkInputs
    from imagegen_core.family import Family
    from imagegen_core.settings import Settings


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A worker's model, for its extensions.

    Attributes:
        pipe: The diffusers pipeline.
        network: The pipeline's network for denoising.
        family: The checkpoint's family.
        device: The pipeline's device.
        dtype: The precision of the network's weights.
        settings: The worker's settings.
    """

    pipe: Any
    network: Any
    family: Family
    device: torch.device
    dtype: torch.dtype
    settings: Settings


class Extension:
    """The base class of denoising extensions; each method's default changes nothing.

    A worker makes one object of each extension at load, and asks it at the beginning of each request. Anything about
    one request belongs in the request's part, which `begin` returns. So no request changes the pictures of others.

    Attributes:
        name: The extension's name in group keys and errors.
        exact: Whether a row's results do not depend on the other rows of a pass. If not, the extension's requests are
            drawn alone.
        model: The worker's model.
        order: The place among a request's extensions, smallest first. Classifier-free guidance has 100: extensions
            before it see a prediction for each conditioning, and those after it see the guided prediction.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True
    order: ClassVar[int] = 0

    def __init__(self, model: LoadedModel) -> None:
        """Prepare for a worker's model.

        Raises:
            ImagegenError: The extension cannot be used with this model; the worker does not load.
        """
        self.model = model

    def begin(self, state: Denoising) -> Any | None:  # noqa: ARG002 - for extensions
        """Return the request's part in this extension; None if the request does not use it.

        The method may change the state, for example its latents or conditionings.

        Args:
            state: The request before its first step.

        Raises:
            InvalidRequestError: The request asks for something impossible.
        """
        return None

    def group(self, part: Any) -> Hashable | None:  # noqa: ARG002 - for extensions
        """Return the key for shared passes; None if users of this extension may share a pass with any request.

        Only requests with equal keys share a pass. The key's text describes the group to people.
        """
        return None

    def before_network(self, inputs: NetworkInputs) -> None:
        """Change the inputs of a forward pass with a user of this extension, or wrap its network.

        With this method, the extension's requests run without CUDA graphs: a graph would repeat an earlier pass.

        Args:
            inputs: All rows of the pass. ``state.parts.get(self)`` is the part of a row's state, or None.
        """

    def combine(self, state: Denoising, part: Any, prediction: Tensor) -> Tensor:  # noqa: ARG002 - for extensions
        """Return the prediction for the next extension, and after the last extension for the scheduler.

        Args:
            state: The request.
            part: The request's part.
            prediction: The network's prediction [rows, ...]; after guidance [1, ...].
        """
        return prediction

    def after_step(self, state: Denoising, part: Any) -> None:
        """Change the state after a step, for example its latents."""
