"""Backends' own settings: a table in the file, variables, errors, and other processes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings

from imagegen_core import Backend, Registry, Settings, SettingsError
from imagegen_core.cli import main
from imagegen_core.resolution.backend_settings import check_tables, own_settings, with_resolved_tables
from tests.plugins.installed import Installer


class MineSettings(BaseModel):
    """Settings of the backend ``mine``."""

    threads: int = Field(default=1, ge=1)
    tags: list[str] = []
    token: SecretStr = SecretStr("")
    title: str = ""


class FromLibrary(BaseSettings):
    """A pydantic-settings model; its own sources are not read."""

    threads: int = 1
    path: str = "none"


MINE = Backend("mine", "", "a:B", "8x8", settings=f"{__name__}:MineSettings")


def _write(text: str) -> None:
    Path("imagegen.toml").write_text(text)


def test_variables_come_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    _write('model = "demo"\n[mine]\nthreads = 2\ntitle = "from file"\n')
    settings = Settings.load(environ={"MINE_THREADS": "3", "MINE_TAGS": '["a", "b"]', "MINE_TITLE": ""})
    own = settings.own("mine", MineSettings)
    assert (own.threads, own.tags, own.title) == (3, ["a", "b"], "from file")
    assert {name: value.source for name, value in settings.own_values("mine", MineSettings.model_fields).items()} == {
        "threads": "MINE_THREADS",
        "tags": "MINE_TAGS",
        "title": "mine.title in imagegen.toml, line 4",
    }


def test_a_text_that_looks_like_json_stays_a_text() -> None:
    assert Settings.load(environ={"MINE_TITLE": "[a]"}).own("mine", MineSettings).title == "[a]"


def test_a_pydantic_settings_model_reads_nothing_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_", "x")
    own = Settings.load(environ={"MY_OWN_THREADS": "2"}).own("my-own", FromLibrary)
    assert isinstance(own, FromLibrary)
    assert (own.threads, own.path) == (2, "none")


@pytest.mark.parametrize(
    ("text", "environ", "words"),
    [
        ("[mine]\nthreads = 0\n", {}, "Invalid mine.threads in imagegen.toml, line 2 0: input should be greater"),
        ("", {"MINE_THREADS": "x"}, "Invalid MINE_THREADS 'x': input should be a valid integer"),
        (
            "[mine]\nthread = 1\n",
            {},
            "Unknown key mine.thread in imagegen.toml, line 2: expected one of model, model_root",
        ),
    ],
)
def test_a_wrong_value_is_reported_with_its_place(text: str, environ: dict[str, str], words: str) -> None:
    _write(text)
    with pytest.raises(SettingsError) as caught:
        own_settings(MINE, Settings.load(environ=environ))
    assert words in str(caught.value)


def test_a_missing_value_is_reported_with_its_names() -> None:
    class Needs(BaseModel):
        key: str

    with pytest.raises(SettingsError, match="Missing setting mine.key or MINE_KEY: give it"):
        Settings.load(environ={}).own("mine", Needs)


def test_a_table_that_belongs_to_nothing_is_refused(install: Installer) -> None:
    install.backend("mine")
    install.add("broken", "1 / 0")
    _write("[mine]\n[broken]\nkey = 1\n")
    check_tables(Settings.load(environ={}), Registry.discover({}))
    _write('[mien]\nmodel = "demo"\n')
    with pytest.raises(
        SettingsError, match=r"Unknown table \[mien\] \(mien.model in imagegen.toml, line 2\): expected"
    ):
        check_tables(Settings.load(environ={}), Registry.discover({}))


def test_every_backend_has_a_model_in_its_table() -> None:
    _write('model = "general"\n[sdxl]\nmodel = "own"\n')
    settings = Settings.load(environ={}).for_backend("SDXL")
    assert (settings.model, settings.source("model")) == ("own", "sdxl.model in imagegen.toml, line 3")
    assert Settings.load(environ={}).for_backend("SD15").model == "general"
    assert Settings.load(environ={"MODEL": "variable"}).for_backend("SDXL").model == "variable"
    assert Settings.load(environ={"SDXL_MODEL": "variable"}).for_backend("SDXL").model == "variable"
    assert Settings.load(environ={}, model="argument").for_backend("SDXL").model == "argument"


def test_resolved_settings_hold_in_a_process_with_other_variables(install: Installer) -> None:
    install.add("mine", _PLUGIN)
    _write("[mine]\nthreads = 2\n")
    here = Settings.load(environ={"MINE_TAGS": '["a"]', "MINE_MODEL": "own", "OTHER_SECRET": "hush", "MODEL": "x"})
    sent = pickle.dumps(with_resolved_tables(here, Registry.discover({})))
    assert b"hush" not in sent
    there = pickle.loads(sent)
    own = there.own("mine", MineSettings)
    assert (own.threads, own.tags, there.for_backend("MINE").model) == (2, ["a"], "own")
    again = Settings.load(environ={"MINE_THREADS": "9", "MODEL": "y"}, tables=there.tables)
    assert (again.own("mine", MineSettings).threads, again.for_backend("MINE").model) == (2, "own")


_PLUGIN = f"""
from imagegen_core import Backend, hookimpl

@hookimpl
def imagegen_backends():
    return [Backend("mine", "a test's", "nowhere:Worker", "8x8", settings="{__name__}:MineSettings")]
"""


def _shown(capfd: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as exit_info:
        main([*command])
    captured = capfd.readouterr()
    assert not exit_info.value.code, captured.err
    return captured.out


def test_config_show_prints_a_backends_own_settings(
    install: Installer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install.add("mine", _PLUGIN)
    _write('[mine]\nthreads = 2\nmodel = "own"\n')
    monkeypatch.setenv("MINE_TOKEN", "hush")
    shown = _shown(capfd, "config", "show", "--json")
    rows: dict[str, Any] = {row["setting"]: (row["value"], row["from"]) for row in json.loads(shown)}
    assert rows["mine.threads"] == (2, "mine.threads in imagegen.toml, line 2")
    assert rows["mine.title"] == ("", "default")
    assert rows["mine.token"][1] == "MINE_TOKEN"
    assert rows["model for mine"] == ("own", "mine.model in imagegen.toml, line 3")
    assert "hush" not in shown


def test_cluster_config_carries_backends_own_settings_without_secrets(
    install: Installer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    install.add("mine", _PLUGIN)
    _write("storage_provider = 'disabled'\n[mine]\nthreads = 2\n")
    for name, value in {"MINE_TOKEN": "hush", "MINE_MODEL": "own", "MINE_TAGS": '["a"]'}.items():
        monkeypatch.setenv(name, value)
    text = _shown(capfd, "cluster", "config")
    (application,) = yaml.safe_load(text)["applications"]
    assert "hush" not in text
    assert "# Set MINE_TOKEN in the environment of `ray start` on all machines" in text
    there = Settings.load(environ={"MINE_TOKEN": "hush"}, **application["args"])
    own = there.own("mine", MineSettings)
    assert (own.threads, own.tags, own.token.get_secret_value()) == (2, ["a"], "hush")
    assert there.for_backend("MINE").model == "own"
