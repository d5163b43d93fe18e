"""A1111's prompt syntax: extra networks, prompt schedules, alternations and combinations.

Sources in stable-diffusion-webui: ``modules/extra_networks.py``, and the grammar in ``modules/prompt_parser.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from imagegen_core.errors import InvalidRequestError

_NETWORK = re.compile(r"<(\w+):([^<>]+)>")
_PIECE = re.compile(r"\\.|[()\[\]:|]", re.DOTALL)
_PAIRS = {")": "(", "]": "["}
_NUMBER = re.compile(r"\s*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*")
_AND = re.compile(r"\bAND\b")
_LONGEST_SHOWN = 64  # characters of a prompt in a message


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A tag ``<lora:NAME:STRENGTH>``.

    Attributes:
        name: The LoRA's name.
        strength: The LoRA's strength; None if the tag has none.
    """

    name: str
    strength: float | None = None


def read_prompt(prompt: str) -> tuple[str, list[LoraTag]]:
    """Separate the LoRA tags from a prompt.

    Raises:
        InvalidRequestError: The prompt has unsupported syntax: other networks, a LoRA with two strengths, a schedule
            such as ``[from:to:when]``, an alternation ``[a|b]``, or ``AND`` between prompts.
    """
    tags = [_lora(kind, arguments) for kind, arguments in _NETWORK.findall(prompt)]
    text = _NETWORK.sub("", prompt).strip() if tags else prompt
    _check_steady(text, "prompt")
    if _AND.search(text):
        raise InvalidRequestError(
            "AND in prompt combines several prompts, which is not drawn here: write it in lower case for the word",
            "prompt",
        )
    return text, tags


def check_negative_prompt(prompt: str) -> None:
    """Check a negative prompt. A1111 treats ``AND`` in it as an ordinary word.

    Raises:
        InvalidRequestError: The prompt names a network, or has a schedule or an alternation.
    """
    if match := _NETWORK.search(prompt):
        raise InvalidRequestError(
            f"{_shown(match[0])} in negative_prompt has no effect: name it in prompt, or leave it out",
            "negative_prompt",
        )
    _check_steady(prompt, "negative_prompt")


def _lora(kind: str, arguments: str) -> LoraTag:
    tag = _shown(f"<{kind}:{arguments}>")
    name, *strengths = arguments.split(":")
    if kind == "lyco":
        raise InvalidRequestError(f"{tag} is not read here: write {_shown(f'<lora:{arguments}>')}", "prompt")
    if kind != "lora":
        raise InvalidRequestError(f"{tag} is not drawn here: leave it out, or use a LoRA", "prompt")
    if len(strengths) > 1:
        raise InvalidRequestError(
            f"{tag} gives a LoRA several strengths, and it has one here: write <lora:NAME:STRENGTH>", "prompt"
        )
    try:
        return LoraTag(name, float(strengths[0]) if strengths else None)
    except ValueError:
        raise InvalidRequestError(
            f"{tag} has a strength that is not a number: write <lora:NAME:0.7>", "prompt"
        ) from None


@dataclass(slots=True)
class _Group:
    """An open bracket: its position, and its separators so far."""

    bracket: str
    start: int
    colons: int = 0
    pipes: int = 0
    last_part: int = 0

    def varies(self, prompt: str, end: int) -> bool:
        """Return True if the group is a schedule or an alternation when it closes at `end`."""
        if self.bracket == "(":
            return False
        return self.pipes > 0 or (1 <= self.colons <= 2 and bool(_NUMBER.fullmatch(prompt, self.last_part, end)))  # noqa: PLR2004

    @property
    def is_emphasis(self) -> bool:
        return not self.pipes and self.colons <= (self.bracket == "(")


def _check_steady(prompt: str, field: str) -> None:
    """Refuse a prompt with different text at different steps.

    A group of brackets varies only if all groups inside it are complete. Otherwise A1111 treats the outer brackets as
    text.
    """
    if "]" not in prompt or (":" not in prompt and "|" not in prompt):
        return
    groups: list[_Group] = []
    for match in _PIECE.finditer(prompt):
        piece, end = match[0], match.end()
        if piece in ("(", "["):
            groups.append(_Group(piece, match.start()))
        elif piece in (")", "]"):
            if not groups or groups[-1].bracket != _PAIRS[piece]:
                groups.clear()
                continue
            group = groups.pop()
            if group.varies(prompt, match.start()):
                how = "alternates" if group.pipes else "changes at a step"
                raise InvalidRequestError(
                    rf"{_shown(prompt[group.start : end])} in {field} {how}, which is not drawn here: "
                    r"leave it out, or write \[ and \] for brackets that are text",
                    field,
                )
            if not group.is_emphasis:
                groups.clear()
        elif groups and piece == "|":
            groups[-1].pipes += 1
        elif groups and piece == ":":
            groups[-1].colons += 1
            groups[-1].last_part = end


def _shown(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
