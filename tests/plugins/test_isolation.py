"""Wheels of broken plugins beside a good plugin: it still works, and the doctor diagnoses the others."""

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
from tests.plugins.broken_plugins import FAULTY_PLUGINS, GOOD, GOOD_WORKER, FaultyPlugin, distribution
from tests.plugins.installed import Installer
from tests.plugins.wheels import Environment, build_wheel

LIMIT = 150
MARKS = "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n"


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the good plugin and all broken plugins."""
    wheels = tmp_path_factory.mktemp("wheels")
    plugins = FAULTY_PLUGINS | {"good": FaultyPlugin(GOOD, worker=GOOD_WORKER), "marks": FaultyPlugin(MARKS)}
    for name, plugin in plugins.items():
        module = f"plugin_{name}"
        modules = {f"{module}/__init__.py": plugin.code, f"{module}/worker.py": plugin.worker}
        build_wheel(wheels, distribution(name), "3.1", modules, name, module, plugin.requires)
    environment = Environment(tmp_path_factory.mktemp("environment") / "venv")
    environment.install(wheels, *map(distribution, plugins))
    return environment


class CommandLine:
    """The command line, with the good plugin and others; several commands may run at once."""

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


def rows(listing: bytes) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(listing) if row["status"] != "disabled"}


DRAW = ("generate", "a square", "--backend", "good", "--seed", "1", "-o", "-")
LIST = ("plugins", "list", "--json")
DOCTOR = ("plugins", "doctor", "--json")


@pytest.fixture(scope="session")
def picture(environment: Environment) -> bytes:
    """The good plugin's picture, drawn without other plugins."""
    png = CommandLine(environment).output(*DRAW)
    assert png.startswith(b"\x89PNG")
    return png


def check_diagnosis(row: dict[str, Any], name: str, faulty: FaultyPlugin) -> None:
    assert (row["distribution"], row["version"]) == (distribution(name), "3.1")
    places = {"json": json.__file__, "package": imagegen_core.__file__, "core": version("imagegen-core")}
    assert (row["cause"], row["mend"]) == (faulty.cause.format(**places), faulty.mend)
    assert row["status"] == ("broken" if faulty.cause else "ok")
    assert bool(row["remarks"]) == bool(faulty.remark)
    remark = faulty.remark.format(pluggy=version("pluggy"))
    assert all(found.startswith(remark) for found in row["remarks"])


@pytest.fixture(scope="session")
def diagnoses(environment: Environment) -> dict[str, dict[str, Any]]:
    """The doctor's diagnoses of all plugins together."""
    return rows(CommandLine(environment, *FAULTY_PLUGINS).output(*DOCTOR, code=1))


@pytest.mark.parametrize("name", FAULTY_PLUGINS)
def test_a_broken_plugin_does_not_affect_the_good_plugin(
    environment: Environment, picture: bytes, diagnoses: dict[str, dict[str, Any]], name: str
) -> None:
    faulty = FAULTY_PLUGINS[name]
    command_line = CommandLine(environment, name, **({"IMAGEGEN_PLUGINS_DISABLED": name} if faulty.fatal else {}))
    drawing, listing = command_line.start(*DRAW), command_line.start(*LIST)

    assert output(drawing) == picture
    good = rows(output(listing))["good"]
    assert (good["status"], good["offers"]) == ("ok", ["backend good", "command hello"])
    check_diagnosis(diagnoses[name], name, faulty)


def test_all_broken_plugins_together_do_not_affect_the_good_plugin(
    environment: Environment, picture: bytes, diagnoses: dict[str, dict[str, Any]]
) -> None:
    fatal = {name for name, faulty in FAULTY_PLUGINS.items() if faulty.fatal}
    command_line = CommandLine(environment, *FAULTY_PLUGINS, IMAGEGEN_PLUGINS_DISABLED=",".join(fatal))
    drawing, listing = command_line.start(*DRAW), command_line.start(*LIST)

    assert output(drawing) == picture
    listed_rows = rows(output(listing))
    assert listed_rows.keys() == {"good", *FAULTY_PLUGINS} - fatal
    for row in (listed_rows["good"], diagnoses["good"]):
        assert (row["status"], row["remarks"]) == ("ok", [])
        assert row["offers"] == ["backend good", "command hello"]


def test_a_name_clash_drops_only_the_clashing_command(environment: Environment) -> None:
    command_line = CommandLine(environment, "commands", "untypable", "greets")
    assert command_line.output("hello") == b"hello from good\n"
    assert command_line.output("farewell") == b"farewell\n"
    assert b"a square" not in command_line.output("generate", "--help")
    row = rows(command_line.output(*LIST))["commands"]
    assert (row["status"], row["offers"]) == ("broken", ["backend commands", "command farewell"])


def test_the_doctor_prints_a_readable_report(environment: Environment) -> None:
    report = CommandLine(environment, "needs", "prints").output("plugins", "doctor", code=1).decode()
    assert "good (imagegen-good 3.1): ok\n" in report
    assert (
        "needs (imagegen-needs 3.1): broken\n"
        "  cause: importing plugin_needs needs the module 'no_such_module', which is not installed\n"
        "  mend: pip install no_such_module\n"
    ) in report
    assert "prints (imagegen-prints 3.1): ok\n  remark: it prints when it is imported ('welcome')" in report


def test_a_disabled_plugin_is_never_imported(environment: Environment) -> None:
    mark = environment.site / "plugin_marks" / "imported"
    command_line = CommandLine(environment, "marks", IMAGEGEN_PLUGINS_DISABLED="marks")
    for arguments in (LIST, DOCTOR, DRAW, ("hello",)):
        command_line.output(*arguments)
        assert not mark.exists(), arguments
    CommandLine(environment, "marks").output(*LIST)
    assert mark.exists()


def test_the_doctor_ends_a_plugin_that_cannot_be_interrupted(install: Installer) -> None:
    install.add("stuck", "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\nwhile True: pass")
    plugin = examined(Plugin("stuck", "imagegen-stuck", "1.0"), describe_limit=5)
    assert plugin.cause == "it takes more than 5 s and cannot be interrupted when it is imported"


def test_output_that_bypasses_python_is_noticed(install: Installer) -> None:
    install.add("loud", "import os\nos.write(1, b'loud')")
    plugin = examined(Plugin("loud", "imagegen-loud", "1.0"))
    assert plugin.status == "ok"
    assert plugin.remarks[0].startswith("it writes to stdout when it says what it offers ('loud')")


def _contained(code: str, limit: float = 10.0) -> Plugin:
    plugin = Plugin("mine", "imagegen-mine", "1.0")
    with contained(plugin, "here", lambda error: (type(error).__name__, ""), limit):
        exec(code, {})
    return plugin


def test_an_earlier_alarm_is_restored() -> None:
    import signal

    signal.signal(signal.SIGALRM, lambda *_: None)
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    try:
        plugin = _contained("while True: pass", limit=0.1)
        remaining, interval = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert plugin.cause == "it takes more than 0.1 s here"
    assert 900 < remaining < 1000
    assert interval == 7


def test_a_plugin_that_catches_the_interruption_is_interrupted_again() -> None:
    code = "def loop():\n    while True: pass\ntry: loop()\nexcept BaseException: loop()"
    plugin = _contained(code, limit=0.1)
    assert plugin.status == "broken"


def test_a_users_interruption_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt):
        _contained("raise KeyboardInterrupt")


def test_other_threads_have_no_time_limit_but_the_other_protections() -> None:
    plugins: list[Plugin] = []
    thread = threading.Thread(target=lambda: plugins.append(_contained("print('x'); raise SystemExit", limit=0.0)))
    thread.start()
    thread.join(LIMIT)
    assert plugins[0].cause == "SystemExit"
    assert "it prints here ('x')" in plugins[0].remarks[0]
