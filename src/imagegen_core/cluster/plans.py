"""The handshake of the replicas: all replicas of a model draw by one numerics plan."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from imagegen_core.hosting.model_host import HostReport
from imagegen_core.modes import ModelKey
from imagegen_core.numerics import NumericsPlan

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Handshake:
    """A replica's first answer to a request.

    Attributes:
        replica: The replica's name.
        numerics: The numerics plan of the requested model; None if its worker has none.
    """

    replica: str
    numerics: NumericsPlan | None


class PlanMismatchError(Exception):
    """A replica would draw other bytes than the cluster."""


class AgreedPlans:
    """The plan of each model on the cluster: the first replica's, until no replica draws by it any more.

    Only the event loop of the `ReplicaClient` uses it.
    """

    def __init__(self) -> None:
        self._plans: dict[ModelKey, NumericsPlan] = {}
        self._refused: set[tuple[str, ModelKey]] = set()

    def of(self, key: ModelKey) -> NumericsPlan | None:
        """Return the plan of a model, or None before the first handshake."""
        return self._plans.get(key)

    def check(self, key: ModelKey, handshake: Handshake) -> None:
        """Compare a replica's plan with the model's; the first plan becomes the model's.

        Raises:
            PlanMismatchError: The plans differ.
        """
        if handshake.numerics is None:
            return
        plan = self._plans.setdefault(key, handshake.numerics)
        if refusal := refused(plan, handshake.numerics, handshake.replica):
            if (handshake.replica, key) not in self._refused:
                self._refused.add((handshake.replica, key))
                logger.error("%s", refusal)
            raise PlanMismatchError(refusal)

    def keep(self, hosts: Sequence[HostReport]) -> None:
        """Forget the plan of a model if replicas report the model, but none reports this plan."""
        for key, plan in list(self._plans.items()):
            reported = [host.cards[key].numerics for host in hosts if key in host.cards]
            if reported and plan not in reported:
                del self._plans[key]
        present = {host.name for host in hosts}
        self._refused = {(replica, key) for replica, key in self._refused if replica in present}


def refused(plan: NumericsPlan, other: NumericsPlan, replica: str) -> str:
    """Return the sentence of a refusal if another plan gives other bytes, else an empty string."""
    if not (plan.exact or other.exact) or not (differing := plan.differences(other)):
        return ""
    return (
        f"Replica {replica} is refused, because it would draw other bytes than the other replicas: "
        f"{'; '.join(differing)}. Give all replicas machines of one kind and equal settings, or set "
        "IMAGEGEN_BATCHING=fast to accept the difference"
    )
