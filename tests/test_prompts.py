"""Prompts with weights, of any length, with layers skipped."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from imagegen_core import InvalidRequestError, Settings, generate
from imagegen_core.diffusion.prompts import Fragment, chunks, parse
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

CLASSES = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}


@pytest.fixture(scope="module", params=CLASSES)
def worker(request: pytest.FixtureRequest) -> Any:
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    return CLASSES[request.param](settings=Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False))


# What A1111's parse_prompt_attention documents in its own examples, and the corners beside them.
PARSED = {
    "normal text": [("normal text", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(unbalanced": [("unbalanced", 1.1)],
    "\\(literal\\]": [("(literal]", 1.0)],
    "(unnecessary)(parens)": [("unnecessaryparens", 1.1)],
    "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky)))": [
        ("a ", 1.0),
        ("house", 1.573),
        (" ", 1.1),
        ("on", 1.0),
        (" a ", 1.1),
        ("hill", 0.55),
        (", sun, ", 1.1),
        ("sky", 1.4641),
    ],
    "(a [b] c:1.2)": [("a ", 1.2), ("b", 1.2 / 1.1), (" c", 1.2)],
    "3:4 in (a:b)": [("3:4 in ", 1.0), ("a:b", 1.1)],
    "BREAKFAST at B": [("BREAKFAST at B", 1.0)],
    "a BREAK b": [("a ", 1.0), (None, 1.0), (" b", 1.0)],
    ") ] :1.2) (:2)": [(") ] :1.2) ", 1.0)],
    "": [],
}


@pytest.mark.parametrize("prompt", PARSED)
def test_weights_are_read_as_a1111_reads_them(prompt: str) -> None:
    found = [(fragment.text, pytest.approx(fragment.weight)) for fragment in parse(prompt)]
    assert found == PARSED[prompt]


@given(st.text(alphabet="ab ()[]\\:1.,BREAK", max_size=40))
def test_any_text_is_a_prompt_and_its_weights_are_finite(prompt: str) -> None:
    for fragment in parse(prompt):
        assert fragment.text != ""
        assert math.isfinite(fragment.weight)


@given(st.text(alphabet=st.characters(blacklist_characters="()[]\\:"), max_size=40).filter(lambda t: "BREAK" not in t))
def test_a_prompt_without_brackets_stays_one_fragment(prompt: str) -> None:
    assert parse(prompt) == ([Fragment(prompt)] if prompt else [])


def test_chunks_hold_every_token_once_and_break_after_commas(worker: Any) -> None:
    tokenizer = worker.pipe.tokenizer
    text = "ab " * 30 + ", " + "cd " * 10  # a comma at token 61, 75 tokens after 7 more words
    ids = tokenizer(text, add_special_tokens=False).input_ids
    found = chunks(tokenizer, parse(text))
    assert [token for chunk in found for token in chunk.ids] == ids
    assert [len(chunk.ids) for chunk in found] == [61, len(ids) - 61]
    without_comma = chunks(tokenizer, parse("ab " * 50))
    assert [len(chunk.ids) for chunk in without_comma] == [75, 25]


def test_what_comes_after_the_first_77_tokens_matters(worker: Any) -> None:
    start = "a lake with a boat, " * 12
    one, other = (generate(start + end, worker=worker, seed=1).png for end in ("red", "blue"))
    assert one != other


def test_a_long_prompt_beside_a_short_negative_one(worker: Any) -> None:
    long = "a lake with a boat, " * 12
    ask = {"worker": worker, "seed": 1, "guidance_scale": 3.0}
    drawn = {
        generate(prompt, negative_prompt=negative, **ask).png
        for prompt in (long, "a lake")
        for negative in (None, "dark", long)
    }
    assert len(drawn) == 6


def test_a_weight_changes_the_picture_and_a_weight_of_one_does_not(worker: Any) -> None:
    plain, one, more = (generate(p, worker=worker, seed=1).png for p in ("a lake", "a (lake:1.0)", "a (lake:1.6)"))
    assert plain == one != more


def test_weighted_states_keep_their_mean(worker: Any) -> None:
    plain, weighted = (worker.encode(prompt, 0).tokens for prompt in ("a lake", "a (lake:1.6)"))
    width = worker.pipe.text_encoder.config.hidden_size
    torch.testing.assert_close(plain[..., :width].mean(), weighted[..., :width].mean())
    ratio = weighted[0, :, :width] / plain[0, :, :width]
    lake = ratio[2 : 2 + len("lake")].mean()  # after the start and "a": the tiny tokenizer reads letters
    torch.testing.assert_close(lake / ratio[1].mean(), torch.tensor(1.6))


@pytest.mark.parametrize("skip", [0, 1])
def test_layers_are_skipped_as_diffusers_counts_them(worker: Any, skip: int) -> None:
    tokenizer, encoder = worker.pipe.tokenizer, worker.pipe.text_encoder
    ids = tokenizer("a lake", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = encoder(ids, output_hidden_states=True)
        if isinstance(worker, DiffusersSDXLCudaWorker):
            expected = output.hidden_states[-(skip + 2)]
        else:
            norm = getattr(encoder, "text_model", encoder).final_layer_norm
            expected = norm(output.hidden_states[-(skip + 1)])
        found = worker.encode("a lake", skip).tokens[..., : expected.shape[-1]]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_skipping_more_layers_than_there_are_is_refused(worker: Any) -> None:
    assert generate("a", worker=worker, seed=1, clip_skip=1).png != generate("a", worker=worker, seed=1).png
    with pytest.raises(InvalidRequestError, match="Invalid clip_skip 2: this checkpoint's text encoder has 3 layers"):
        generate("a", worker=worker, clip_skip=2)
