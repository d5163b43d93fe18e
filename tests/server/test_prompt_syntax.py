"""The syntax of A1111's prompts is read, or refused with a reason. The examples are A1111's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import InvalidRequestError
from imagegen_core.server.a1111.prompt_syntax import LoraTag, check_negative_prompt, read_prompt

TEXTS = [
    "a [lake] at (dawn:1.3), [[mist]] (((sun)))",
    "a [unbalanced",
    "unbalanced] (a:b",
    "3:4, 16:9 | ratio: 2",
    "(3:4) (a|b) [a:b] [a::] [:] [1:one]",
    r"a \[b:c:0.5\] \[b|c\]",
    "[a (b:0.5] c",
    "[a [b:c] d:0.5]",
    "HAND BRAND ANDROID _AND_",
    "a < b > c, <3, <a>, <:>",
    "",
]


@pytest.mark.parametrize("prompt", TEXTS)
def test_ordinary_text_is_unchanged(prompt: str) -> None:
    assert read_prompt(prompt) == (prompt, [])
    check_negative_prompt(prompt)


# The examples of A1111's get_learned_conditioning_prompt_schedules, and further edge cases.
VARYING = {
    "a [b:3]": "[b:3]",
    "a [b: 3]": "[b: 3]",
    "a [[[b]]:2]": "[[[b]]:2]",
    "[(a:2):3]": "[(a:2):3]",
    "a [b : c : 1 ] d": "[b : c : 1 ]",
    "a[b:[c:d:2]:1]e": "[c:d:2]",
    "a [b:.5] c": "[b:.5]",
    "a [b::0.6]": "[b::0.6]",
    "a [:b:6e-1]": "[:b:6e-1]",
    "((a][:b:c [d:3]": "[d:3]",
    "[word:1.2]": "[word:1.2]",
    "[a|(b:1.1)]": "[a|(b:1.1)]",
    "[fe|]male": "[fe|]",
    "[fe|||]male": "[fe|||]",
    "a (b [c:d:0.5]": "[c:d:0.5]",
    r"\\[c|d]": "[c|d]",
}


@pytest.mark.parametrize("prompt", VARYING)
def test_prompt_editing_is_refused_with_the_piece(prompt: str) -> None:
    piece = VARYING[prompt]
    effect = "alternates" if "|" in piece else "changes at a step"
    for field, read in (("prompt", read_prompt), ("negative_prompt", check_negative_prompt)):
        with pytest.raises(InvalidRequestError) as caught:
            read(prompt)
        assert str(caught.value).startswith(f"{piece} in {field} {effect}, which is not drawn here: leave it out, or")
        assert caught.value.field == field


REFUSED = {
    "a cat AND a dog": "AND in prompt combines several prompts, which is not drawn here",
    "a cat :1.2 AND a dog :0.8": "AND in prompt combines",
    "<lora:x:0.7:0.5>": "<lora:x:0.7:0.5> gives a LoRA several strengths, and it has one here",
    "<lora:x:te=0.7:unet=0.5>": "<lora:x:te=0.7:unet=0.5> gives a LoRA several strengths",
    "<lora:x:much>": "<lora:x:much> has a strength that is not a number: write <lora:NAME:0.7>",
    "<lora:x:>": "<lora:x:> has a strength that is not a number",
    "<lyco:x:0.7>": "<lyco:x:0.7> is not read here: write <lora:x:0.7>",
    "<hypernet:x:0.7>": "<hypernet:x:0.7> is not drawn here: leave it out, or use a LoRA",
    "<other:x>": "<other:x> is not drawn here",
    f"<hypernet:{'x' * 99}>": f"<hypernet:{'x' * 53}… is not drawn here",
}


@pytest.mark.parametrize("prompt", REFUSED)
def test_unsupported_syntax_is_refused_with_advice(prompt: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_prompt(f"a lake {prompt} at dawn")
    assert str(caught.value).startswith(REFUSED[prompt])


def test_lora_tags_are_removed_from_the_prompt() -> None:
    text, tags = read_prompt("a lake <lora:sub/folder x:0.70>, <lora:y> dawn")
    assert text == "a lake ,  dawn"
    assert tags == [LoraTag("sub/folder x", 0.7), LoraTag("y", None)]


def test_negative_prompt_refuses_loras_and_keeps_the_word_and() -> None:
    with pytest.raises(InvalidRequestError, match="<lora:x:1> in negative_prompt has no effect: name it in prompt"):
        check_negative_prompt("blurry <lora:x:1>")
    check_negative_prompt("a cat AND a dog")


@given(st.text(alphabet="ab ()[]\\:|<>.1AND", max_size=60))
def test_any_text_is_read_or_refused_with_a_reason(prompt: str) -> None:
    for read in (read_prompt, check_negative_prompt):
        try:
            read(prompt)
        except InvalidRequestError as error:
            assert ": " in str(error)
