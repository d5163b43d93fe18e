"""The sources of settings, their precedence, and the messages for malformed values."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from imagegen_core import Settings, SettingsError
from imagegen_core.cli import main


def test_settings_without_configuration_have_the_defaults() -> None:
    settings = Settings.load(environ={})
    assert settings == Settings()
    assert settings.source("model") == "default"


@pytest.mark.parametrize(
    ("variable", "value", "field", "expected"),
    [
        ("MODEL", "demo", "model", "demo"),
        ("IMAGEGEN_MODEL", "demo", "model", "demo"),
        ("MODEL_ROOT", "/models", "model_root", Path("/models")),
        ("CUDA_DTYPE", "bf16", "dtype", "bf16"),
        ("CUDA_DEVICE", "cuda:1", "device", "cuda:1"),
        ("CUDA_DEVICE", "cuda:0, cuda:1,", "device", "cuda:0,cuda:1"),
        ("IMAGEGEN_DEVICE", "cpu,cpu", "device", "cpu,cpu"),
        ("CUDA_ENABLE_XFORMERS", "1", "enable_xformers", True),
        ("CUDA_ATTENTION_SLICING", "true", "attention_slicing", True),
        ("USE_SDXL", "1", "use_sdxl", True),
        ("USE_SDXL", "0", "use_sdxl", False),
        ("BACKEND", "sdxl", "backend", "sdxl"),
        ("IMAGEGEN_BACKEND", "sdxl", "backend", "sdxl"),
        ("PORT", "8000", "port", 8000),
        ("IMAGEGEN_PORT", "8000", "port", 8000),
        ("NUM_WORKERS", "2", "num_workers", 2),
        ("QUEUE_MAX", "8", "queue_max", 8),
        ("DEFAULT_TIMEOUT", "1.5", "default_timeout", 1.5),
        ("STORAGE_TTL_IMAGE", "60", "storage_ttl_image", 60),
        ("STORAGE_ENABLE_HTTP", "0", "storage_enable_http", False),
        ("IMAGEGEN_API_KEYS", "one, two,", "api_keys", ("one", "two")),
        ("IMAGEGEN_COMPILE", "1", "compile", True),
    ],
)
def test_a_variable_sets_its_field(variable: str, value: str, field: str, expected: object) -> None:
    settings = Settings.load(environ={variable: value})
    assert getattr(settings, field) == expected
    assert settings.source(field) == variable


def test_the_imagegen_name_of_a_variable_comes_first() -> None:
    assert Settings.load(environ={"MODEL": "a", "IMAGEGEN_MODEL": "b"}).model == "b"


def test_an_empty_variable_counts_as_unset() -> None:
    settings = Settings.load(environ={"MODEL": "", "CUDA_DTYPE": ""})
    assert (settings.model, settings.dtype, settings.source("dtype")) == (None, None, "default")


def test_a_backends_own_variable_comes_before_other_variables() -> None:
    environ = {
        "MODEL": "a",
        "IMAGEGEN_MODEL": "b",
        "SDXL_MODEL": "c",
        "MODEL_ROOT": "/m",
        "SDXL_MODEL_ROOT": "/x",
    }
    general = Settings.load(environ=environ)
    assert general.model == "b"
    sdxl = general.for_backend("SDXL")
    assert (sdxl.model, sdxl.model_root) == ("c", Path("/x"))
    assert sdxl.source("model") == "SDXL_MODEL"
    assert general.for_backend("SD15").model == "b"


def test_an_argument_comes_before_a_backends_own_variable() -> None:
    settings = Settings.load(environ={"SDXL_MODEL": "c"}, model="mine").for_backend("SDXL")
    assert settings.model == "mine"


def test_settings_made_in_code_ignore_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDXL_MODEL", "c")
    assert Settings(model="mine").for_backend("SDXL").model == "mine"
    assert Settings().for_backend("SDXL").model is None


def test_the_file_comes_after_the_environment(tmp_path: Path) -> None:
    Path("imagegen.toml").write_text('model = "from file"\ndtype = "fp32"\n')
    settings = Settings.load(environ={"MODEL": "from variable"})
    assert (settings.model, settings.dtype) == ("from variable", "fp32")
    assert settings.source("dtype") == "dtype in imagegen.toml, line 2"


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ('device = ["cuda:0", "cuda:1"]', ("cuda:0", "cuda:1")),
        ('device = "cuda:0, cuda:1"', ("cuda:0", "cuda:1")),
        ('device = ["mps"]', ("mps",)),
        ('device = "cpu"', ("cpu",)),
        ("", ()),
    ],
)
def test_each_worker_gets_one_of_several_devices(text: str, devices: tuple[str, ...]) -> None:
    Path("imagegen.toml").write_text(text)
    settings = Settings.load(environ={})
    assert settings.devices == devices
    assert settings.device == (",".join(devices) or None)
    assert [settings.for_device(number).device for number in range(3)] == [
        devices[number % len(devices)] if devices else None for number in range(3)
    ]
    assert settings.for_device(1).source("device") == settings.source("device")
    assert settings.override(model="a").devices == devices
    assert settings.reread().devices == devices


def test_a_variable_can_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.toml").write_text('model = "a"')
    assert Settings.load(environ={"IMAGEGEN_CONFIG": str(tmp_path / "elsewhere.toml")}).model == "a"


def test_load_reads_the_current_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL", "now")
    assert Settings.load().model == "now"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"CUDA_DTYPE": "fp8"}, "Invalid CUDA_DTYPE 'fp8': input should be 'fp16', 'bf16' or 'fp32'"),
        ({"USE_SDXL": "perhaps"}, "Invalid USE_SDXL 'perhaps': input should be a valid boolean"),
        ({"IMAGEGEN_CONFIG": "gone.toml"}, "Cannot read the configuration gone.toml"),
    ],
)
def test_a_malformed_value_is_reported_with_its_variable(environ: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ=environ)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mdoel = 'a'", "Unknown setting mdoel in imagegen.toml, line 1: expected one of"),
        ("model = ", "(at end of document); correct its TOML"),
        ("device = [0, 1]", "Invalid device in imagegen.toml, line 1 [0, 1]: input should be a valid string"),
        ("# precision\ndtype = 'fp8'", "Invalid dtype in imagegen.toml, line 2 'fp8'"),
    ],
)
def test_a_malformed_file_is_reported_with_its_line_or_key(text: str, words: str) -> None:
    Path("imagegen.toml").write_text(text)
    with pytest.raises(SettingsError) as caught:
        Settings.load(environ={})
    assert words in str(caught.value)


def test_the_working_folders_file_comes_before_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "config/imagegen"
    folder.mkdir(parents=True)
    (folder / "imagegen.toml").write_text('model = "users"\ndtype = "bf16"\n')
    Path("imagegen.toml").write_text('model = "ours"\n')
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    settings = Settings.load(environ=environ)
    assert (settings.model, settings.dtype) == ("ours", "bf16")
    assert settings.source("dtype") == f"dtype in {folder / 'imagegen.toml'}, line 2"
    assert Settings.load(environ=environ | {"IMAGEGEN_CONFIG": "imagegen.toml"}).dtype is None
    assert Settings.load(environ={"HOME": str(tmp_path)}).dtype is None


def test_a_wrong_style_is_reported_with_its_field() -> None:
    Path("imagegen.toml").write_text('model = "a"\n\n[styles.papercut]\nlora_path = "a"\nlevels = "high"\n')
    with pytest.raises(SettingsError, match=r"Invalid styles in .*\.toml, line 3, styles\.papercut\.levels: 'high'"):
        Settings.load(environ={})


def test_config_show_prints_each_value_and_its_source(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("imagegen.toml").write_text('dtype = "fp32"\n')
    monkeypatch.setenv("SDXL_MODEL", "mine")
    monkeypatch.setenv("MODEL_ROOT", "/models")
    with pytest.raises(SystemExit) as exit_info:
        main(["config", "show", "--json"])
    rows = {row["setting"]: (row["value"], row["from"]) for row in json.loads(capfd.readouterr().out)}
    assert not exit_info.value.code
    assert rows["dtype"] == ("fp32", "dtype in imagegen.toml, line 1")
    assert rows["model_root"] == ("/models", "MODEL_ROOT")
    assert rows["model"] == (None, "default")
    assert rows["model for sdxl"] == ("mine", "SDXL_MODEL")
    assert set(rows) >= set(Settings.model_fields) - {"tables"}  # each backend's settings have rows of their own


def test_config_show_lists_the_modes(capsys: pytest.CaptureFixture[str]) -> None:
    Path("imagegen.toml").write_text('model = "demo"\n\n[modes.fast]\ndefault_steps = 2\n')
    with pytest.raises(SystemExit):
        main(["config", "show", "--json"])
    rows = {row["setting"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["mode fast (default)"]["value"] == {"model": "demo", "default_steps": 2}
    assert rows["mode fast (default)"]["from"] == "modes in imagegen.toml, line 3"


def test_every_setting_is_documented() -> None:
    root = Path(__file__).parent.parent / "docs"
    text = "".join((root / page).read_text() for page in ("reference/settings.md", "server.md", "cluster.md"))
    variables = {f"IMAGEGEN_{field.upper()}" for field in Settings.model_fields.keys() - {"styles", "modes", "tables"}}
    assert {name for name in variables if f"`{name}`" not in text} == set()


def test_config_show_hides_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("IMAGEGEN_API_KEYS", "hush1,hush2")
    monkeypatch.setenv("STORAGE_URL", "redis://me:hush3@host:6379/0")
    with pytest.raises(SystemExit):
        main(["config", "show", "--json"])
    out = capsys.readouterr().out
    assert "hush" not in out
    assert "host:6379" in out


def test_pickled_settings_leave_out_the_rest_of_the_environment() -> None:
    settings = Settings.load(environ={"MODEL": "demo", "SDXL_MODEL": "mine", "SOME_PASSWORD": "hush"})
    sent = pickle.dumps(settings)
    assert b"hush" not in sent
    restored = pickle.loads(sent)
    assert (restored.model, restored.source("model"), restored.for_backend("SDXL").model) == ("demo", "MODEL", "mine")
    assert restored.reread() == settings
    assert pickle.loads(pickle.dumps(Settings.load())) == Settings.load()
