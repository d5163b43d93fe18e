"""What A1111's prompts hold beside text: extra networks, and prompts that change or combine.

Sources, in stable-diffusion-webui: ``modules/extra_networks.py`` and the grammar in ``modules/prompt_parser.py``.
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
_LONGEST_SHOWN = 64  # characters of a prompt in an error


@dataclass(frozen=True, slots=True)
class LoraTag:
    """A ``<lora:NAME:STRENGTH>``.

    Attributes:
        name: The LoRA's name.
        strength: None where it says none.
    """

    name: str
    strength: float | None = None


def read_prompt(prompt: str) -> tuple[str, list[LoraTag]]:
    """Take the LoRAs out of a prompt.

    Raises:
        InvalidRequestError: It asks for what is not drawn: other networks, a LoRA with two strengths, a schedule such
            as ``[from:to:when]``, an alternation ``[a|b]``, or prompts combined by ``AND``.
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
    """Check a negative prompt, in which A1111 takes ``AND`` for a word.

    Raises:
        InvalidRequestError: It names a network, or holds a schedule or an alternation.
    """
    if found := _NETWORK.search(prompt):
        raise InvalidRequestError(
            f"{_shown(found[0])} in negative_prompt has no effect: name it in prompt, or leave it out",
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
        raise InvalidRequestError(f"{tag} has a strength that is no number: write <lora:NAME:0.7>", "prompt") from None


@dataclass(slots=True)
class _Group:
    """A bracket that is open: where it begins, and the separators in it so far."""

    bracket: str
    start: int
    colons: int = 0
    pipes: int = 0
    last_part: int = 0

    def varies(self, prompt: str, end: int) -> bool:
        """Whether it is a schedule or an alternation, if it closes at `end`."""
        if self.bracket == "(":
            return False
        return self.pipes > 0 or (1 <= self.colons <= 2 and bool(_NUMBER.fullmatch(prompt, self.last_part, end)))  # noqa: PLR2004

    @property
    def is_emphasis(self) -> bool:
        return not self.pipes and self.colons <= (self.bracket == "(")


def _check_steady(prompt: str, field: str) -> None:
    """Refuse a prompt that is another one at other steps.

    A group of brackets varies only if all groups in it are whole: where one is not, A1111 takes the brackets around it
    for text.
    """
    if "]" not in prompt or (":" not in prompt and "|" not in prompt):
        return
    groups: list[_Group] = []
    for found in _PIECE.finditer(prompt):
        piece, end = found[0], found.end()
        if piece in ("(", "["):
            groups.append(_Group(piece, found.start()))
        elif piece in (")", "]"):
            if not groups or groups[-1].bracket != _PAIRS[piece]:
                groups.clear()
                continue
            group = groups.pop()
            if group.varies(prompt, found.start()):
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
