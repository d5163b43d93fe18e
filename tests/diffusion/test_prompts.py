"""Prompts: weights, chunks, any length and clip skip."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from imagegen_core import InvalidRequestError, Settings, generate
from imagegen_core.diffusion.encoder_embeddings import EncoderEmbeddings
from imagegen_core.diffusion.prompts import Fragment, chunks, parse
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests import a1111

CLASSES = {"sdxl": DiffusersSDXLCudaWorker, "sd15": DiffusersCudaWorker}


@pytest.fixture(scope="module", params=CLASSES)
def worker(request: pytest.FixtureRequest) -> Any:
    folder = request.getfixturevalue(f"{request.param}_checkpoint")
    return CLASSES[request.param](settings=Settings(model=str(folder), device="cpu", dtype="fp32", recipe=False))


@pytest.fixture(scope="module")
def tokenizer(sd15_checkpoint: Path) -> Any:
    return CLIPTokenizer.from_pretrained(sd15_checkpoint / "tokenizer", local_files_only=True)


# The documented examples of A1111's parse_prompt_attention, and corner cases.
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
    "(a:1.)(b: -1 )(c:.5)": [("a", 1.0), ("b", -1.0), ("c", 0.5)],
    "(a:1e3)(b:1.2.3)(c:.)": [("a:1e3b:1.2.3c:.", 1.1)],
    "a\\b\\\\c": [("ab\\c", 1.0)],
    "([a)]": [("a", 1.0)],
    "((a[(b": [("a", 1.1 * 1.1), ("b", 1.1 * 1.1 * 1.1 * (1 / 1.1))],  # the last digits differ
    "(a BREAK b:1.2)": [("a ", 1.2), (None, 1.0), (" b", 1.2)],
    "(a:1.2)BREAK": [("a", 1.2), (None, 1.0)],
    "BREAK_ _BREAK xBREAK": [("BREAK_ _BREAK xBREAK", 1.0)],
    "": [],
}


@pytest.mark.parametrize("prompt", PARSED)
def test_weights_are_parsed_as_in_a1111(prompt: str) -> None:
    fragments = [(fragment.text, pytest.approx(fragment.weight)) for fragment in parse(prompt)]
    assert fragments == PARSED[prompt]


@given(st.text(alphabet="ab ()[]\\:1.,BREAK", max_size=40))
def test_any_text_is_a_prompt_with_finite_weights(prompt: str) -> None:
    for fragment in parse(prompt):
        assert fragment.text != ""
        assert math.isfinite(fragment.weight)


@given(st.text(alphabet=st.characters(blacklist_characters="()[]\\:"), max_size=40).filter(lambda t: "BREAK" not in t))
def test_a_prompt_without_brackets_is_one_fragment(prompt: str) -> None:
    assert parse(prompt) == ([Fragment(prompt)] if prompt else [])


WORDS = ("a", "lake", "cat", "lighthouse", "very detailed background", "emb", "emb pair", "wide", "remb")
PIECES = (*WORDS, *WORDS, ",", ", ", ", ", ", ", " ", "BREAK", " BREAK ", ", BREAK, ", ":", "B")
SYNTAX = ("(", ")", "[", "]", "((", "]]", ":1.2)", ": 0.5 )", ":1.1)", ":-1)", "\\(", "\\]", "\\\\", "\\")
TAGS = st.lists(
    st.sampled_from(WORDS).flatmap(lambda word: st.sampled_from([word, f"({word}:1.3)", f"[{word}]", f"(({word}))"])),
    min_size=5,
    max_size=40,
)


@pytest.mark.parametrize("count", [1, 20, 75])
@given(prompt=TAGS.flatmap(lambda tags: st.sampled_from([", ".join(tags), " ".join(tags), " BREAK ".join(tags)])))
def test_tags_give_a1111s_chunks(tokenizer: Any, count: int, prompt: str) -> None:
    _check_chunks(tokenizer, prompt, count)


@given(prompt=st.lists(st.sampled_from([*PIECES, *SYNTAX]), max_size=80).map("".join))
def test_any_syntax_gives_a1111s_chunks(tokenizer: Any, prompt: str) -> None:
    _check_chunks(tokenizer, prompt, count=30)


@pytest.mark.parametrize("after", range(15, 23))
@pytest.mark.parametrize("end", ["", ",", ", b", " b", " b" * 80, "BREAK", " BREAK BREAK ", ", emb"])
def test_chunks_break_at_the_same_comma_as_a1111s(tokenizer: Any, after: int, end: str) -> None:
    before = 75 - after
    _check_chunks(tokenizer, "a " * (before - 1) + "," + "b " * after + end, count=2)


def _check_chunks(tokenizer: Any, prompt: str, count: int) -> None:
    vectors = {"emb": torch.zeros(1, 4), "emb pair": torch.zeros(2, 4), "wide": torch.zeros(count, 4)}
    expected = a1111.chunks(tokenizer, prompt, vectors)
    actual = chunks(tokenizer, parse(prompt), EncoderEmbeddings(tokenizer, vectors))
    assert [(chunk.ids, chunk.weights) for chunk in actual] == [(chunk.ids, chunk.weights) for chunk in expected]
    for chunk, other in zip(actual, expected, strict=True):
        assert chunk.embeddings.keys() == other.vectors.keys()
        assert all(chunk.embeddings[position] is other.vectors[position] for position in other.vectors)


def test_a_name_with_brackets_is_found_before_a_comma(tmp_path: Path) -> None:
    tokens = [
        "(",
        ")",
        "b",
        "h",
        "(</w>",
        ")</w>",
        "b</w>",
        "h</w>",
        ",</w>",
        "),</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    (tmp_path / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n) ,</w>\n")  # CLIP also reads ")," as one token
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, model_max_length=77)
    vectors = torch.zeros(2, 4)
    embeddings = EncoderEmbeddings(tokenizer, {"b(h)": vectors})
    for prompt in ("b(h), h", "b\\(h\\), h", "B(H), h"):
        (chunk,) = chunks(tokenizer, parse(prompt, embeddings.names), embeddings)
        assert chunk.ids == [0, 0, tokens.index(",</w>"), tokens.index("h</w>")]
        assert chunk.embeddings == {0: vectors}


def test_a_name_may_be_a_bracket(tokenizer: Any) -> None:
    embeddings = EncoderEmbeddings(tokenizer, {"(": torch.zeros(2, 4)})
    (chunk,) = chunks(tokenizer, parse("a ( b )", embeddings.names), embeddings)
    assert (chunk.embeddings.keys(), chunk.weights) == ({1}, [1.0] * 5)


def test_a_dotless_i_does_not_match_a_name_with_i(tokenizer: Any) -> None:
    embeddings = EncoderEmbeddings(tokenizer, {"i(h)": torch.zeros(2, 4)})
    (chunk,) = chunks(tokenizer, parse("\u0131(h)", embeddings.names), embeddings)
    assert not chunk.embeddings


@given(depth=st.integers(17, 400), brackets=st.lists(st.sampled_from("(["), min_size=1, max_size=5))
def test_deep_brackets_have_a1111s_weights(depth: int, brackets: list[str]) -> None:
    opening = ("".join(brackets) * depth)[:depth]
    closing = opening[::-1].translate({ord("("): ")", ord("["): "]"})
    prompt = f"a{opening}b{closing}c"
    expected = [(letter, pytest.approx(weight)) for text, weight in a1111.weighted(prompt) for letter in text or ""]
    assert [(letter, fragment.weight) for fragment in parse(prompt) for letter in fragment.text or ""] == expected


def test_chunks_contain_every_token_once_and_break_after_commas(tokenizer: Any) -> None:
    text = "ab " * 30 + ", " + "cd " * 10  # a comma at token 61, 75 tokens after 7 more words
    ids = tokenizer(text, add_special_tokens=False).input_ids
    with_comma = chunks(tokenizer, parse(text))
    assert [token for chunk in with_comma for token in chunk.ids] == ids
    assert [len(chunk.ids) for chunk in with_comma] == [61, len(ids) - 61]
    without_comma = chunks(tokenizer, parse("ab " * 50))
    assert [len(chunk.ids) for chunk in without_comma] == [75, 25]


def test_tokens_after_the_first_77_change_the_picture(worker: Any) -> None:
    start = "a lake with a boat, " * 12
    red, blue = (generate(start + end, worker=worker, seed=1).png for end in ("red", "blue"))
    assert red != blue


def test_a_long_prompt_works_with_a_short_negative_prompt(worker: Any) -> None:
    long = "a lake with a boat, " * 12
    options = {"worker": worker, "seed": 1, "guidance_scale": 3.0}
    pictures = {
        generate(prompt, negative_prompt=negative, **options).png
        for prompt in (long, "a lake")
        for negative in (None, "dark", long)
    }
    assert len(pictures) == 6


def test_a_weight_changes_the_picture_and_a_weight_of_one_does_not(worker: Any) -> None:
    prompts = ("a lake", "a (lake:1.0)", "a (lake:1.6)")
    plain, neutral, weighted = (generate(prompt, worker=worker, seed=1).png for prompt in prompts)
    assert plain == neutral != weighted


def test_weighted_states_keep_their_mean(worker: Any) -> None:
    plain, weighted = (worker.encode(prompt, 0).tokens for prompt in ("a lake", "a (lake:1.6)"))
    width = worker.pipe.text_encoder.config.hidden_size
    torch.testing.assert_close(plain[..., :width].mean(), weighted[..., :width].mean())
    ratio = weighted[0, :, :width] / plain[0, :, :width]
    lake = ratio[2 : 2 + len("lake")].mean()  # after the start token and "a"; each letter is a token
    torch.testing.assert_close(lake / ratio[1].mean(), torch.tensor(1.6))


def test_each_chunk_keeps_its_own_mean(worker: Any) -> None:
    both = worker.encode("a (lake:1.6) BREAK a (star:0.4)", 0).tokens
    each = [worker.encode(prompt, 0).tokens for prompt in ("a (lake:1.6)", "a (star:0.4)")]
    torch.testing.assert_close(both, torch.cat(each, dim=1))


def test_a_break_at_the_end_adds_no_chunk(worker: Any) -> None:
    assert torch.equal(worker.encode("a lake BREAK", 0).tokens, worker.encode("a lake", 0).tokens)


@pytest.mark.parametrize("prompt", [f"a (lake:{'9' * 400})", "(" * 8000 + "lake"])
def test_an_infinite_weight_is_refused(worker: Any, prompt: str) -> None:
    with pytest.raises(InvalidRequestError, match="Invalid weight inf in prompt: expected -100 to 100"):
        generate(prompt, worker=worker, seed=1)


@pytest.mark.parametrize("skip", [0, 1])
def test_clip_skip_counts_layers_as_diffusers_does(worker: Any, skip: int) -> None:
    tokenizer, encoder = worker.pipe.tokenizer, worker.pipe.text_encoder
    ids = tokenizer("a lake", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = encoder(ids, output_hidden_states=True)
        if isinstance(worker, DiffusersSDXLCudaWorker):
            expected = output.hidden_states[-(skip + 2)]
        else:
            norm = getattr(encoder, "text_model", encoder).final_layer_norm
            expected = norm(output.hidden_states[-(skip + 1)])
        tokens = worker.encode("a lake", skip).tokens[..., : expected.shape[-1]]
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=1e-5)


def test_a_clip_skip_beyond_the_encoders_layers_is_refused(worker: Any) -> None:
    assert generate("a", worker=worker, seed=1, clip_skip=1).png != generate("a", worker=worker, seed=1).png
    with pytest.raises(InvalidRequestError, match="Invalid clip_skip 2: this checkpoint's text encoder has 3 layers"):
        generate("a", worker=worker, clip_skip=2)
