"""Everything that is checked before a change lands: `nox` runs it all, `nox -s tests` one part."""

from __future__ import annotations

import functools
import os
import shutil
import zipfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "wheels", "page", "server", "fuzz", "cluster", "docs", "tests"]

PACKAGES = ("core", "sdxl", "sd15", "demo")
CONSTRAINTS = ("--quiet", "--constraint", "constraints.txt")
EDITABLE = [part for name in PACKAGES for part in ("--editable", f"src/imagegen_{name}")]
EDITABLE[1] += "[diffusers,ray,redis,server,testing]"
EXAMPLES = ("--editable", "examples/imagegen-toy", "--editable", "examples/imagegen-openvino")


SHARED = Path(".nox", "tested")  # one environment for all that runs pytest
PARTS = {
    "page": ("tests/server/test_page.py",),
    "fuzz": ("tests/server/test_fuzz.py",),
    "docs": ("tests/docs",),
    "server": ("tests/server", "tests/storage"),
    "cluster": ("tests/cluster",),
}


@nox.session(python=False)
def tests(session: nox.Session) -> None:
    """Run the tests but for the server's, the cluster's and the documents'; further arguments go to pytest."""
    elsewhere = (*PARTS["server"], *PARTS["cluster"], *PARTS["docs"])
    _pytest(session, *([] if session.posargs else _without(*elsewhere)))


@nox.session(python=False)
def server(session: nox.Session) -> None:
    """Run the server's and the stores' tests, with a real Redis."""
    _debian(session, "redis-server")
    _pytest(session, *PARTS["server"], *_without(*PARTS["page"], *PARTS["fuzz"]))


@nox.session(python=False)
def page(session: nox.Session) -> None:
    """Run the page's tests in a real Chromium."""
    _debian(session, "chromium")
    _pytest(session, *PARTS["page"])


@nox.session(python=False)
def fuzz(session: nox.Session) -> None:
    """Send the server requests of every kind."""
    _pytest(session, *PARTS["fuzz"])


@nox.session(python=False)
def cluster(session: nox.Session) -> None:
    """Run the cluster's tests on real Ray clusters of this machine."""
    _pytest(session, *PARTS["cluster"])


@nox.session(python=False)
def docs(session: nox.Session) -> None:
    """Build the documents into `site`, and do all that they say can be done."""
    _pytest(session, *PARTS["docs"])
    session.run(str(SHARED / "bin" / "mkdocs"), "build", "--strict", "--quiet", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*CONSTRAINTS, *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of all four packages and of the examples, strictly."""
    session.install(*CONSTRAINTS, *EDITABLE, *EXAMPLES, *_group("types"))
    session.run("mypy")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build wheels and sdists, and install them one by one into an environment that holds nothing else."""
    session.install("--quiet", "build")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    for name in PACKAGES:
        session.run("python", "-m", "build", f"src/imagegen_{name}", "--outdir", str(folder / "dist"), silent=True)
        _check_contents(session, folder / "dist", f"imagegen_{name}")
    session.run("python", "-m", "venv", str(folder / "bare"))
    run = functools.partial(_run_bare, session, folder)

    run("pip", "install", "imagegen-core")
    run("python", "-c", "import imagegen_core, imagegen_core.cli, sys; assert 'torch' not in sys.modules")
    run("imagegen", "plugins", "list")
    run("python", "-c", "import importlib.util as found; assert found.find_spec('torch') is None")
    run("pip", "install", "imagegen-demo")
    run("imagegen", "models", "list")
    run("pip", "install", "imagegen-sd15")
    run("pip", "install", "imagegen-sdxl")
    run("imagegen", "plugins", "doctor")
    run("imagegen", "generate", "a red circle on a blue background", "-o", str(folder / "out.png"))
    if (folder / "out.png").read_bytes()[:4] != b"\x89PNG":
        session.error("imagegen generate wrote no PNG")


def _run_bare(session: nox.Session, folder: Path, program: str, *arguments: str) -> None:
    """Run a program of the bare environment; pip takes our distributions from what was built, never from elsewhere."""
    if program == "pip":
        built = ("--find-links", str(folder / "dist"))
        arguments = (*arguments[:1], *CONSTRAINTS, *built, *arguments[1:])
    session.run(str(folder / "bare" / "bin" / program), *arguments, external=True)


def _check_contents(session: nox.Session, dist: Path, package: str) -> None:
    """Whether a wheel holds its package alone, and all of it."""
    wheel = next(dist.glob(f"{package}-*.whl"))
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {str(path.relative_to("src")) for path in Path("src", package).rglob("*") if path.is_file()}
    left_out = {f"{package}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE")}
    wanted = {name for name in tree - left_out if "__pycache__" not in name}
    if held != wanted:
        session.error(f"{wheel.name}: unasked {sorted(held - wanted)}, missing {sorted(wanted - held)}")


def _pytest(session: nox.Session, *arguments: str) -> None:
    if not SHARED.exists():
        session.run("python3", "-m", "venv", str(SHARED))
    session.run(
        str(SHARED / "bin" / "pip"), "install", *CONSTRAINTS, *EDITABLE, *EXAMPLES, *_group("test"), *_group("docs")
    )
    session.run(str(SHARED / "bin" / "pytest"), *arguments, *session.posargs)


def _without(*paths: str) -> list[str]:
    return [f"--ignore={path}" for path in paths]


def _debian(session: nox.Session, package: str) -> None:
    """Install a Debian package where it is missing and can be; CI must have it, elsewhere its tests are skipped."""
    if shutil.which(package):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        session.run("apt-get", "update", "-qq", external=True, silent=True)
        session.run("apt-get", "install", "-y", "-qq", package, external=True, silent=True)
    elif os.environ.get("CI"):
        session.error(f"CI needs {package}: install it")
    else:
        session.log(f"{package} is not here: what needs it is skipped")


def _group(name: str) -> tuple[str, ...]:
    """The requirements of a dependency group of the root pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)
