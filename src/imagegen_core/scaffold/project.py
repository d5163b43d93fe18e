"""Write a plugin's project from the templates next to this file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from string import Template

from imagegen_core.models.hints import EXAMPLE_FAMILY
from imagegen_core.scaffold.kinds import TRAITS, Kind, Traits
from imagegen_core.scaffold.lora import sample_lora
from imagegen_core.scaffold.names import PluginName, ProjectError

_TEMPLATES = Path(__file__).with_name("templates")
_SUFFIX = ".tmpl"
_ABOUT = "about.md"  # the part of the README for one kind
_VERSIONS = ">=0.1"  # no upper limit: a plugin declares the contract that it needs
_STRICT = "error::DeprecationWarning"
_UNTYPED = """
[[tool.mypy.overrides]]
# These annotate little or do not say that they do.
module = $modules
ignore_missing_imports = true
follow_imports = "skip"
"""
_PRIVATE_IMPORTS = "reportPrivateImportUsage = false  # diffusers does not say what it exports\n"


def write_project(name: PluginName, kind: Kind, folder: Path, author: str) -> list[Path]:
    """Write the project of a new plugin.

    Args:
        name: The name of the plugin and its offer.
        kind: The kind of its offer.
        folder: The target; created if it is missing.
        author: The name of its author.

    Returns:
        The files written, relative to `folder`, in order of their names.

    Raises:
        ProjectError: The folder is not empty, or cannot be written to.
    """
    files = _files(name, kind, author)
    try:
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise ProjectError(
                f"Cannot write to {folder}: it is there already, and nothing is overwritten; name a new folder by -o"
            )
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
    except OSError as error:
        raise ProjectError(f"Cannot write to {folder} ({error.strerror}): name another folder by -o") from error
    return sorted(files)


def _files(name: PluginName, kind: Kind, author: str) -> dict[Path, bytes]:
    """Return the files of a project, by path."""
    values = _values(name, kind, TRAITS[kind], author)
    values["about"] = _filled(_TEMPLATES / kind / f"{_ABOUT}{_SUFFIX}", values).strip()
    files = {Path(name.package, "py.typed"): b""}
    for root in (_TEMPLATES / "common", _TEMPLATES / kind):
        for template in root.rglob(f"*{_SUFFIX}"):
            path = template.relative_to(root).with_suffix("")
            if path.name != _ABOUT:
                parts = (name.package if part == "package" else part for part in path.parts)
                files[Path(*parts)] = _filled(template, values).encode()
    if kind is Kind.STYLE:
        files[Path(name.package, f"{name.identifier}.safetensors")] = sample_lora()
    return files


def _filled(template: Path, values: dict[str, str]) -> str:
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def _values(name: PluginName, kind: Kind, traits: Traits, author: str) -> dict[str, str]:
    """Return the values of the templates' placeholders."""
    article = "an" if kind[0] in "aeiou" else "a"
    class_name = name.camel_case.removesuffix(traits.class_suffix) + traits.class_suffix
    extras = f"[{','.join(traits.extras)}]" if traits.extras else ""
    checked = kind if traits.has_kit else "plugin"
    return {
        **EXAMPLE_FAMILY,
        "name": name.name,
        "identifier": name.identifier,
        "environment": name.identifier.upper(),
        "distribution": name.distribution,
        "package": name.package,
        "class_name": class_name,
        "author": author,
        "author_text": json.dumps(author, ensure_ascii=False),
        "year": str(datetime.now(UTC).year),
        "kit": f"{checked.capitalize()}Conformance",
        "checked": checked,
        "test_class": f"Test{name.camel_case}",
        "kind": kind,
        "a_kind": f"{article} {kind}",
        "A_kind": f"{article.capitalize()} {kind}",
        "summary": traits.summary,
        "dependencies": json.dumps([f"imagegen-core{extras}{_VERSIONS}", *traits.dependencies]),
        "testing": json.dumps(["imagegen-core[testing]", *traits.testing]),
        "untyped": Template(_UNTYPED).substitute(modules=json.dumps(traits.untyped)) if traits.untyped else "",
        "private_imports": _PRIVATE_IMPORTS if traits.untyped else "",
        "filterwarnings": _lines([_STRICT, *traits.warnings]),
    }


def _lines(texts: list[str]) -> str:
    """Return a TOML array of texts, one in each line."""
    return "\n".join(["[", *(f"    {json.dumps(text)}," for text in texts), "]"])
