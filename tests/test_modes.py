"""Modes in the configuration: both places, their defaults, and the messages for errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagegen_core import GenerateRequest, InvalidRequestError, Settings, SettingsError
from imagegen_core.modes import Mode, load_modes, modes_path
from imagegen_core.styles import LoraUse

# From the documentation of the earlier servers, which introduced this file.
YAML = """\
model_root: /models              # Required
lora_root: /models/loras          # Optional, defaults to model_root

default_mode: sdxl-general

modes:
  sdxl-general:
    model: sdxl/sdxl-base-1.0.safetensors
    default_size: "1024x1024"
    default_steps: 30
    default_guidance: 7.5

  sdxl-portrait:
    model: sdxl/sdxl-base-1.0.safetensors
    loras:
      - path: portrait-enhancer.safetensors
        strength: 0.8
        adapter_name: portrait
      - detail.safetensors
    default_size: "896x1152"
    metadata:
      description: "Portraits"
      any_key: [1, 2]
"""
TOML = """\
model_root = "/models"

[modes.fast]
model = "one.safetensors"
default_steps = 2
scheduler = "Euler a"
loras = ["a.safetensors", { path = "/b.safetensors", strength = 0.5, adapter_name = "b" }]

[modes.slow]
default_steps = 30
description = "Takes its time"
"""


def _yaml(text: str = YAML) -> Settings:
    Path("modes.yaml").write_text(text)
    return Settings.load(environ={})


def _toml(text: str = TOML, **environ: str) -> Settings:
    Path("imagegen.toml").write_text(text)
    return Settings.load(environ=environ)


def test_yaml_aliases_and_merges_are_followed() -> None:
    merged = """\
model_root: /models
default_mode: one
modes:
  one: &one {model: a.safetensors, default_steps: 7, loras: &loras [x.safetensors]}
  two: {<<: *one, model: b.safetensors, loras: *loras}
"""
    mode = load_modes(_yaml(merged)).find("two")
    assert (mode.settings.model, mode.table.default_steps) == ("b.safetensors", 7)
    assert [lora.path.name for lora in mode.loras] == ["x.safetensors"]


def test_a_file_of_the_earlier_servers_is_read_unchanged() -> None:
    modes = load_modes(_yaml())
    assert (list(modes.modes), modes.default) == (["sdxl-general", "sdxl-portrait"], "sdxl-general")
    general, portrait = modes.modes.values()
    assert general.key == portrait.key
    assert (general.settings.model, general.settings.model_root) == ("sdxl/sdxl-base-1.0.safetensors", Path("/models"))
    assert portrait.loras == (
        LoraUse(Path("/models/loras/portrait-enhancer.safetensors"), 0.8, "portrait"),
        LoraUse(Path("/models/loras/detail.safetensors"), 1.0, "lora_detail"),
    )
    assert (general.table.default_size, general.table.default_steps, general.table.default_guidance) == (
        "1024x1024",
        30,
        7.5,
    )
    assert (portrait.table.default_steps, portrait.table.default_guidance) == (4, 1.0)
    assert portrait.table.metadata == {"description": "Portraits", "any_key": [1, 2]}
    assert (
        load_modes(_yaml(YAML.replace('    default_size: "896x1152"\n', ""))).find("sdxl-portrait").table.default_size
        == "512x512"
    )
    without = load_modes(_yaml(YAML.replace("lora_root: /models/loras", "")))
    assert without.find("sdxl-portrait").loras[0].path == Path("/models/portrait-enhancer.safetensors")


def test_a_modes_model_comes_before_a_backends_own_variable() -> None:
    Path("modes.yaml").write_text(YAML)
    settings = Settings.load(environ={"SDXL_MODEL": "mine", "SDXL_MODEL_ROOT": "/mine"})
    resolved = load_modes(settings).find(None).settings.for_backend("SDXL")
    assert (resolved.model, resolved.model_root) == ("sdxl/sdxl-base-1.0.safetensors", Path("/models"))


def test_tables_of_the_configuration_file_are_modes() -> None:
    modes = load_modes(_toml(MODEL="other"))
    fast, slow = modes.modes.values()
    assert (modes.default, fast.settings.model, slow.settings.model) == ("fast", "one.safetensors", "other")
    assert fast.loras == (
        LoraUse(Path("/models/a.safetensors"), 1.0, "lora_a"),
        LoraUse(Path("/b.safetensors"), 0.5, "b"),
    )
    assert load_modes(_toml(f'default_mode = "slow"\n{TOML}')).default == "slow"
    assert load_modes(_toml(f'lora_root = "/l"\n{TOML}')).find("fast").loras[0].path == Path("/l/a.safetensors")


def test_a_mode_supplies_the_fields_that_a_request_leaves_out() -> None:
    fast = load_modes(_toml()).find("fast")
    request = fast.complete(GenerateRequest(prompt="a", guidance_scale=3.0))
    assert (request.num_inference_steps, request.guidance_scale, request.scheduler) == (2, 3.0, "Euler a")
    assert request.loras == fast.loras
    own = fast.complete(GenerateRequest(prompt="a", num_inference_steps=7, scheduler="LCM"))
    assert (own.num_inference_steps, own.scheduler, "size" in own.model_fields_set) == (7, "LCM", False)


def test_a_request_cannot_bring_its_own_loras() -> None:
    for name in ("loras", "_loras"):
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            GenerateRequest.model_validate({"prompt": "a", name: [{"path": "/etc/passwd"}]})


def test_without_configured_modes_there_is_one_default_mode() -> None:
    modes = load_modes(Settings(model="demo"))
    assert (list(modes.modes), modes.configured, modes.find(None).settings.model) == (["default"], False, "demo")
    with pytest.raises(InvalidRequestError, match="Unknown mode 'nix': expected default"):
        modes.find("nix")


def test_the_modes_file_is_found_by_name_or_beside_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "modes.yml").write_text(YAML)
    for environ in ({"IMAGEGEN_MODES_FILE": str(folder / "modes.yml")}, {"MODE_CONFIG_PATH": str(folder)}):
        assert modes_path(Settings.load(environ=environ)) == folder / "modes.yml"
    assert modes_path(Settings.load(environ={})) is None
    (folder / "imagegen.toml").write_text("")
    assert modes_path(Settings.load(environ={"IMAGEGEN_CONFIG": str(folder / "imagegen.toml")})) == folder / "modes.yml"
    with pytest.raises(SettingsError, match=r"There is no file of modes gone: correct IMAGEGEN_MODES_FILE"):
        modes_path(Settings.load(environ={"IMAGEGEN_MODES_FILE": "gone"}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("strength", "strnegth"),
            r"Unknown key modes\.sdxl-portrait\.loras\.0\.strnegth in modes\.yaml, line 17: exp",
        ),
        (
            ("default_steps: 30", "stpes: 30"),
            r"Unknown key modes\.sdxl-general\.stpes in modes\.yaml, line 10: expected",
        ),
        (("default_mode:", "mode:"), r"(Unknown key mode|Missing default_mode)"),
        (
            ("default_steps: 30", "default_steps: many"),
            r"Invalid modes\.sdxl-general\.default_steps in .*, line 10, 'man",
        ),
        (('"1024x1024"', "12by7"), r"Invalid modes\.sdxl-general\.default_size in .*, line 9, '12by7': invalid size"),
        (
            ("  sdxl-portrait:", "  sdxl-general:"),
            r"modes\.yaml, line 13: the key 'sdxl-general' stands there a second",
        ),
        (
            ("default_mode: sdxl-general", "default_mode: nix"),
            r"Unknown mode in default_mode in modes\.yaml, 'nix': exp",
        ),
        (("  sdxl-portrait:", "  'höhe\\n':"), r"a mode's name is of letters, digits and"),
        (
            ("    model: sdxl/sdxl-base-1.0.safetensors\n    loras", "    loras"),
            r"Missing model in modes\.yaml, line 13, mod",
        ),
        (("modes:\n", "modes: [\n"), r"Cannot read the modes modes\.yaml, line \d+: "),
        ((YAML, "- a"), r"Cannot read the modes modes\.yaml: expected the keys model_root, lora_root, default_mode"),
    ],
)
def test_an_error_in_the_yaml_file_is_reported_with_its_line(change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_modes(_yaml(YAML.replace(*change)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            ("scheduler", "sheduler"),
            r"Unknown key modes\.fast\.sheduler in imagegen\.toml, line 6: expected one of back",
        ),
        (
            ("strength", "strnegth"),
            r"Unknown key modes\.fast\.loras\.1\.strnegth in imagegen\.toml: expected one of ad",
        ),
        (('description = "Takes', 'size = "Takes'), r"Unknown key modes\.slow\.size in imagegen\.toml, line 11: "),
        (
            ("model_root", 'default_mode = "nix"\nmodel_root'),
            r"Unknown mode in default_mode in imagegen\.toml, line 1, 'n",
        ),
    ],
)
def test_an_error_in_a_toml_table_is_reported_with_its_key(change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_modes(_toml(TOML.replace(*change)))


def test_modes_in_both_places_are_refused() -> None:
    Path("modes.yaml").write_text(YAML)
    with pytest.raises(
        SettingsError, match=r"Modes are configured in modes in imagegen\.toml, line 3, and in modes\.yaml"
    ):
        load_modes(_toml())


def test_settings_are_read_again_from_the_same_files() -> None:
    settings = _toml().override(device="cpu")
    assert settings.files == (Path("imagegen.toml"),)
    Path("imagegen.toml").write_text(TOML.replace("default_steps = 2", "default_steps = 9"))
    again = settings.reread()
    assert (again.modes["fast"].default_steps, again.device, again.source("device")) == (9, "cpu", "device")
    assert Settings(model="demo").reread().model == "demo"


@pytest.mark.parametrize(
    ("text", "expected"), [("6GB", 6 * 10**9), ("1.5 GiB", 3 * 2**29), ("512m", 512 * 10**6), ("4096", 4096)]
)
def test_a_memory_budget_may_have_a_unit(text: str, expected: int) -> None:
    assert Settings.load(environ={"IMAGEGEN_MEMORY_BUDGET": text}).memory_budget == expected
    with pytest.raises(
        SettingsError, match="Invalid IMAGEGEN_MEMORY_BUDGET 'lots': expected a number of bytes, such as"
    ):
        Settings.load(environ={"IMAGEGEN_MEMORY_BUDGET": "lots"})


def test_modes_of_different_backends_or_roots_share_no_model() -> None:
    def mode(**settings: str) -> Mode:
        return load_modes(Settings.load(environ={}, **settings)).find(None)

    keys = {mode(model="a").key, mode(model="a", backend="sdxl").key, mode(model="a", model_root="/m").key}
    assert len(keys) == 3
    assert mode(model="a", default_size="8x8").key == mode(model="a").key
