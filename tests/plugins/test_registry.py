"""Discovery of plugins by entry point: a broken plugin breaks nothing else, and its error says how to mend it."""

from __future__ import annotations

import sys

import pytest
import typer
from fastapi import APIRouter

from imagegen_core import BackendNotFoundError, PluginError, Registry
from imagegen_core.plugins.doctor import examine
from imagegen_core.plugins.plugin import Plugin
from tests.plugins.installed import Installer, backend_code


def _plugin(registry: Registry, name: str) -> Plugin:
    return next(plugin for plugin in registry.plugins if plugin.name == name)


def test_an_installed_plugin_is_found(install: Installer) -> None:
    install.add("mine", backend_code("mine"), distribution="imagegen-mine", version="2.3")
    registry = Registry.discover({})
    assert registry.backend("mine").summary == "a test's"
    plugin = _plugin(registry, "mine")
    assert (plugin.distribution, plugin.version, plugin.status) == ("imagegen-mine", "2.3", "ok")
    assert plugin.offers == ["backend mine"]


def test_a_plugin_offers_models_and_styles(install: Installer) -> None:
    install.add(
        "pack",
        """
from pathlib import Path
from imagegen_core import NamedModel, StyleDef, hookimpl

@hookimpl
def imagegen_models():
    return [NamedModel("toy", "a toy", Path("/toy"))]

@hookimpl
def imagegen_styles():
    return [StyleDef("papercut", "Papercut", "/papercut.safetensors", "papercut", [0.5, 1.0])]
""",
    )
    registry = Registry.discover({})
    assert registry.models["toy"].summary == "a toy"
    assert registry.styles["papercut"].title == "Papercut"


BROKEN = {
    "missing module": (
        "import no_such_module",
        "needs the module 'no_such_module'",
        "pip install no_such_module",
    ),
    "import error": ("from json import no_such_name", "ImportError", "update imagegen-bad"),
    "raises": ("1 / 0", "ZeroDivisionError: division by zero", "update imagegen-bad"),
    "syntax error": ("def (", "not valid Python", "update imagegen-bad"),
    "exits": ("import sys; sys.exit(0)", "ends the program", "update imagegen-bad"),
    "hook raises": (
        "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_backends():\n    raise OSError('no disk')",
        "imagegen_backends raised OSError: no disk",
        "update imagegen-bad",
    ),
    "wrong hook signature": (
        "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_backends(unasked): return []",
        "a hook has the wrong signature",
        "update imagegen-bad",
    ),
    "unknown hook": (
        "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_bakends(): return []",
        "implements imagegen_bakends, which this imagegen-core does not know",
        "update imagegen-core",
    ),
    "wrong offer": (
        "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_backends(): return ['sdxl']",
        "imagegen_backends returned 'sdxl' where a Backend belongs",
        "update imagegen-bad",
    ),
    "no list": (
        "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_backends(): return 7",
        "imagegen_backends raised TypeError",
        "update imagegen-bad",
    ),
    "taken name": (
        backend_code("good"),
        "backend 'good' is already offered by imagegen-a-good",
        "DISABLED=bad",
    ),
}


@pytest.mark.parametrize(("code", "cause", "mend"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_breaks_nothing_else(install: Installer, code: str, cause: str, mend: str) -> None:
    install.add("a-good", backend_code("good"))
    install.add("bad", code)
    install.add("z-good", backend_code("other"))

    registry = Registry.discover({})

    assert set(registry.backends) == {"good", "other"}
    bad = _plugin(registry, "bad")
    assert bad.status == "broken"
    assert cause in bad.cause
    assert mend in bad.mend


def test_the_error_for_a_broken_plugins_backend_gives_the_cause(install: Installer) -> None:
    install.add("bad", "import no_such_module")
    with pytest.raises(PluginError) as caught:
        Registry.discover({}).backend("bad")
    assert "imagegen-bad 1.0 is broken" in str(caught.value)
    assert "pip install no_such_module" in str(caught.value)


def test_the_error_for_an_unknown_backend_lists_installed_backends(install: Installer) -> None:
    install.backend("mine")
    with pytest.raises(BackendNotFoundError, match="No backend 'sdxl' is installed: installed is mine, or pip install"):
        Registry.discover({}).backend("sdxl")


@pytest.mark.parametrize(
    "environ",
    [
        {"IMAGEGEN_PLUGINS_DISABLED": "other, bad"},
        {"IMAGEGEN_PLUGINS": "good"},
        {"IMAGEGEN_PLUGINS": "good,bad", "IMAGEGEN_PLUGINS_DISABLED": "bad"},
    ],
)
def test_a_disabled_plugin_is_never_imported(install: Installer, environ: dict[str, str]) -> None:
    install.backend("good")
    install.add("bad", "import sys; sys.modules['bad_was_imported'] = sys")

    registry = Registry.discover(environ)

    assert "bad_was_imported" not in sys.modules
    assert set(registry.backends) == {"good"}
    assert _plugin(registry, "bad").status == "disabled"
    with pytest.raises(PluginError, match=r"is disabled, IMAGEGEN_PLUGINS\w* "):
        registry.backend("bad")


def test_a_second_distribution_with_the_same_entry_point_is_broken(install: Installer) -> None:
    install.add("mine", backend_code("first"), distribution="imagegen-a")
    install.add("mine", backend_code("second"), distribution="imagegen-b")
    registry = Registry.discover({})
    assert len(registry.backends) == 1
    assert [plugin.status for plugin in registry.plugins] == ["ok", "broken"]


def test_a_worker_is_imported_on_first_use(install: Installer) -> None:
    install.backend("mine", worker="string:Template")
    install.backend("gone", worker="no_such_module:Worker")
    registry = Registry.discover({})
    assert registry.backend("mine").load().__name__ == "Template"
    with pytest.raises(PluginError, match="Backend 'gone' cannot be used.*no_such_module"):
        registry.backend("gone").load()


def test_the_doctor_imports_workers(install: Installer) -> None:
    install.backend("mine", worker="string:Template")
    install.backend("gone", worker="no_such_module:Worker")
    install.backend("renamed", worker="string:NoSuchWorker")

    plugins = {plugin.name: plugin for plugin in examine()}

    assert plugins["mine"].status == "ok"
    for name in ("gone", "renamed"):
        assert (plugins[name].status, plugins[name].mend) == (
            "broken",
            f"update imagegen-{name}, or report it to its authors",
        )


def test_a_plugin_adds_commands(install: Installer) -> None:
    install.add(
        "extra",
        """
from imagegen_core import hookimpl

@hookimpl
def imagegen_cli(app):
    @app.command()
    def hello():
        pass
""",
    )
    from imagegen_core.cli.app import build_app

    app, registry = build_app(), Registry.discover({})
    registry.add_commands(app)

    assert "hello" in typer.main.get_group(app).commands
    assert _plugin(registry, "extra").offers == ["command hello"]


def test_a_plugin_with_failing_routes_adds_none(install: Installer, caplog: pytest.LogCaptureFixture) -> None:
    install.add(
        "extra",
        """
from imagegen_core import hookimpl

@hookimpl
def imagegen_routes(app):
    app.get("/half")(lambda: None)
    raise OSError("no disk")
""",
    )
    router = APIRouter()
    Registry.discover({}).add_routes(router)
    assert router.routes == []
    assert "The plugin extra adds no routes: imagegen_routes raised OSError: no disk; update" in caplog.text


def test_a_plugin_cannot_set_the_command_lines_callback(install: Installer) -> None:
    install.add("greedy", "from imagegen_core import hookimpl\n@hookimpl\ndef imagegen_cli(app): app.callback()(print)")
    from imagegen_core.cli.app import build_app

    app, registry = build_app(), Registry.discover({})
    before = app.registered_callback
    registry.add_commands(app)

    assert app.registered_callback is before
    assert "sets the callback of the whole command line" in _plugin(registry, "greedy").cause


def _offering(*names: str, options: str = "") -> str:
    backends = ", ".join(f"Backend(name={name!r}, summary='', worker='a:B', default_size='8x8')" for name in names)
    hook = f"@hookimpl({options})\ndef imagegen_backends(): return [{backends}]"
    return f"from imagegen_core import Backend, hookimpl\n{hook}"


def test_plugins_are_asked_in_the_order_of_names_unless_their_options_differ(install: Installer) -> None:
    install.add("a", _offering("last", options="trylast=True"))
    install.add("b", _offering("second"))
    install.add("c", _offering("third"))
    install.add("d", _offering("first", options="tryfirst=True"))
    assert list(Registry.discover({}).backends) == ["first", "second", "third", "last"]


def test_the_first_of_two_offers_of_a_name_stands(install: Installer) -> None:
    install.add("a", _offering("same"))
    install.add("b", _offering("same", options="tryfirst=True"))
    registry = Registry.discover({})
    assert _plugin(registry, "b").status == "ok"
    assert _plugin(registry, "a").cause == "its backend 'same' is already offered by imagegen-b"


@pytest.mark.parametrize("style", ["wrapper=True", "hookwrapper=True"])
def test_a_wrapper_changes_the_offers_of_others_and_adds_its_own(install: Installer, style: str) -> None:
    is_old = style.startswith("hookwrapper")
    changed = "[[offer for offer in offers if offer.name != 'bad'] for offers in RESULT] + [[mine]]"
    end = (
        f"result.force_result({changed.replace('RESULT', 'result.get_result()')})"
        if is_old
        else f"return {changed.replace('RESULT', 'result')}"
    )
    install.add("a", _offering("good", "bad"))
    install.add(
        "wraps",
        "from imagegen_core import Backend, hookimpl\n"
        "mine = Backend(name='mine', summary='', worker='a:B', default_size='8x8')\n"
        f"@hookimpl({style})\ndef imagegen_backends():\n    result = yield\n    {end}",
    )
    registry = Registry.discover({})
    assert list(registry.backends) == ["good", "mine"]
    assert _plugin(registry, "wraps").offers == ["backend mine"]


@pytest.mark.parametrize(
    "body", ["    1 / 0\n    yield", "    yield\n    1 / 0", "    return\n    yield", "    yield\n    yield"]
)
def test_a_failing_wrapper_breaks_its_plugin_alone(install: Installer, body: str) -> None:
    install.add("a", _offering("good"))
    install.add(
        "wraps", f"from imagegen_core import hookimpl\n@hookimpl(wrapper=True)\ndef imagegen_backends():\n{body}"
    )
    registry = Registry.discover({})
    assert list(registry.backends) == ["good"]
    assert _plugin(registry, "wraps").cause.startswith("imagegen_backends raised")


def test_a_wrapper_that_does_not_yield_at_all_is_refused(install: Installer) -> None:
    install.add(
        "bad", "from imagegen_core import hookimpl\n@hookimpl(wrapper=True)\ndef imagegen_backends(): return []"
    )
    assert "a hook has the wrong signature" in _plugin(Registry.discover({}), "bad").cause


def test_an_optional_hook_may_be_unknown(install: Installer) -> None:
    code = "from imagegen_core import hookimpl\n@hookimpl(optionalhook=True)\ndef imagegen_of_tomorrow(thing): pass"
    install.add("mine", code)
    assert _plugin(Registry.discover({}), "mine").status == "ok"


def test_parameters_are_offers(install: Installer) -> None:
    code = "from imagegen_core import Parameter, hookimpl\n@hookimpl\ndef imagegen_parameters():\n    return [{}]"
    install.add("a", code.format("Parameter('watermark', str, '', 'Text.')"))
    install.add("b", code.format("Parameter('watermark', int, 0, 'Text.')"))
    install.add("c", code.format("Parameter('seed', int, 0, 'Taken.')"))
    registry = Registry.discover({})
    assert registry.parameters["watermark"].default == ""
    assert _plugin(registry, "a").offers == ["parameter watermark"]
    assert _plugin(registry, "b").cause == "its parameter 'watermark' is already offered by imagegen-a"
    assert "name is 'seed', which is a field of its own in requests" in _plugin(registry, "c").cause


@pytest.mark.parametrize("field", ["seed", "prompt"])
def test_a_backend_cannot_do_without_a_prompt_or_a_seed(install: Installer, field: str) -> None:
    install.add("bad", _offering("bad").replace("default_size", f"without=({field!r},), default_size"))
    assert f"without names {field}, which every backend supports" in _plugin(Registry.discover({}), "bad").cause
