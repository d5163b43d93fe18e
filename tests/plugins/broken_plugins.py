"""A good plugin and many faulty plugins, each with a different fault and the doctor's diagnosis of it."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

GOOD = """
from imagegen_core import Backend, hookimpl

requires_contract = "1.0"

@hookimpl
def imagegen_backends():
    return [Backend(name="good", summary="a grey square", worker="plugin_good.worker:Grey", default_size="64x64")]

@hookimpl
def imagegen_cli(app):
    @app.command()
    def hello():
        print("hello from good")
"""
GOOD_WORKER = """
import io
from PIL import Image
from imagegen_core import ResolvedRequest

class Grey:
    def __init__(self, worker_id=0, settings=None):
        self.worker_id = worker_id

    def run_job(self, job):
        return self.run_job_with_latents(job)[:2]

    def run_job_with_latents(self, job):
        resolved = ResolvedRequest.of(job.req, native_size="64x64")
        png = io.BytesIO()
        Image.new("RGB", (64, 64), "grey").save(png, "PNG")
        return png.getvalue(), resolved.seed, bytes(512)
"""


@dataclass(frozen=True)
class FaultyPlugin:
    """A plugin of version 3.1.

    Attributes:
        code: The code of its module.
        cause: The doctor's description of the fault.
        mend: The doctor's advice.
        remark: The beginning of the doctor's remark; a plugin with a remark works despite its flaw.
        fatal: Whether it ends every process that imports it.
        worker: The code of its module ``worker``.
        requires: Its requirements.
    """

    code: str
    cause: str = ""
    mend: str = ""
    remark: str = ""
    fatal: bool = False
    worker: str = ""
    requires: tuple[str, ...] = ()


def distribution(name: str) -> str:
    """Return the name of a plugin's distribution."""
    return f"imagegen-{name}"


def _update(name: str) -> str:
    return f"update imagegen-{name}, or report it to its authors"


def _disable(name: str) -> str:
    return f"disable it with IMAGEGEN_PLUGINS_DISABLED={name}, and {_update(name)}"


def _hooks(code: str) -> str:
    return "from imagegen_core import Backend, hookimpl\n" + dedent(code)


def _offering(name: str, size: str = "64x64", without: tuple[str, ...] = ()) -> str:
    """Return code that offers a backend."""
    return _hooks(f"""
        @hookimpl
        def imagegen_backends():
            worker = "plugin_{name}.worker:Worker"
            return [Backend(name="{name}", summary="", worker=worker, default_size="{size}", without={without})]
        """)


_WORKER = "class Worker: pass\n"

FAULTY_PLUGINS = {
    "importerror": FaultyPlugin(
        "from json import no_such_name",
        "importing plugin_importerror raised ImportError: cannot import name 'no_such_name' from 'json' ({json})",
        _update("importerror"),
    ),
    "syntax": FaultyPlugin(
        "def (:\n",
        "importing plugin_syntax finds what is not valid Python: invalid syntax (__init__.py, line 1)",
        _update("syntax"),
    ),
    "exits": FaultyPlugin(
        "import sys; sys.exit(3)", "importing plugin_exits ends the program (SystemExit: 3)", _update("exits")
    ),
    "loops": FaultyPlugin("while True: pass", "it takes more than 10 s when it is imported", _disable("loops")),
    "signature": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_backends(unasked):
                return []
            """),
        "a hook has the wrong signature: Plugin 'signature' for hook 'imagegen_backends' hookimpl definition: "
        "imagegen_backends(unasked) Argument(s) {{'unasked'}} are declared in the hookimpl but can not be found in the "
        "hookspec",
        _update("signature"),
    ),
    "raises": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_backends():
                raise OSError("no disk")
            """),
        "imagegen_backends raised OSError: no disk",
        _update("raises"),
    ),
    "unspeakable": FaultyPlugin(
        _hooks("""
            class Unspeakable(BaseException):
                def __str__(self):
                    raise self
            @hookimpl
            def imagegen_styles():
                raise Unspeakable
            """),
        "imagegen_styles raised plugin_unspeakable.Unspeakable: <exception str() failed>",
        _update("unspeakable"),
    ),
    "malformed": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_backends():
                return [Backend(name=["malformed"], summary="", worker="", default_size="64x64")]
            """),
        "imagegen_backends returned a Backend whose name is ['malformed'], where str belongs",
        _update("malformed"),
    ),
    "imitates": FaultyPlugin(
        _offering("good"),
        "its backend 'good' is already offered by imagegen-good",
        "disable one of the two: IMAGEGEN_PLUGINS_DISABLED=imitates",
    ),
    "future": FaultyPlugin(
        'requires_contract = "2.0"\n'
        + _hooks("""
            @hookimpl
            def imagegen_backends():
                raise AssertionError("asked although it is for another contract")
            """),
        "it is written for contract 2.0, and imagegen-core {core} has contract 1.0",
        "pip install --upgrade imagegen-core",
    ),
    "tomorrow": FaultyPlugin(
        'requires_contract: str = "1.7"\nfrom imagegen_core import ThingOfTomorrow',
        "it is written for contract 1.7, and imagegen-core {core} has contract 1.0",
        "pip install --upgrade imagegen-core",
    ),
    "past": FaultyPlugin(
        'requires_contract = "0.9"',
        "it is written for contract 0.9, and imagegen-core {core} supports contracts from 1.0 on",
        "pip install --upgrade imagegen-past",
    ),
    "number": FaultyPlugin(
        "requires_contract = 1.0",
        "its requires_contract is 1.0, where text such as '1.0' belongs",
        _update("number"),
    ),
    "newer": FaultyPlugin(
        "from imagegen_core import ThingOfTomorrow",
        "importing plugin_newer needs another imagegen-core: ImportError: cannot import name 'ThingOfTomorrow' from "
        "'imagegen_core' ({package})",
        "pip install --upgrade imagegen-core imagegen-newer",
    ),
    "needs": FaultyPlugin(
        "import no_such_module",
        "importing plugin_needs needs the module 'no_such_module', which is not installed",
        "pip install no_such_module",
    ),
    "workerneeds": FaultyPlugin(
        _offering("workerneeds"),
        "its backend workerneeds cannot be used: importing plugin_workerneeds.worker:Worker needs the module "
        "'no_such_module', which is not installed",
        "pip install no_such_module",
        worker="import no_such_module\n" + _WORKER,
    ),
    "workerdies": FaultyPlugin(
        _offering("workerdies"),
        "it ends the process with exit code 5 when plugin_workerdies.worker:Worker of its backend workerdies is "
        "imported",
        _disable("workerdies"),
        worker="import os\nos._exit(5)\n",
    ),
    "forgets": FaultyPlugin(
        _hooks("""
            def imagegen_backends():
                return []
            """),
        "it defines imagegen_backends without @hookimpl, so imagegen never calls it",
        f"mark it with imagegen_core.hookimpl, or {_update('forgets')}",
    ),
    "shapeless": FaultyPlugin(
        _offering("shapeless", size="banana"),
        "the default_size of its backend shapeless is no size: Invalid size 'banana': expected WIDTHxHEIGHT in pixels, "
        "multiples of 8, such as 1024x1024",
        _update("shapeless"),
        worker=_WORKER,
    ),
    "unsettled": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_backends():
                worker, settings = "plugin_unsettled.worker:Worker", "plugin_unsettled.worker:Options"
                return [Backend("unsettled", "", worker, "64x64", settings=settings)]
            """),
        "its settings of backend unsettled cannot be used: importing plugin_unsettled.worker:Options raised "
        "AttributeError: module 'plugin_unsettled.worker' has no attribute 'Options'",
        _update("unsettled"),
        worker=_WORKER,
    ),
    "commands": FaultyPlugin(
        _offering("commands")
        + dedent("""
            @hookimpl
            def imagegen_cli(app):
                @app.command()
                def generate():
                    print("not imagegen's own")
                @app.command()
                def farewell():
                    print("farewell")
            """),
        "its command 'generate' is already imagegen's own, which stands",
        "ask the authors of imagegen-commands for another name, or disable it: IMAGEGEN_PLUGINS_DISABLED=commands",
        worker=_WORKER,
    ),
    "greets": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_cli(app):
                import typer
                group = typer.Typer()
                group.command("world")(lambda: None)
                app.add_typer(group, name="hello")
            """),
        "its command 'hello' is already offered by imagegen-good",
        "disable one of the two: IMAGEGEN_PLUGINS_DISABLED=greets",
    ),
    "untypable": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_cli(app):
                @app.command()
                def impossible(value: 'NoSuchType'):
                    pass
            """),
        "imagegen_cli raised NameError: name 'NoSuchType' is not defined",
        _update("untypable"),
    ),
    "noroutes": FaultyPlugin(
        _hooks("""
            @hookimpl
            def imagegen_routes(app):
                raise LookupError("no way")
            """),
        "imagegen_routes raised LookupError: no way",
        _update("noroutes"),
    ),
    "dies": FaultyPlugin(
        "import os; os._exit(0)",
        "it ends the process with exit code 0 when it is imported",
        _disable("dies"),
        fatal=True,
    ),
    "crashes": FaultyPlugin(
        "import ctypes; ctypes.string_at(0)",
        "it ends the process by SIGSEGV when it is imported",
        _disable("crashes"),
        fatal=True,
    ),
    "prints": FaultyPlugin(
        "print('welcome')\n" + _offering("prints"),
        remark="it prints when it is imported ('welcome'), and stdout is for pictures and data: ",
        worker=_WORKER,
    ),
    "writes": FaultyPlugin(
        "import sys\nsys.stderr.write('welcome')\n" + _offering("writes"),
        remark="it writes to stderr when it says what it offers ('welcome'), in every command: ",
        worker=_WORKER,
    ),
    "heavy": FaultyPlugin(
        "import torch\n" + _offering("heavy"),
        remark="it imports torch to say what it offers, and every command waits ",
        worker=_WORKER,
    ),
    "misses": FaultyPlugin(
        _offering("misses", without=("clip_skip", "bananas")),
        remark="its backend misses is without 'bananas', which is no field of requests, and which no installed plugin "
        "declares: expected some of size, ",
        worker=_WORKER,
    ),
    "old": FaultyPlugin(
        _offering("old"),
        remark="it needs pluggy>=99, and pluggy {pluggy} is installed: pip install 'pluggy>=99'",
        worker=_WORKER,
        requires=("pluggy>=99", "imagegen-core>=0.1", "no-such-thing>=1; python_version < '3'"),
    ),
    "alone": FaultyPlugin(
        _offering("alone"),
        remark="it needs no-such-thing[fast]>=1, which is not installed: pip install 'no-such-thing[fast]>=1'",
        worker=_WORKER,
        requires=("no-such-thing[fast] >=1",),
    ),
}
