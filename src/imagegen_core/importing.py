"""Importing what a description names, and telling why an import failed and what mends it."""

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
# By the beginning of a module's name below imagegen_core; the first that fits.
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
    """Why an import failed.

    Attributes:
        cause: What went wrong, in a sentence that begins with ``importing``.
        mend: What to do about it; None where only the authors of the imported module can help.
    """

    cause: str
    mend: str | None


def import_named(reference: str) -> Any:
    """Import the object that ``module:name`` names; whatever the import raises comes through."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def load_named(subject: str, reference: str, extra: str | None = None) -> Any:
    """Import the object that ``module:name`` names.

    Args:
        subject: What needs it, such as ``Backend 'sdxl'``.
        reference: The ``module:name``.
        extra: The extra of imagegen-core that it needs; None leaves it to `explain`.

    Raises:
        PluginError: The module does not import, or has no such name.
    """
    try:
        return import_named(reference)
    except Exception as error:  # a module runs any code when it is imported
        raise unusable(subject, error, reference, extra) from error


def unusable(subject: str, error: Exception, reference: str, extra: str | None = None) -> ImagegenError:
    """The error to raise where an import that `subject` needs raised `error`; see `load_named`."""
    if isinstance(error, ImagegenError):
        return error
    failure = explain(error, reference, extra)
    return PluginError(
        f"{subject} cannot be used, {failure.cause}; {failure.mend or '`imagegen plugins doctor` says whom to ask'}"
    )


def explain(error: BaseException, reference: str, extra: str | None = None) -> ImportFailure:
    """Why importing ``module`` or ``module:name`` failed.

    A library that imports others on first use, as diffusers and transformers do, raises an error of its own. The error
    that it was raised from tells the cause, and the module that was being imported then tells the library.
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
    """What is said of an error that nobody foresaw: where it was raised, whose code that is, and how to see more."""
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
    """An error's kind and message in one line, also where its own ``__str__`` fails."""
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
    """Whether a distribution belongs to one release of torch, as torchvision and xformers do."""
    needs = (need.replace(" ", "").replace("(", "") for need in requires(name) or ())
    return name.startswith("torch") or any(need.startswith("torch==") for need in needs)


def _root(error: BaseException) -> BaseException:
    """The error that the others of a chain were raised from."""
    while error.__cause__:
        error = error.__cause__
    return error


def _failed_module(error: BaseException) -> str:
    """The module that was being imported when `error` was raised, the innermost in its traceback; "" for none."""
    innermost, step = "", error.__traceback__
    while step:
        if step.tb_frame.f_code.co_name == "<module>":
            innermost = step.tb_frame.f_globals.get("__name__", "")
        step = step.tb_next
    return innermost


def _extra(module: str) -> str | None:
    """The extra of imagegen-core that a module of its own needs."""
    return next((extra for prefix, extra in _EXTRAS.items() if module.startswith(f"{_OWN}.{prefix}")), None)


def _distribution(package: str) -> tuple[str, str] | None:
    """Name and version of the installed distribution that a package is from."""
    try:
        name = next(iter(packages_distributions().get(package, ())), package)
    except Exception:  # noqa: BLE001 - a broken distribution, which need not be the one that is looked for
        name = package
    installed = installed_version(name)
    return (name, installed) if installed else None


def _broken_among(text: str) -> BrokenDistribution | None:
    """The broken distribution that an error names."""
    words = {word.lower() for word in re.findall(r"[\w.-]*\w", text)}
    return next((broken for broken in broken_distributions() if broken.name.lower() in words), None)
