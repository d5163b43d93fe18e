"""How a name becomes a path, and which checkpoints are below a model root."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import ModelNotFoundError, NamedModel
from imagegen_core.models.locate import checkpoints_below, locate
from imagegen_core.models.named import fallback_model


def test_a_name_is_searched_in_the_root_then_in_plugins_then_as_a_path(tmp_path: Path) -> None:
    named = {"demo": NamedModel("demo", "", Path("/demo"))}
    assert locate("demo", None, named) == Path("/demo")
    (tmp_path / "root/demo").mkdir(parents=True)
    assert locate("demo", tmp_path / "root", named) == tmp_path / "root/demo"
    (tmp_path / "here").mkdir()
    assert locate("here", tmp_path / "root", named) == Path("here")
    assert locate(str(tmp_path / "here"), None, named) == tmp_path / "here"


def test_the_error_of_an_unknown_name_lists_the_searched_places() -> None:
    with pytest.raises(ModelNotFoundError, match=r"No checkpoint 'x'.*MODEL_ROOT is not set.*named model \(demo\)"):
        locate("x", None, {"demo": NamedModel("demo", "", Path("/demo"))})


def test_checkpoints_below_a_root_are_found_at_any_depth(tmp_path: Path) -> None:
    for name in ("b", "deep/er/a"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model_index.json").write_text("{}")
    assert checkpoints_below(tmp_path) == [tmp_path / "b", tmp_path / "deep/er/a"]
    with pytest.raises(ModelNotFoundError, match="is not a folder: correct MODEL_ROOT"):
        checkpoints_below(tmp_path / "gone")


def test_the_first_fallback_model_by_name_is_used() -> None:
    models = [NamedModel(name, "", Path(name), fallback=name != "a") for name in "cba"]
    assert fallback_model(models) == models[1]
    assert fallback_model(models[2:]) is None


def test_single_files_are_found_but_not_the_components_of_a_folder(tmp_path: Path) -> None:
    for name in ("b/model_index.json", "b/unet/model.safetensors", "a.safetensors", "c/d.CKPT", "c/e.txt", "c/f.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c/again").symlink_to(tmp_path)
    assert checkpoints_below(tmp_path) == [tmp_path / "a.safetensors", tmp_path / "b", tmp_path / "c/d.CKPT"]
