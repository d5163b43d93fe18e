"""The doctor compares plugins: undeclared families, and backends of equal priority."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagegen_core import Registry, Settings
from imagegen_core.models.inspect import Recognized
from imagegen_core.plugins.doctor import examine
from imagegen_core.resolution.backends import backends_for
from tests.plugins.installed import Installer, backend_code

WORKER = "string:Template"
FAMILY = """
from imagegen_core import Family, hookimpl

@hookimpl
def imagegen_families():
    return [Family(name="cloud", title="Clouds", package=None, components=("unet",))]
"""


def _remarks(order: Sequence[str] = ()) -> dict[str, list[str]]:
    return {plugin.name: plugin.remarks for plugin in examine(order=order)}


def test_an_undeclared_family_is_remarked(install: Installer) -> None:
    install.backend("mine", architectures=("cloud",), worker=WORKER)
    (remark,) = _remarks()["mine"]
    assert remark == (
        "its backend mine draws the family 'cloud', which no installed plugin declares, so no checkpoint selects it: "
        "declare it by imagegen_families, or install the plugin that does"
    )
    install.add("families", FAMILY)
    assert _remarks() == {"mine": [], "families": []}


def _choice(**environ: str) -> str:
    """Return the backend that imagegen takes for a file of the family."""
    registry, settings = Registry.discover({}), Settings.load(environ=environ)
    return backends_for(registry, settings, Recognized("safetensors", "cloud"))[0].name


@pytest.mark.parametrize("home", ["families", "fast"])
def test_a_tie_is_remarked_with_the_choice(install: Installer, home: str) -> None:
    for name in ("able", "fast", "slow"):
        more = "priority=-1" if name == "slow" else ""
        code = backend_code(name, architectures=("cloud",), worker=WORKER, more=more)
        install.add(name, code + (FAMILY if name == home else ""))
    if home == "families":
        install.add("families", FAMILY)
    remarks = _remarks()
    chosen = _choice()
    assert remarks["slow"] == []
    for name, other in (("able", "fast"), ("fast", "able")):
        (remark,) = remarks[name]
        assert remark == (
            f"its backend {name} draws cloud with the same priority as {other}, and imagegen takes {chosen}: "
            f"set IMAGEGEN_BACKENDS={name} to prefer this backend"
        )


def test_a_preference_ends_the_tie(install: Installer) -> None:
    install.add("families", FAMILY)
    for name in ("able", "fast"):
        install.backend(name, architectures=("cloud",), worker=WORKER)
    assert _remarks(["fast"])["fast"] == []
    assert _choice(IMAGEGEN_BACKENDS="fast") == "fast"
