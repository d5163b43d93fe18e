"""The checks of a change: `nox` runs them all, and `nox -s tests` runs one part."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"  # for `requires`
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "audit", "wheels", "tests"]

PACKAGES = ("core", "sdxl", "sd15", "sd3", "flux", "diffusers", "openvino", "demo")
CONSTRAINTS = ("--quiet", "--constraint", "constraints.txt")
EDITABLE = [part for name in PACKAGES for part in ("--editable", f"src/imagegen_{name}")]
EDITABLE[1] += "[diffusers,ray,redis,server,testing,upscale]"
EXAMPLES = ("--editable", "examples/imagegen-toy")

ENVIRONMENT = Path(".nox", "tested")
BIN = ENVIRONMENT / "bin"
LOCK = Path("requirements.lock")
LOCK_HEADER = """\
# The releases of constraints.txt with the SHA-256 of each of their files. `nox -s lock` writes it.
# Of torch it has the files on PyPI, and the CPU build for Linux on x86-64 and Python 3.11.
"""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PAGE, FUZZ = "tests/server/page", "tests/server/test_fuzz.py"
# Tests with random examples, kills or many requests; CI runs a tenth of the nightly number.
REPEATED = (
    FUZZ,
    "tests/server/test_soak.py",
    "tests/server/test_modes.py",
    "tests/storage",
    "tests/engine/test_exact.py",
    "tests/engine/test_memory.py",
    "tests/diffusion/test_worker.py",
    "tests/images/test_tiling.py",
    "tests/lora_files",
    "tests/cluster/test_drawing.py",
    "tests/pictures_in/test_mixes.py",
    "tests/pictures_in/test_table.py",
)
PROCESSES = ("--numprocesses=auto", "--maxprocesses=4")  # each takes up to 2 GB


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*CONSTRAINTS, *_group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=False)
def environment(session: nox.Session) -> None:
    """Install the packages, the examples and the tools into the environment that the sessions share."""
    if not ENVIRONMENT.exists():
        session.run("python3", "-m", "venv", str(ENVIRONMENT))
    pip = (str(BIN / "pip"), "install", *CONSTRAINTS)
    session.run(*pip, *_group("types"), *_group("test"), *_group("docs"))
    session.run(*pip, "--no-build-isolation", *EDITABLE, *EXAMPLES)  # the environment has hatchling


@nox.session(python=False, requires=["environment"])
def types(session: nox.Session) -> None:
    """Strictly check the types of the packages and of the examples."""
    session.run(str(BIN / "mypy"))


@nox.session
def audit(session: nox.Session) -> None:
    """Check the pinned releases for known vulnerabilities, and their hashes with pip."""
    session.install(*CONSTRAINTS, *_group("audit"))
    folder = Path(session.create_tmp()).resolve()
    # Check the hashes of one release only, because the files of all releases are gigabytes.
    pluggy = re.search(r"^pluggy==.*(?:\n +.*)*", LOCK.read_text(), re.MULTILINE)
    (folder / "one.lock").write_text(pluggy[0] if pluggy else "")
    download = ("--quiet", "--no-deps", "--require-hashes", f"--dest={folder}")
    session.run("pip", "download", *download, "-r", str(folder / "one.lock"), silent=True)
    report = folder / "audit.json"
    report.unlink(missing_ok=True)
    options = ("--disable-pip", "--no-deps", "--timeout=5", "--format=json", f"--output={report}")
    session.run("pip-audit", "-r", "constraints.txt", *options, success_codes=[0, 1], silent=True)
    found = json.loads(report.read_text())["dependencies"] if report.exists() else []
    answered = [one for one in found if "skip_reason" not in one]
    if not answered:
        session.skip("nothing here answers for known vulnerabilities: PyPI's JSON interface is out of reach")
    if vulnerable := [f"{one['name']} {one['version']}: {one['vulns'][0]['id']}" for one in answered if one["vulns"]]:
        session.error("; ".join(vulnerable))


@nox.session
def lock(session: nox.Session) -> None:
    """Update requirements.lock, with hashes from the index, and the hash of torch's CPU build from its wheel."""
    session.install("--quiet", *_group("lock"))
    options = ("--no-deps", "--generate-hashes", "--no-annotate", "--no-header", "--python-version=3.11.7")
    session.run("uv", "pip", "compile", "--quiet", *options, "constraints.txt", "--output-file", str(LOCK))
    folder = Path(session.create_tmp()).resolve()
    torch = next(line for line in Path("constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    build = ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--only-binary=:all:", f"--dest={folder}")
    session.run("pip", "download", "--quiet", "--no-deps", *build, "--extra-index-url", CPU_INDEX, f"{torch}+cpu")
    digest = hashlib.file_digest(next(folder.glob("torch-*.whl")).open("rb"), "sha256").hexdigest()
    hashes = LOCK.read_text().replace(f"{torch} \\\n", f"{torch} \\\n    --hash=sha256:{digest} \\\n")
    LOCK.write_text(LOCK_HEADER + hashes)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build wheels and sdists, and install them one by one into an otherwise empty environment."""
    session.install(*CONSTRAINTS, "build", "hatchling")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    for name in PACKAGES:
        build = ("build", "--no-isolation", f"src/imagegen_{name}", "--outdir", str(folder / "dist"))
        session.run("python", "-m", *build, silent=True)
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
    run("pip", "install", "imagegen-sd3")
    run("pip", "install", "imagegen-flux")
    run("pip", "install", "imagegen-sdxl", "imagegen-diffusers", "imagegen-openvino")
    run("imagegen", "plugins", "doctor")
    run("imagegen", "generate", "a red circle on a blue background", "-o", str(folder / "out.png"))
    if (folder / "out.png").read_bytes()[:4] != b"\x89PNG":
        session.error("imagegen generate wrote no PNG")


@nox.session(python=False, requires=["environment"])
def tests(session: nox.Session) -> None:
    """Run all tests, in a process for each CPU, at most four; further arguments go to pytest."""
    _debian(session, "chromium", "nginx", "redis-server")
    _pytest(session, *PROCESSES)


@nox.session(python=False, requires=["environment"])
def server(session: nox.Session) -> None:
    """Run the server's and the stores' tests, with a real Redis and a real nginx."""
    _debian(session, "nginx", "redis-server")
    _pytest(session, *PROCESSES, "tests/server", "tests/storage", f"--ignore={PAGE}", f"--ignore={FUZZ}")


@nox.session(python=False, requires=["environment"])
def page(session: nox.Session) -> None:
    """Run the page's tests in a real Chromium."""
    _debian(session, "chromium")
    _pytest(session, PAGE)


@nox.session(python=False, requires=["environment"])
def fuzz(session: nox.Session) -> None:
    """Send the server requests of every kind."""
    _pytest(session, FUZZ)


@nox.session(python=False, requires=["environment"])
def cluster(session: nox.Session) -> None:
    """Run the cluster's tests on real Ray clusters of this machine."""
    _pytest(session, "tests/cluster")


@nox.session(python=False, requires=["environment"])
def nightly(session: nox.Session) -> None:
    """Run the tests with random examples, kills or many requests ten times as long."""
    _debian(session, "redis-server")
    session.env["TEST_REPETITIONS"] = "10"
    _pytest(session, *PROCESSES, *REPEATED)


@nox.session(python=False, requires=["environment"])
def docs(session: nox.Session) -> None:
    """Run the documents' tests, and build the site into `site`."""
    _pytest(session, *PROCESSES, "tests/docs")
    session.run(str(BIN / "python"), "docs_build/pages.py")
    session.run(str(BIN / "zensical"), "build", "--strict")


def _run_bare(session: nox.Session, folder: Path, program: str, *arguments: str) -> None:
    """Run a program of the bare environment; pip takes this project's distributions from the built files only."""
    if program == "pip":
        built = ("--find-links", str(folder / "dist"))
        arguments = (*arguments[:1], *CONSTRAINTS, *built, *arguments[1:])
    session.run(str(folder / "bare" / "bin" / program), *arguments, external=True)


def _check_contents(session: nox.Session, dist: Path, package: str) -> None:
    """Check that a wheel holds its whole package, and nothing else."""
    wheel = next(dist.glob(f"{package}-*.whl"))
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tree = {str(path.relative_to("src")) for path in Path("src", package).rglob("*") if path.is_file()}
    left_out = {f"{package}/{name}" for name in ("pyproject.toml", "README.md", "LICENSE")}
    wanted = {name for name in tree - left_out if "__pycache__" not in name}
    if held != wanted:
        session.error(f"{wheel.name}: unasked {sorted(held - wanted)}, missing {sorted(wanted - held)}")


def _pytest(session: nox.Session, *arguments: str) -> None:
    session.run(str(BIN / "pytest"), *arguments, *session.posargs)


def _debian(session: nox.Session, *packages: str) -> None:
    """Install missing Debian packages as root. CI must have them; elsewhere, their tests are skipped."""
    missing = [package for package in packages if not shutil.which(package)]
    if not missing:
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        session.run("apt-get", "update", "-qq", external=True, silent=True)
        session.run("apt-get", "install", "-y", "-qq", *missing, external=True, silent=True)
    elif os.environ.get("CI"):
        session.error(f"CI needs {' and '.join(missing)}: install them")
    else:
        session.log(f"{' and '.join(missing)} are not here: what needs them is skipped")


def _group(name: str) -> tuple[str, ...]:
    """Return the requirements of a dependency group in the root pyproject.toml."""
    return nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), name)
