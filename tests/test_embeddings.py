"""Textual-inversion embeddings: words that mean what their files hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from imagegen_core import ModelNotFoundError, Settings, generate
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
def test_an_embedding_means_what_the_plain_pipeline_takes_it_for(
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


def test_sdxls_embeddings_have_a_part_for_each_encoder(sdxl_checkpoint: Path, tmp_path: Path) -> None:
    parts = {"clip_l": _vectors(2, seed=4), "clip_g": _vectors(2, seed=5)}
    save_file(parts, tmp_path / "papercut.safetensors")
    plain = diffusers.StableDiffusionXLPipeline.from_pretrained(sdxl_checkpoint, local_files_only=True)
    for part, tokenizer, encoder in (
        ("clip_l", plain.tokenizer, plain.text_encoder),
        ("clip_g", plain.tokenizer_2, plain.text_encoder_2),
    ):
        plain.load_textual_inversion({"<s>": parts[part]}, token="<s>", tokenizer=tokenizer, text_encoder=encoder)
    expected = _plain(plain, "a lake, <s>")
    drawn = generate("a lake, papercut", worker=_worker(DiffusersSDXLCudaWorker, sdxl_checkpoint, tmp_path), seed=1)
    assert np.abs(np.asarray(drawn.image, int) - expected).max() <= 1


def test_a_name_within_a_word_is_no_name_and_a_weight_weighs_it(sd15_checkpoint: Path, tmp_path: Path) -> None:
    empty, folder = tmp_path / "empty", tmp_path / "embeddings"
    empty.mkdir()
    folder.mkdir()
    save_file({"emb_params": _vectors(1, seed=3)}, folder / "art.safetensors")
    with_it, without = (_worker(DiffusersCudaWorker, sd15_checkpoint, one) for one in (folder, empty))
    for prompt, same in (("a cart", True), ("an art", False)):
        assert (generate(prompt, worker=with_it, seed=1).png == generate(prompt, worker=without, seed=1).png) is same
    assert generate("an (art:1.5)", worker=with_it, seed=1).png != generate("an art", worker=with_it, seed=1).png


def test_one_that_does_not_fit_is_skipped_with_the_reason(
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


def test_a_folder_that_is_not_there_is_an_error(sd15_checkpoint: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="The folder of embeddings /nowhere is not there: correct emb"):
        _worker(DiffusersCudaWorker, sd15_checkpoint, Path("/nowhere"))
