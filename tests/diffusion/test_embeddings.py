"""Textual-inversion embeddings: a word in a prompt stands for a file's vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import ModelNotFoundError, Settings, generate
from imagegen_core.diffusion import encode_text
from imagegen_core.diffusion.embeddings import Embeddings
from imagegen_sd15 import DiffusersCudaWorker
from imagegen_sdxl import DiffusersSDXLCudaWorker

WIDTH = 32


def _vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def _worker(worker_class: Any, checkpoint: Path, folder: Path) -> Any:
    settings = Settings(model=str(checkpoint), device="cpu", dtype="fp32", recipe=False, embeddings_root=folder)
    return worker_class(settings=settings)


def _plain(plain: Any, prompt: str) -> np.ndarray:
    plain.scheduler = diffusers.LCMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    options = {"num_inference_steps": 4, "guidance_scale": 1.0, "width": 64, "height": 64}
    return np.asarray(plain(prompt, generator=generator, **options).images[0], int)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("layout", ["diffusers.safetensors", "diffusers.bin", "a1111.pt", "a1111.safetensors"])
def test_an_embedding_draws_the_plain_pipelines_picture(
    sd15_checkpoint: Path, tmp_path: Path, layout: str, count: int
) -> None:
    vectors = _vectors(count, seed=3)
    path = tmp_path / "embeddings" / f"my-style{Path(layout).suffix}"
    path.parent.mkdir()
    match layout:
        case "diffusers.safetensors":
            save_file({"<my-style>": vectors}, path)
        case "diffusers.bin":
            torch.save({"<my-style>": vectors}, path)
        case "a1111.pt":
            torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "my-style"}, path)
        case "a1111.safetensors":
            save_file({"emb_params": vectors}, path)
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
    plain.load_textual_inversion({"<s>": vectors if count > 1 else vectors[0]}, token="<s>")
    expected = _plain(plain, "a lake in <s> at dawn")

    worker = _worker(DiffusersCudaWorker, sd15_checkpoint, path.parent)
    drawn = np.asarray(generate("a lake in My-Style at dawn", worker=worker, seed=1).image, int)

    assert np.abs(drawn - expected).max() <= 1
    other = np.asarray(generate("a lake in her style at dawn", worker=worker, seed=1).image, int)
    assert np.abs(drawn - other).max() > 1


def _plain_sdxl(checkpoint: Path, clip_l: torch.Tensor, clip_g: torch.Tensor) -> Any:
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(checkpoint, local_files_only=True)
    for vectors, tokenizer, encoder in (
        (clip_l, plain.tokenizer, plain.text_encoder),
        (clip_g, plain.tokenizer_2, plain.text_encoder_2),
    ):
        plain.load_textual_inversion({"<s>": vectors}, token="<s>", tokenizer=tokenizer, text_encoder=encoder)
    return plain


def test_sdxls_embeddings_have_a_part_for_each_encoder(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    save_file({"clip_l": _vectors(2, seed=4), "clip_g": _vectors(2, seed=5)}, tmp_path / "papercut.safetensors")
    expected = _plain(_plain_sdxl(sdxl_checkpoint, _vectors(2, seed=4), _vectors(2, seed=5)), "a lake, <s>")
    drawn = generate("a lake, papercut", worker=_worker(DiffusersSDXLCudaWorker, sdxl_checkpoint, tmp_path), seed=1)
    assert np.abs(np.asarray(drawn.image, int) - expected).max() <= 1


def test_a_name_matches_only_whole_words_and_accepts_a_weight(sd15_checkpoint: Path, tmp_path: Path) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "embeddings"
    empty.mkdir()
    folder.mkdir()
    save_file({"emb_params": _vectors(1, seed=3)}, folder / "art.safetensors")
    with_it, without = (_worker(DiffusersCudaWorker, sd15_checkpoint, root) for root in (folder, empty))
    for prompt, same in (("a cart", True), ("an art", False)):
        assert (generate(prompt, worker=with_it, seed=1).png == generate(prompt, worker=without, seed=1).png) is same
    assert generate("an (art:1.5)", worker=with_it, seed=1).png != generate("an art", worker=with_it, seed=1).png


def test_an_unsuitable_embedding_is_skipped_with_the_reason(
    sdxl_checkpoint: Path, sd15_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({"emb_params": torch.randn(2, 768)}, tmp_path / "wide.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    _worker(DiffusersCudaWorker, sd15_checkpoint, tmp_path)
    assert "broken.pt is skipped: " in caplog.messages[0]
    assert caplog.messages[1] == (
        "The embedding wide.safetensors is skipped: this checkpoint's text_encoder takes vectors 32 wide, "
        "and it has vectors 768 wide for it"
    )
    caplog.clear()
    _worker(DiffusersSDXLCudaWorker, sdxl_checkpoint, tmp_path)
    assert "takes vectors 32 wide, and it has none for it" in caplog.messages[1]


NAMES = (
    "bad(hand)",
    "[x]",
    "a.b",
    "two words",
    "<tag>",
    "v2_(final) [9]",
    "wow!",
    "-4",
    "UPPER",
    "naïve",
    "(((",
    "\\o",
)


@pytest.fixture(scope="module")
def named(sd15_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("embeddings")
    for seed, name in enumerate(NAMES):
        save_file({"emb_params": _vectors(2, seed)}, folder / f"{name}.safetensors")
    return _worker(DiffusersCudaWorker, sd15_checkpoint, folder)


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_contain_any_character(sd15_checkpoint: Path, named: Any, name: str, escaped: bool) -> None:
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
    plain.load_textual_inversion({"<s>": _vectors(2, NAMES.index(name))}, token="<s>")
    expected, _ = plain.encode_prompt("a lake, <s>, at dawn", "cpu", 1, do_classifier_free_guidance=False)
    spelling = "".join(f"\\{char}" if char in "()[]\\" else char for char in name) if escaped else name
    tokens = named.encode(f"a lake, {spelling.upper()}, at dawn", 0).tokens
    torch.testing.assert_close(tokens, expected)


def test_clip_skip_works_with_an_embedding(named: Any, sd15_checkpoint: Path) -> None:
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
    plain.load_textual_inversion({"<s>": _vectors(2, NAMES.index("a.b"))}, token="<s>")
    prompt = plain.maybe_convert_prompt("a <s>", plain.tokenizer)
    ids = plain.tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
    encoder = getattr(plain.text_encoder, "text_model", plain.text_encoder)
    expected = encoder.final_layer_norm(plain.text_encoder(ids, output_hidden_states=True).hidden_states[-2])
    torch.testing.assert_close(named.encode("a a.b", 1).tokens, expected)


@pytest.mark.parametrize("clip_skip", [0, 1])
def test_sdxls_hidden_states_and_projection_equal_the_plain_pipelines(
    sdxl_checkpoint: Path, tmp_path: Path, clip_skip: int
) -> None:
    save_file({"clip_l": _vectors(3, seed=4), "clip_g": _vectors(3, seed=5)}, tmp_path / "papercut.safetensors")
    encoded = _worker(DiffusersSDXLCudaWorker, sdxl_checkpoint, tmp_path).encode("a lake, papercut, b", clip_skip)
    plain = _plain_sdxl(sdxl_checkpoint, _vectors(3, seed=4), _vectors(3, seed=5))
    tokens, _, pooled, _ = plain.encode_prompt(
        "a lake, <s>, b", device="cpu", do_classifier_free_guidance=False, clip_skip=clip_skip
    )
    torch.testing.assert_close(encoded.tokens, tokens)
    torch.testing.assert_close(encoded.added["text_embeds"], pooled)


def test_a_name_with_brackets_accepts_a_weight(named: Any) -> None:
    plain, weighted, squared = (
        named.encode(prompt, 0).tokens for prompt in ("a bad(hand) b", "a (bad(hand):1.6) b", "a [bad(hand)] b")
    )
    for tokens, weight in ((weighted, 1.6), (squared, 1 / 1.1)):
        ratio = (tokens / plain)[0, :, 0]
        torch.testing.assert_close(ratio[2:4] / ratio[1], torch.full((2,), weight))


def test_an_embedding_leaves_the_encoder_unchanged(named: Any) -> None:
    before = named.encode("a lake", 0).tokens
    size = len(named.pipe.tokenizer)
    named.encode("a lake, bad(hand)", 0)
    assert torch.equal(named.encode("a lake", 0).tokens, before)
    assert len(named.pipe.tokenizer) == size == named.pipe.text_encoder.get_input_embeddings().num_embeddings


def test_an_embedding_is_not_split_between_chunks(named: Any) -> None:
    filled = "a " * 74
    both = named.encode(f"{filled} a.b", 0).tokens
    each = [named.encode(prompt, 0).tokens for prompt in (filled, "a.b")]
    torch.testing.assert_close(both, torch.cat(each, dim=1))


def test_files_in_subfolders_and_with_uppercase_suffixes_are_found(
    sd15_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, elsewhere = tmp_path / "embeddings", tmp_path / "elsewhere"
    for place in (folder / "good/very", folder / "other", elsewhere):
        place.mkdir(parents=True)
    save_file({"emb_params": _vectors(1, seed=3)}, folder / "good/very/deep.SafeTensors")
    torch.save({"<x>": _vectors(1, seed=4)[0]}, folder / "good/old.PT")
    save_file({"emb_params": _vectors(1, seed=5)}, folder / "other/Old.safetensors")
    save_file({"emb_params": _vectors(1, seed=6)}, elsewhere / "linked.safetensors")
    (folder / "link").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "link/back").symlink_to(folder)
    worker = _worker(DiffusersCudaWorker, sd15_checkpoint, folder)
    assert caplog.messages == [
        "The embedding other/Old.safetensors is skipped: good/old.PT has the same name for prompts; rename one"
    ]
    encoded = [worker.encode(name, 0).tokens for name in ("deep", "old", "linked")]
    for seed, tokens in zip((3, 4, 6), encoded, strict=True):
        plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
        plain.load_textual_inversion({"<s>": _vectors(1, seed)}, token="<s>")
        expected, _ = plain.encode_prompt("<s>", "cpu", 1, do_classifier_free_guidance=False)
        torch.testing.assert_close(tokens, expected)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two.pt": (
        {"<a>": torch.ones(1, WIDTH), "<b>": torch.ones(1, WIDTH)},
        "it has '<b>' beside '<a>', where an embedding is one tensor, or clip_l and clip_g; save each embedding in a",
    ),
    "extra.safetensors": (
        {"emb_params": torch.ones(1, WIDTH), "bias": torch.ones(3)},
        "it has 'bias' beside 'emb_params', where",
    ),
    "nested.bin": (
        {"string_to_param": {"*": torch.ones(1, WIDTH)}, "optimizer": {"state": torch.ones(2)}},
        "it has 'optimizer.state' beside 'string_to_param.*', where",
    ),
    "nan.safetensors": ({"x": torch.full((2, WIDTH), torch.nan)}, "its vectors hold values that are infinite or not"),
    "inf.pt": ({"x": torch.full((2, WIDTH), torch.inf)}, "its vectors hold values that are infinite or not numbers"),
    "long.safetensors": ({"x": torch.ones(76, WIDTH)}, "it has 76 vectors, and from 1 to 75 can stand for a name"),
    "none.safetensors": ({"x": torch.ones(0, WIDTH)}, "it has 0 vectors, and from 1 to 75 can stand for a name"),
    "cube.safetensors": (
        {"x": torch.ones(1, 1, WIDTH)},
        "its tensor 'x' has the shape [1, 1, 32], and expected is [vectors, width]",
    ),
    "xl.safetensors": (
        {"clip_l": torch.ones(1, WIDTH), "clip_g": torch.ones(1, WIDTH)},
        "it has parts for two text encoders, and this checkpoint has one; take one for its family",
    ),
    " .safetensors": ({"x": torch.ones(1, WIDTH)}, "its name has no letters that a prompt could have; rename it"),
    "vae.safetensors": (
        {"decoder.conv_in.weight": torch.ones(1, 1, 1, 1), "decoder.up_blocks.0.x": torch.ones(1)},
        "it is of the kind vae",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_invalid_file_is_skipped_with_the_reason(
    sd15_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    tensors, reason = REFUSED[name]
    (save_file if name.endswith(".safetensors") else torch.save)(tensors, tmp_path / name)
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
    Embeddings(plain, ("text_encoder", "text_encoder_2"), tmp_path, "EMBEDDINGS_ROOT")
    assert len(caplog.messages) == 1
    assert f"The embedding {name} is skipped: {reason}" in caplog.messages[0].replace(
        "this checkpoint's text_encoder ", ""
    )


def test_parts_of_different_lengths_are_skipped(
    sdxl_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file({"clip_l": _vectors(2, seed=4), "clip_g": _vectors(3, seed=5)}, tmp_path / "odd.safetensors")
    _worker(DiffusersSDXLCudaWorker, sdxl_checkpoint, tmp_path)
    assert caplog.messages[0] == (
        "The embedding odd.safetensors is skipped: its parts differ in the number of vectors, 2 in clip_l and 3 in "
        "clip_g; it is incomplete or damaged"
    )


def test_a_loras_embeddings_take_precedence(sd15_checkpoint: Path, tmp_path: Path) -> None:
    save_file({"emb_params": _vectors(1, seed=1)}, tmp_path / "one.safetensors")
    save_file({"emb_params": _vectors(1, seed=2)}, tmp_path / "[two].safetensors")
    plain = diffusers.StableDiffusionPipeline.from_pretrained(sd15_checkpoint, local_files_only=True)
    embeddings = Embeddings(plain, ("text_encoder", "text_encoder_2"), tmp_path, "EMBEDDINGS_ROOT")
    bundled = [embeddings.embedding(name, {"emb_params": _vectors(1, seed=3)}) for name in ("ONE", "[two]", "three")]

    def encoded(prompt: str, with_lora: bool) -> torch.Tensor:
        encoder_embeddings = (embeddings.with_bundled(bundled) if with_lora else embeddings).of("text_encoder")
        with torch.inference_mode():
            return encode_text(
                plain.tokenizer, plain.text_encoder, prompt, lambda output: output[0], encoder_embeddings
            ).tokens

    from_lora = [encoded(name, True) for name in ("one", "[two]", "three")]
    assert torch.equal(from_lora[0], from_lora[1])
    assert torch.equal(from_lora[0], from_lora[2])
    assert not any(torch.equal(from_lora[0], encoded(name, False)) for name in ("one", "[two]", "three"))


def test_a_missing_folder_is_refused(sd15_checkpoint: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="The folder of embeddings /nowhere is not there: correct emb"):
        _worker(DiffusersCudaWorker, sd15_checkpoint, Path("/nowhere"))
