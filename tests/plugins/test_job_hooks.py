"""The hooks around jobs: their order, as pluggy documents it, and the containment of their faults."""

from __future__ import annotations

import io
import logging
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pluggy
import pytest
from PIL import Image

from imagegen_core import (
    GenerateRequest,
    InvalidRequestError,
    Job,
    Picture,
    PluginError,
    Recipe,
    Registry,
    Settings,
    Started,
    encode_png,
    read_recipe,
    to_text,
)
from imagegen_core.plugins import hookspecs, job_hooks
from tests.plugins.installed import Installer
from tests.waiting import until

HEAD = "from imagegen_core import hookimpl, GenerateRequest, InvalidRequestError, Picture\n"
REQUEST = GenerateRequest(prompt="a", seed=1)


def _adding(letter: str, options: str = "") -> str:
    """Return a plugin that appends a letter to the prompt."""
    return HEAD + (
        f"@hookimpl({options})\n"
        "def imagegen_request(request):\n"
        f"    return request.model_copy(update={{'prompt': request.prompt + '{letter}'}})\n"
    )


def _wrapping(letter: str, options: str = "wrapper=True") -> str:
    """Return a plugin that puts the others' prompt into brackets, after a letter."""
    is_old = "hookwrapper" in options
    result = "result.get_result()" if is_old else "result"
    changed = f"{result}.model_copy(update={{'prompt': '{letter}(' + {result}.prompt + ')'}})"
    end = f"    result.force_result({changed})\n" if is_old else f"    return {changed}\n"
    return f"{HEAD}@hookimpl({options})\ndef imagegen_request(request):\n    result = yield\n{end}"


def _picture(pixels: Any = None) -> Picture:
    recipe = Recipe("a", None, 1, 8, 8, 1, 1.0, "LCM", None, None, 0, "c", None, "b", "fp32", "cpu")
    return Picture(encode_png(np.zeros((8, 8, 3), np.uint8) if pixels is None else pixels, to_text(recipe)), 1, b"")


def _pixels(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_each_plugin_gets_the_result_of_the_one_before_in_the_order_of_names(install: Installer) -> None:
    for name in "cab":
        install.add(name, _adding(name))
    assert Registry.discover({}).hooks.request(REQUEST).prompt == "aabc"


def test_tryfirst_trylast_and_wrappers_follow_pluggy(install: Installer) -> None:
    codes = {
        "a": _adding("a", "trylast=True"),
        "b": _adding("b"),
        "c": _adding("c", "tryfirst=True"),
        "d": _adding("d", "tryfirst=True"),
        "e": _wrapping("e"),
        "f": _wrapping("f", "hookwrapper=True"),
        "g": _wrapping("g", "wrapper=True, tryfirst=True"),
    }
    for name, code in codes.items():
        install.add(name, code)
    assert Registry.discover({}).hooks.request(REQUEST).prompt == _by_pluggy(codes)


def _by_pluggy(codes: dict[str, str]) -> str:
    """Return the prompt by pluggy alone: the plain implementations' order, and the wrappers around them."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in sorted(codes, reverse=True):
        module = type(pluggy)(name)
        exec(codes[name], vars(module))
        manager.register(module, name=name)
    order = [*reversed(manager.hook.imagegen_request.get_hookimpls())]
    prompt = REQUEST.prompt + "".join(str(each.plugin_name) for each in order if not (each.wrapper or each.hookwrapper))
    for each in reversed([each for each in order if each.wrapper or each.hookwrapper]):
        prompt = f"{each.plugin_name}({prompt})"
    return prompt


def test_an_optional_hook_may_be_unknown_and_a_specname_names_the_hook(install: Installer) -> None:
    install.add(
        "mine",
        HEAD + "@hookimpl(optionalhook=True)\ndef imagegen_of_tomorrow(thing): pass\n"
        "@hookimpl(specname='imagegen_request')\n"
        "def shout(request): return request.model_copy(update={'prompt': request.prompt.upper()})",
    )
    registry = Registry.discover({})
    assert registry.plugins[0].status == "ok"
    assert registry.hooks.request(REQUEST).prompt == "A"


def test_a_request_gets_its_seed_before_the_plugins_and_keeps_its_type(install: Installer) -> None:
    install.add("mine", HEAD + "@hookimpl\ndef imagegen_request(request): assert isinstance(request.seed, int)")
    seeds = {Registry.discover({}).hooks.request(GenerateRequest(prompt="a")).seed for _ in range(3)}
    assert len(seeds) == 3


def test_without_plugins_a_request_is_left_as_it_is(install: Installer) -> None:
    hooks = Registry.discover({}).hooks
    assert hooks.request(request := GenerateRequest(prompt="a")) is request
    assert hooks.picture(picture := _picture(), REQUEST) is picture


FAULTS = {
    "raises": ("1 / 0", "raised ZeroDivisionError: division by zero in imagegen_request"),
    "exits": ("raise SystemExit(3)", "raised SystemExit: 3 in imagegen_request"),
    "wrong type": ("return 7", "returned int, where a changed copy of the GenerateRequest or None belongs"),
    "hangs": ("import time; time.sleep(5)", "takes more than 0.2 s in imagegen_request"),
    "invalid": ("return request.model_copy(update={'num_inference_steps': 0})", "Invalid num_inference_steps 0"),
}


@pytest.mark.parametrize(("code", "words"), FAULTS.values(), ids=FAULTS)
def test_a_failing_plugin_fails_its_request_with_its_name(
    install: Installer, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    monkeypatch.setattr(job_hooks, "LIMIT", 0.2)
    install.add("bad", f"{HEAD}@hookimpl\ndef imagegen_request(request):\n    if request.prompt == 'b': {code}\n")
    hooks = Registry.discover({}).hooks
    with pytest.raises((PluginError, InvalidRequestError)) as caught:
        hooks.request(GenerateRequest(prompt="b", seed=1))
    assert words in str(caught.value)
    if isinstance(caught.value, PluginError):
        assert "The plugin bad (imagegen-bad 1.0)" in str(caught.value)
        assert "disable it with IMAGEGEN_PLUGINS_DISABLED=bad" in str(caught.value)
    assert hooks.request(REQUEST).prompt == "a"


def test_a_plugin_refuses_a_request_in_its_own_words(install: Installer) -> None:
    code = "@hookimpl\ndef imagegen_request(request): raise InvalidRequestError('Not here: ask for a lake', 'prompt')"
    install.add("blocklist", HEAD + code)
    with pytest.raises(InvalidRequestError, match="^Not here: ask for a lake$") as caught:
        Registry.discover({}).hooks.request(REQUEST)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("style", ["wrapper=True", "hookwrapper=True"])
def test_a_wrapper_sees_the_error_inside_and_may_let_it_through(install: Installer, style: str) -> None:
    install.add("a-bad", f"{HEAD}@hookimpl\ndef imagegen_request(request): 1 / 0")
    install.add("wraps", _wrapping("w", style))
    with pytest.raises(PluginError, match="The plugin a-bad .* raised ZeroDivisionError"):
        Registry.discover({}).hooks.request(REQUEST)


def test_a_wrapper_may_replace_an_error(install: Installer) -> None:
    install.add("a-bad", f"{HEAD}@hookimpl\ndef imagegen_request(request): 1 / 0")
    install.add(
        "wraps",
        f"{HEAD}@hookimpl(wrapper=True)\ndef imagegen_request(request):\n"
        "    try:\n        return (yield)\n    except Exception:\n"
        "        return request.model_copy(update={'prompt': 'b'})",
    )
    assert Registry.discover({}).hooks.request(REQUEST).prompt == "b"


@pytest.mark.parametrize(
    ("body", "words"),
    [("    1 / 0\n    yield", "ZeroDivisionError"), ("    return\n    yield", "does not yield"),
     ("    yield\n    yield", "yields twice"), ("    yield\n    1 / 0", "ZeroDivisionError")],
)  # fmt: skip
def test_a_failing_wrapper_is_named(install: Installer, body: str, words: str) -> None:
    install.add("bad", f"{HEAD}@hookimpl(wrapper=True)\ndef imagegen_request(request):\n{body}")
    with pytest.raises(PluginError, match=f"The plugin bad .*{words}"):
        Registry.discover({}).hooks.request(REQUEST)


_INVERTS = """
import dataclasses, numpy, imagegen_core
@hookimpl
def imagegen_picture(picture, request):
    pixels = 255 - numpy.asarray(picture.image)
    return dataclasses.replace(picture, png=imagegen_core.encode_png(pixels))
"""


def test_a_changed_picture_keeps_its_recipe_which_names_the_plugins(install: Installer) -> None:
    install.add("a-inverts", HEAD + _INVERTS, version="1.2")
    install.add("b-looks", f"{HEAD}@hookimpl\ndef imagegen_picture(picture, request): assert picture.image")
    install.add("c-inverts", HEAD + _INVERTS)
    given = _picture()
    changed = Registry.discover({}).hooks.picture(given, REQUEST)
    assert read_recipe(changed.png).processors == ("imagegen-a-inverts 1.2", "imagegen-c-inverts 1.0")
    assert (_pixels(changed.png) == _pixels(given.png)).all()
    assert changed.seed == given.seed
    assert (
        'Processors: "imagegen-a-inverts 1.2, imagegen-c-inverts 1.0"'
        in Image.open(io.BytesIO(changed.png)).info["parameters"]
    )


@pytest.mark.parametrize("answer", ["None", "picture"])
def test_an_unchanged_picture_keeps_its_bytes(install: Installer, answer: str) -> None:
    install.add("looks", f"{HEAD}@hookimpl\ndef imagegen_picture(picture, request): return {answer}")
    assert Registry.discover({}).hooks.picture(given := _picture(), REQUEST) == given


def test_chunks_of_a_plugin_stay_byte_for_byte(install: Installer) -> None:
    """A signature of the whole file stays valid: imagegen names the plugin before it signs."""
    install.add(
        "signs",
        f"""{HEAD}
import dataclasses, hashlib, struct, zlib
@hookimpl
def imagegen_picture(picture, request):
    content = b"caBX" + hashlib.sha256(picture.png).digest()
    chunk = struct.pack(">I", 32) + content + struct.pack(">I", zlib.crc32(content))
    return dataclasses.replace(picture, png=picture.png[:33] + chunk + picture.png[33:])
""",
    )
    import hashlib

    signed = Registry.discover({}).hooks.picture(_picture(), REQUEST).png
    unsigned = signed[:33] + signed[33 + 44 :]
    assert signed[41:73] == hashlib.sha256(unsigned).digest()
    assert read_recipe(signed).processors == ("imagegen-signs 1.0",)


def test_a_damaged_picture_is_a_fault_of_its_plugin(install: Installer) -> None:
    code = "import dataclasses\n@hookimpl\ndef imagegen_picture(picture, request):\n"
    install.add("bad", HEAD + code + "    return dataclasses.replace(picture, png=picture.png[:50])")
    with pytest.raises(PluginError, match="The plugin bad .* returned a damaged picture"):
        Registry.discover({}).hooks.picture(_picture(), REQUEST)


def test_a_picture_without_a_recipe_is_changed_too(install: Installer) -> None:
    install.add("inverts", HEAD + _INVERTS)
    plain = Picture(encode_png(np.zeros((8, 8, 3), np.uint8)), 1, b"")
    assert (_pixels(Registry.discover({}).hooks.picture(plain, REQUEST).png) == 255).all()


_EVENTS = """
heard = []
@hookimpl
def imagegen_startup(settings): heard.append(("startup", settings.model))
@hookimpl
def imagegen_job_event(job, event): heard.append((job.id, type(event).__name__))
@hookimpl
def imagegen_shutdown(): heard.append(("shutdown",))
"""


def _heard(install: Installer, name: str) -> Any:
    import sys

    return sys.modules[f"plugin_imagegen_{name.replace('-', '_')}"].heard  # type: ignore[attr-defined]


def test_events_are_told_in_order_between_startup_and_shutdown(install: Installer) -> None:
    install.add("hears", HEAD + _EVENTS)
    hooks, job = Registry.discover({}).hooks, Job(req=REQUEST)
    with hooks.running(Settings(model="demo")):
        for _ in range(3):
            hooks.tell(job, Started())
    assert _heard(install, "hears") == [("startup", "demo"), *[(job.id, "Started")] * 3, ("shutdown",)]


def test_failing_notices_are_logged_and_the_other_plugins_hear(
    install: Installer, caplog: pytest.LogCaptureFixture
) -> None:
    install.add("a-bad", HEAD + _EVENTS.replace("heard.append", "1 / 0 or heard.append"))
    install.add("hears", HEAD + _EVENTS)
    hooks, job = Registry.discover({}).hooks, Job(req=REQUEST)
    with caplog.at_level(logging.WARNING), hooks.running(Settings()):
        hooks.tell(job, Started())
    assert len(_heard(install, "hears")) == 3
    for hook in ("imagegen_startup", "imagegen_job_event", "imagegen_shutdown"):
        assert f"The plugin a-bad fails in {hook} (ZeroDivisionError: division by zero)" in caplog.text


@pytest.fixture
def hanging() -> Iterator[threading.Event]:
    import builtins

    builtins.imagegen_test_gate = gate = threading.Event()  # type: ignore[attr-defined]
    yield gate
    gate.set()
    del builtins.imagegen_test_gate  # type: ignore[attr-defined]


def test_a_plugin_that_hangs_at_an_event_is_not_called_again(
    install: Installer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hanging: threading.Event
) -> None:
    monkeypatch.setattr(job_hooks, "NOTICE_LIMIT", 0.2)
    install.add("a-hangs", HEAD + "@hookimpl\ndef imagegen_job_event(job, event): imagegen_test_gate.wait()")
    install.add("hears", HEAD + _EVENTS)
    hooks, job = Registry.discover({}).hooks, Job(req=REQUEST)
    with caplog.at_level(logging.WARNING), hooks.running(Settings()):
        for _ in range(20):
            hooks.tell(job, Started())
    assert len(_heard(install, "hears")) == 22
    assert caplog.text.count("takes more than 0.2 s in imagegen_job_event, which is not called again") == 1


def test_events_that_a_slow_plugin_cannot_follow_are_left_out_with_a_warning(
    install: Installer, caplog: pytest.LogCaptureFixture, hanging: threading.Event
) -> None:
    install.add("slow", HEAD + "@hookimpl\ndef imagegen_job_event(job, event): imagegen_test_gate.wait()")
    hooks, job = Registry.discover({}).hooks, Job(req=REQUEST)
    with caplog.at_level(logging.WARNING), hooks.running(Settings()):
        for _ in range(2000):
            hooks.tell(job, Started())
        hanging.set()
    assert caplog.text.count("newer events are left out") == 1


def test_hooks_leave_no_thread_behind(install: Installer) -> None:
    install.add("hears", HEAD + _EVENTS + _INVERTS)
    before = {*threading.enumerate()}
    hooks = Registry.discover({}).hooks
    with hooks.running(Settings()):
        hooks.picture(_picture(), hooks.request(REQUEST))
    until(lambda: {*threading.enumerate()} <= before)


def test_every_checksum_of_a_changed_picture_is_valid(install: Installer) -> None:
    """A plain reading of the specification, and Pillow, accept the replaced chunks."""
    install.add("inverts", HEAD + _INVERTS)
    png = Registry.discover({}).hooks.picture(_picture(), REQUEST).png
    place = 8
    while place < len(png):
        (length,) = struct.unpack_from(">I", png, place)
        content = png[place + 4 : place + 8 + length]
        assert struct.unpack_from(">I", png, place + 8 + length) == (zlib.crc32(content),)
        place += 12 + length
    Image.open(io.BytesIO(png)).verify()
