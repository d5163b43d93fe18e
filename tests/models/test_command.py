"""``imagegen models``: the descriptions of files, and the errors of damaged files."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from imagegen_core.cli import main
from tests.models.files import save_header, save_raw
from tests.models.test_addons import LORAS, UPSCALERS
from tests.models.test_single_files import RELEASED


def _run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    return int(exited.value.code or 0), *capfd.readouterr()


def _facts(out: str) -> dict[str, str]:
    return {line[:17].rstrip(): line[17:] for line in out.splitlines()}


def test_inspect_describes_a_checkpoint_and_names_its_backend(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = save_header(tmp_path / "a.safetensors", RELEASED["SDXL"][0], {"modelspec.resolution": "1024x1024"})
    code, out, err = _run(capfd, "models", "inspect", str(path))
    assert (code, err) == (0, "")
    facts = _facts(out)
    assert facts.pop("loaded by").startswith("backend sdxl")
    assert facts == {
        "path": str(path),
        "kind": "checkpoint",
        "family": "sdxl (Stable Diffusion XL)",
        "layout": "ldm (safetensors)",
        "holds": "unet, vae, text_encoder_2",
        "lacks": "text_encoder",
        "cross-attention": "2048",
        "input channels": "4",
        "native size": "1024x1024",
        "dtype": "float16",
        "parameters": "43.2 M",
        "size on disk": "86.4 MB",
    }


def test_inspect_prints_the_same_facts_as_json(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = save_header(tmp_path / "a.safetensors", LORAS["LoHa"][0])
    code, out, _ = _run(capfd, "models", "inspect", str(path), "--json")
    assert code == 0
    facts = json.loads(out)
    assert (facts["path"], facts["kind"], facts["algorithm"], facts["family"]) == (str(path), "lora", "loha", "sd15")
    assert (facts["parameters"], facts["dtypes"], facts["size"]) == (11264, ["float16"], path.stat().st_size)
    assert facts["loaded_by"][0] == "sd15"


def test_inspect_names_the_package_if_no_backend_loads_the_file(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMAGEGEN_PLUGINS_DISABLED", "sd15,sdxl")
    path = save_header(tmp_path / "a.safetensors", RELEASED["SDXL"][0])
    code, _, err = _run(capfd, "models", "inspect", str(path))
    assert code == 2
    assert "is a Stable Diffusion XL checkpoint, and no installed plugin draws it: imagegen-sdxl is installed, " in err
    assert "and disabled: IMAGEGEN_PLUGINS_DISABLED names it" in err
    monkeypatch.delenv("IMAGEGEN_PLUGINS_DISABLED")
    path = save_header(tmp_path / "a.safetensors", RELEASED["SDXL refiner"][0])
    assert _facts(_run(capfd, "models", "inspect", str(path))[1])["loaded by"] == "backend sdxl-refiner"


def test_inspect_accepts_names_below_the_root_and_of_plugins(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "root").mkdir()
    save_header(tmp_path / "root/up.safetensors", UPSCALERS["esrgan"])
    monkeypatch.setenv("MODEL_ROOT", str(tmp_path / "root"))
    facts = _facts(_run(capfd, "models", "inspect", "up.safetensors")[1])
    assert (facts["kind"], facts["layout"]) == ("upscaler", "esrgan (safetensors)")
    assert "loaded by" not in facts
    assert _facts(_run(capfd, "models", "inspect", "demo")[1])["family"] == "sdxl (Stable Diffusion XL)"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No checkpoint 'a.ckpt'"),
        (b"", "its pickle is cut short"),
        (b"PK\x03\x04 no archive", "its zip archive is damaged"),
        (pickle.dumps(os.getcwd, 2), "asks for posix.getcwd"),
        ((2).to_bytes(8, "little") + b"{}", "holds no tensors"),
    ],
)
def test_a_damaged_file_is_one_sentence_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], content: bytes | None, words: str
) -> None:
    if content is not None:
        Path("a.ckpt").write_bytes(content)
    code, out, err = _run(capfd, "models", "inspect", "a.ckpt")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert words in err
    assert err.count("\n") == 1


def test_list_describes_usable_files_and_says_why_others_are_unusable(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sd15_checkpoint: Path
) -> None:
    monkeypatch.setenv("MODEL_ROOT", str(tmp_path))
    save_header(tmp_path / "xl.safetensors", RELEASED["SDXL"][0])
    save_header(tmp_path / "style.safetensors", LORAS["kohya SD1.5"][0])
    save_raw(tmp_path / "broken.safetensors", b"{nonsense", 0)
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(os.getcwd, 2))
    (tmp_path / os.fsdecode(b"\xff.ckpt")).touch()
    (tmp_path / "folder").symlink_to(sd15_checkpoint)
    code, out, err = _run(capfd, "models", "list", "--json")
    assert (code, err) == (0, "")
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows.keys() == {
        "demo",
        "xl.safetensors",
        "style.safetensors",
        "broken.safetensors",
        "evil.ckpt",
        "\\udcff.ckpt",
        "folder",
    }
    kinds = {name: (row["kind"], row["family"]) for name, row in rows.items()}
    assert kinds["xl.safetensors"] == ("checkpoint", "sdxl")
    assert rows["xl.safetensors"]["note"] == "incomplete: without text_encoder"
    assert kinds["style.safetensors"] == ("lora", "sd15")
    assert kinds["folder"] == ("checkpoint", "sd15")
    for name, words in {
        "broken.safetensors": "not a JSON object",
        "evil.ckpt": "posix.getcwd",
        "\\udcff.ckpt": "cut short",
    }.items():
        assert kinds[name] == ("", "unusable")
        assert words in rows[name]["note"]


def test_neither_command_imports_torch(tmp_path: Path) -> None:
    save_header(tmp_path / "xl.safetensors", RELEASED["SDXL"][0])
    code = (
        "import sys\nfrom imagegen_core.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print({'torch', 'diffusers', 'safetensors', 'numpy'} & set(sys.modules))"
    )
    for words in (["inspect", "xl.safetensors"], ["inspect", "demo"], ["list"]):
        result = subprocess.run(
            [sys.executable, "-c", code, "models", *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "MODEL_ROOT": str(tmp_path)},
        )
        assert result.stdout.splitlines()[-1] == "set()"
