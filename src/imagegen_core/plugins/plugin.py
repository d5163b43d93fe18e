"""The state of one plugin: its origin, its offers and its faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DENY_VARIABLE = "IMAGEGEN_PLUGINS_DISABLED"
CORE = "imagegen-core"

Status = Literal["ok", "disabled", "broken"]


@dataclass(slots=True)
class Plugin:
    """One entry point and its state.

    Attributes:
        name: The entry point's name, used in the allow- and deny-list.
        distribution: The name of its installed distribution.
        version: That distribution's version.
        status: ``ok``, ``disabled`` by a list, or ``broken``.
        cause: The reason why it is not ``ok``, in a sentence.
        mend: The remedy, in a sentence.
        offers: Its offers, such as ``backend mine``.
        remarks: Its faults while it works, and the remedy for each, a sentence each.
    """

    name: str
    distribution: str
    version: str
    status: Status = "ok"
    cause: str = ""
    mend: str = ""
    offers: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def update(self) -> str:
        """The remedy if only its authors can help."""
        return f"update {self.distribution}, or report it to its authors"

    @property
    def disable(self) -> str:
        """The remedy for any fault."""
        return f"disable it with {DENY_VARIABLE}={self.name}, and {self.update}"

    def broke(self, cause: str, mend: str) -> None:
        """Mark the plugin as broken; the first cause is kept."""
        if self.status == "ok":
            self.status, self.cause, self.mend = "broken", cause, mend

    def clashes(self, offer: str, owner: str) -> None:
        """Mark the plugin as broken by an offer that another distribution made first.

        Args:
            offer: Noun and name, such as ``backend mine``.
            owner: The distribution whose offer is kept.
        """
        noun, _, name = offer.partition(" ")
        if owner == CORE:
            self.broke(
                f"its {noun} '{name}' is already imagegen's own, which stands",
                f"ask the authors of {self.distribution} for another name, or disable it: {DENY_VARIABLE}={self.name}",
            )
        else:
            self.broke(
                f"its {noun} '{name}' is already offered by {owner}",
                f"disable one of the two: {DENY_VARIABLE}={self.name}",
            )

    def remark(self, sentence: str) -> None:
        """Record a fault of a working plugin, once."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)
