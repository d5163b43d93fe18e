"""Import objects by ``module:name``, and explain why an import failed and how to repair it."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path
from typing import Any

from imagegen_core.distributions import BrokenDistribution, broken_distributions, installed_version
from imagegen_core.errors import ImagegenError, PluginError

_OWN = "imagegen_core"
# By prefix of the module's name below imagegen_core; the first match counts.
_EXTRAS = {
    "diffusion.upscaling": "upscale",
    "diffusion": "diffusers",
    "storage.redis": "redis",
    "storage": "server",
    "server": "server",
    "cluster": "ray",
    "testing": "testing",
}


@dataclass(frozen=True, slots=True)
class ImportFailure:
    """The explanation of a failed import.

    Attributes:
        cause: The error as a sentence that begins with ``importing``.
        mend: The repair; None if only the authors of the imported module can repair it.
    """

    cause: str
    mend: str | None


def import_named(reference: str) -> Any:
    """Import the object at ``module:name``; let all errors through."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def load_named(subject: str, reference: str, extra: str | None = None) -> Any:
    """Import the object at ``module:name``.

    Args:
        subject: The part that needs the object, such as ``Backend 'mine'``.
        reference: The ``module:name``.
        extra: The extra of imagegen-core with the needed libraries; None lets `explain` find it.

    Raises:
        PluginError: The module cannot be imported, or has no such name.
    """
    try:
        return import_named(reference)
    except Exception as error:  # an import runs arbitrary code
        raise unusable(subject, error, reference, extra) from error


def unusable(subject: str, error: Exception, reference: str, extra: str | None = None) -> ImagegenError:
    """Return the error to raise after a failed import that `subject` needs; see `load_named`."""
    if isinstance(error, ImagegenError):
        return error
    failure = explain(error, reference, extra)
    return PluginError(
        f"{subject} cannot be used, {failure.cause}; {failure.mend or '`imagegen plugins doctor` says whom to ask'}"
    )


def explain(error: BaseException, reference: str, extra: str | None = None) -> ImportFailure:
    """Explain why importing ``module`` or ``module:name`` failed.

    diffusers and transformers import other libraries on first use, and then raise an error of their own. The error
    at the root of the chain tells the cause. The module that was being imported at that point tells the library.
    """
    package = reference.partition(":")[0].partition(".")[0]
    root = _root(error)
    failed = _failed_module(root)
    match root:
        case ModuleNotFoundError(name=str(lacking)) if "." not in lacking and (extra or lacking not in (package, _OWN)):
            extra = extra or _extra(reference) or _extra(failed)
            mend = f"pip install 'imagegen-core[{extra}]'" if extra else f"pip install {lacking}"
            return ImportFailure(f"importing {reference} needs the module '{lacking}', which is not installed", mend)
        case SystemExit():
            return ImportFailure(f"importing {reference} ends the program ({in_words(root)})", None)
        case PackageNotFoundError() if broken := _broken_among(str(root)):
            cause = f"importing {reference} needs {broken.name}, whose installation is broken: {broken.cause}"
            return ImportFailure(cause, broken.mend)
    importing = failed.partition(".")[0]
    if importing not in ("", package, _OWN) and (library := _distribution(importing)):
        return _failed_library(root, reference, *library)
    if isinstance(root, SyntaxError):
        return ImportFailure(f"importing {reference} finds what is not valid Python: {root}", None)
    return ImportFailure(f"importing {reference} raised {in_words(root)}", None)


def unexpected(error: Exception) -> str:
    """Return the message for an unexpected error: its place, its library, and how to see more."""
    root = _root(error)
    step = traceback.extract_tb(root.__traceback__)[-1] if root.__traceback__ else None
    failed = _failed_module(root).partition(".")[0]
    library = _distribution(failed) if failed not in ("", _OWN) else None
    where = f"{Path(step.filename).name}, line {step.lineno}" if step else "no known place"
    whose = f" while {library[0]} {library[1]} was imported" if library else ""
    return (
        f"Something went wrong that imagegen did not foresee{whose} ({in_words(root)}, in {where}): "
        "PYTHONDEVMODE=1 shows where; please report that"
    )


def in_words(error: BaseException) -> str:
    """Return an error's type and message in one line, even if its own ``__str__`` fails."""
    return " ".join(traceback.format_exception_only(error)[0].split())


def _failed_library(error: BaseException, reference: str, name: str, installed: str) -> ImportFailure:
    cause = f"importing {reference} fails in {name} {installed}: {in_words(error)}"
    if _is_made_for_torch(name) and (torch := _distribution("torch")):
        mend = f"install the {name} that is made for torch {torch[1]}, or uninstall {name} where nothing needs it"
        return ImportFailure(cause, mend)
    others = _distribution(error.name.partition(".")[0]) if isinstance(error, ImportError) and error.name else None
    if others and others[0] != name:
        return ImportFailure(f"{cause}, of {others[0]} {others[1]}", f"pip install --upgrade {name} {others[0]}")
    return ImportFailure(cause, f"pip install --upgrade {name}")


def _is_made_for_torch(name: str) -> bool:
    """Return whether a distribution is built for one release of torch, as torchvision and xformers are."""
    needs = (need.replace(" ", "").replace("(", "") for need in requires(name) or ())
    return name.startswith("torch") or any(need.startswith("torch==") for need in needs)


def _root(error: BaseException) -> BaseException:
    """Return the original error of a chain."""
    while error.__cause__:
        error = error.__cause__
    return error


def _failed_module(error: BaseException) -> str:
    """Return the innermost module being imported when `error` was raised, by its traceback; "" for none."""
    innermost, step = "", error.__traceback__
    while step:
        if step.tb_frame.f_code.co_name == "<module>":
            innermost = step.tb_frame.f_globals.get("__name__", "")
        step = step.tb_next
    return innermost


def _extra(module: str) -> str | None:
    """Return the extra of imagegen-core for a module of imagegen_core."""
    return next((extra for prefix, extra in _EXTRAS.items() if module.startswith(f"{_OWN}.{prefix}")), None)


def _distribution(package: str) -> tuple[str, str] | None:
    """Return the name and version of a package's installed distribution."""
    try:
        name = next(iter(packages_distributions().get(package, ())), package)
    except Exception:  # noqa: BLE001 - a broken distribution, possibly another than the requested one
        name = package
    installed = installed_version(name)
    return (name, installed) if installed else None


def _broken_among(text: str) -> BrokenDistribution | None:
    """Return the broken distribution with its name in an error message, or None."""
    words = {word.lower() for word in re.findall(r"[\w.-]*\w", text)}
    return next((broken for broken in broken_distributions() if broken.name.lower() in words), None)
