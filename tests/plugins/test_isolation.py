"""Real wheels of broken plugins beside a good one: it goes on working, and the doctor knows why they do not."""

from __future__ import annotations

import json
import subprocess
import threading
from importlib.metadata import version
from typing import Any

import pytest

import imagegen_core
from imagegen_core.plugins.doctor import examined
from imagegen_core.plugins.isolation import contained
from imagegen_core.plugins.plugin import Plugin
from tests.plugins.broken_plugins import GOOD, GOOD_WORKER, STRANGERS, Stranger, distribution
from tests.plugins.installed import Installer
from tests.plugins.wheels import Environment, build_wheel

LIMIT = 150
MARKS = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the good plugin and all the broken ones."""
    wheels = tmp_path_factory.mktemp("wheels")
    plugins = {name: (stranger.code, stranger.worker) for name, stranger in STRANGERS.items()}
    plugins |= {"good": (GOOD, GOOD_WORKER), "marks": (MARKS, "")}
    for name, (code, worker) in plugins.items():
        module = f"plugin_{name}"
        modules = {f"{module}/__init__.py": code, f"{module}/worker.py": worker}
        build_wheel(wheels, distribution(name), "3.1", modules, name, module)
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(wheels, *map(distribution, plugins))
    return environment


class DrawingProgress:
    """Commands that run side by side, with the good plugin and others."""

    def __init__(self, environment: Environment, *plugins: str, **variables: str) -> None:
        self._environment = environment
        self._variables = {"IMAGEGEN_PLUGINS": ",".join(("good", *plugins))} | variables

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return self._environment.imagegen(*arguments, **self._variables)

    def output(self, *arguments: str, code: int = 0) -> bytes:
        return output(self.start(*arguments), code)


def output(process: subprocess.Popen[bytes], code: int = 0) -> bytes:
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == code, err.decode()
    return out


def rows(listed: bytes) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(listed) if row["status"] != "disabled"}


DRAW = ("generate", "a square", "--backend", "good", "--seed", "1", "-o", "-")
LIST = ("plugins", "list", "--json")
DOCTOR = ("plugins", "doctor", "--json")


@pytest.fixture(scope="session")
def picture(environment: Environment) -> bytes:
    """What the good plugin draws where it is alone."""
    png = DrawingProgress(environment).output(*DRAW)
    assert png.startswith(b"\x89PNG")
    return png


def check_diagnosis(row: dict[str, Any], name: str, stranger: Stranger) -> None:
    assert (row["distribution"], row["version"]) == (distribution(name), "3.1")
    places = {"json": json.__file__, "package": imagegen_core.__file__, "core": version("imagegen-core")}
    assert (row["cause"], row["mend"]) == (stranger.cause.format(**places), stranger.mend)
    assert row["status"] == ("broken" if stranger.cause else "ok")
    assert bool(row["remarks"]) == bool(stranger.remark)
    assert all(remark.startswith(stranger.remark) for remark in row["remarks"])


@pytest.fixture(scope="session")
def said(environment: Environment) -> dict[str, dict[str, Any]]:
    """What the doctor says of all the plugins together."""
    return rows(DrawingProgress(environment, *STRANGERS).output(*DOCTOR, code=1))


@pytest.mark.parametrize("name", STRANGERS)
def test_a_broken_plugin_stays_by_itself(
    environment: Environment, picture: bytes, said: dict[str, dict[str, Any]], name: str
) -> None:
    stranger = STRANGERS[name]
    runs = DrawingProgress(environment, name, **({"IMAGEGEN_PLUGINS_DISABLED": name} if stranger.fatal else {}))
    drawn, listed = runs.start(*DRAW), runs.start(*LIST)

    assert output(drawn) == picture
    good = rows(output(listed))["good"]
    assert (good["status"], good["offers"]) == ("ok", ["backend good", "command hello"])
    check_diagnosis(said[name], name, stranger)


def test_all_the_broken_plugins_together(
    environment: Environment, picture: bytes, said: dict[str, dict[str, Any]]
) -> None:
    fatal = {name for name, stranger in STRANGERS.items() if stranger.fatal}
    runs = DrawingProgress(environment, *STRANGERS, IMAGEGEN_PLUGINS_DISABLED=",".join(fatal))
    drawn, listed = runs.start(*DRAW), runs.start(*LIST)

    assert output(drawn) == picture
    shown = rows(output(listed))
    assert shown.keys() == {"good", *STRANGERS} - fatal
    for listing in (shown["good"], said["good"]):
        assert (listing["status"], listing["remarks"]) == ("ok", [])
        assert listing["offers"] == ["backend good", "command hello"]


def test_a_clash_costs_the_plugin_that_command_alone(environment: Environment) -> None:
    runs = DrawingProgress(environment, "commands", "untypable", "greets")
    assert runs.output("hello") == b"hello from good\n"
    assert runs.output("farewell") == b"farewell\n"
    assert b"a square" not in runs.output("generate", "--help")
    row = rows(runs.output(*LIST))["commands"]
    assert (row["status"], row["offers"]) == ("broken", ["backend commands", "command farewell"])


def test_the_doctor_speaks_to_people_too(environment: Environment) -> None:
    said = DrawingProgress(environment, "needs", "prints").output("plugins", "doctor", code=1).decode()
    assert "good (imagegen-good 3.1): ok\n" in said
    assert (
        "needs (imagegen-needs 3.1): broken\n"
        "  cause: importing plugin_needs needs the module 'no_such_module', which is not installed\n"
        "  mend: pip install no_such_module\n"
    ) in said
    assert "prints (imagegen-prints 3.1): ok\n  remark: it prints when it is imported ('welcome')" in said


def test_a_denied_plugin_is_never_imported(environment: Environment) -> None:
    mark = environment.site / "plugin_marks" / "imported"
    runs = DrawingProgress(environment, "marks", IMAGEGEN_PLUGINS_DISABLED="marks")
    for arguments in (LIST, DOCTOR, DRAW, ("hello",)):
        runs.output(*arguments)
        assert not mark.exists(), arguments
    DrawingProgress(environment, "marks").output(*LIST)
    assert mark.exists()


def test_what_cannot_be_interrupted_is_ended_by_the_doctor(install: Installer) -> None:
    install.add("stuck", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\nwhile True: pass")
    plugin = examined(Plugin("stuck", "imagegen-stuck", "1.0"), describe_limit=5)
    assert plugin.cause == "it takes more than 5 s and cannot be interrupted when it is imported"


def test_descriptions_that_write_past_python_are_noticed(install: Installer) -> None:
    install.add("loud", "import os\nos.write(1, b'loud')")
    plugin = examined(Plugin("loud", "imagegen-loud", "1.0"))
    assert plugin.status == "ok"
    assert plugin.remarks[0].startswith("it writes to stdout when it says what it offers ('loud')")


def _contained(code: str, limit: float = 10.0) -> Plugin:
    plugin = Plugin("mine", "imagegen-mine", "1.0")
    with contained(plugin, "here", lambda error: (type(error).__name__, ""), limit):
        exec(code, {})
    return plugin


def test_the_alarm_that_was_set_before_goes_on() -> None:
    import signal

    signal.signal(signal.SIGALRM, lambda *_: None)
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    try:
        plugin = _contained("while True: pass", limit=0.1)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert plugin.cause == "it takes more than 0.1 s here"
    assert 900 < left < 1000
    assert interval == 7


def test_a_plugin_that_catches_everything_once_is_interrupted_again() -> None:
    code = "def loop():\n    while True: pass\ntry: loop()\nexcept BaseException: loop()"
    plugin = _contained(code, limit=0.1)
    assert plugin.status == "broken"


def test_the_users_interruption_comes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        _contained("raise KeyboardInterrupt")


def test_on_other_threads_there_is_no_limit_and_all_else_holds() -> None:
    done: list[Plugin] = []
    thread = threading.Thread(target=lambda: done.append(_contained("print('x'); raise SystemExit", limit=0.0)))
    thread.start()
    thread.join(LIMIT)
    assert done[0].cause == "SystemExit"
    assert "it prints here ('x')" in done[0].remarks[0]
