"""The page of signatures: every public name with its signature, its fields and its docstring, as in a stub file.

`docs/reference/python.md` gives the names and their order. ``python docs_build/signatures.py`` writes the page, and a
test compares it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from griffe import Alias, GriffeLoader, Object

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/reference/signatures.md"

_SOURCE = ROOT / "docs/reference/python.md"
_PACKAGE = "imagegen_core"
_HOOKS = f"{_PACKAGE}.plugins.hookspecs"
_PREFIX = "imagegen_"
_LINE = re.compile(r"^(?:(?P<heading>#+ .+)|::: (?P<name>\S+))$", re.MULTILINE)
_FOR_TOOLS = re.compile(r"  # (type: ignore|noqa).*")
_SPECIAL = {"__init__", "__call__", "__enter__", "__exit__", "__iter__", "__await__", "__aenter__", "__aexit__"}
_INTRODUCTION = """# Signatures

The public names as in a stub file: signatures, fields, defaults and docstrings, without the code. [Python](python.md)
has the same names with links, and [Extend imagegen](../extend.md) an example of each hook. `docs_build/signatures.py`
writes this page.
"""

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """Return the page as Markdown."""
    parts = [_INTRODUCTION]
    for match in _LINE.finditer(_SOURCE.read_text(encoding="utf-8").partition("\n")[2]):
        if match["heading"]:
            parts.append(f"{match['heading']}\n")
        elif match["name"] == _HOOKS:
            hooks = _loaded()[_HOOKS.removeprefix(f"{_PACKAGE}.")].members
            parts += [_block(f"{_HOOKS}.{hook}") for hook in hooks if hook.startswith(_PREFIX)]
        else:
            parts.append(_block(match["name"]))
    return "\n".join(parts)


@cache
def _loaded() -> Object | Alias:
    """Return the package, read from its source without an import."""
    loader = GriffeLoader(search_paths=[ROOT / "src"])
    package = loader.load(_PACKAGE)
    loader.resolve_aliases(implicit=True, external=False)
    return package


def _block(name: str) -> str:
    """Return a public name's definition as a block of code."""
    found = _loaded()[name.removeprefix(f"{_PACKAGE}.")]
    target = found.final_target if isinstance(found, Alias) else found
    path, first = target.filepath, target.lineno
    if isinstance(path, list) or first is None:
        raise LookupError(f"{name} has no source")
    lines = path.read_text(encoding="utf-8").splitlines()
    statement = _statement(path, first)
    shown = _stub(statement, lines) if isinstance(statement, _Definition) else _constant(path, statement, lines)
    title = name.removeprefix(f"{_HOOKS}.")
    code = [_FOR_TOOLS.sub("", line) for line in shown]
    return "\n".join([f"### {title}", "", "```pyi", *code, "```", ""])


@cache
def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _statement(path: Path, line: int) -> ast.stmt:
    """Return the statement of a module that covers a line."""
    return next(statement for statement in _body(path) if _first(statement) <= line <= (statement.end_lineno or 0))


def _first(statement: ast.stmt) -> int:
    """Return the number of a statement's first line, with its decorators."""
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _constant(path: Path, statement: ast.stmt, lines: list[str]) -> list[str]:
    """Return an assignment, with the docstring below it."""
    body = _body(path)
    following = body[body.index(statement) + 1 :][:1]
    documented = [part for part in following if _is_text(part)]
    return [line for part in (statement, *documented) for line in _lines(part, lines)]


def _lines(statement: ast.stmt, lines: list[str]) -> list[str]:
    return lines[_first(statement) - 1 : statement.end_lineno]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _stub(definition: _Definition, lines: list[str]) -> list[str]:
    """Return a class or function with its docstring, and without its code."""
    documented = definition.body[0] if _is_text(definition.body[0]) else None
    end = documented.end_lineno if documented else definition.body[0].lineno - 1
    head = lines[_first(definition) - 1 : end]
    indent = " " * (definition.col_offset + 4)
    if not isinstance(definition, ast.ClassDef):
        return [*head, f"{indent}..."] if documented is None else head
    members = [line for statement in definition.body[1 if documented else 0 :] for line in _member(statement, lines)]
    return [*head, *members] if members or documented else [*head, f"{indent}..."]


def _member(statement: ast.stmt, lines: list[str]) -> Iterator[str]:
    """Yield the lines of a class's public member."""
    match statement:
        case ast.FunctionDef(name=name) if name.startswith("test_"):
            return  # a check of the kit, which `imagegen plugins check` lists
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name in _SPECIAL or name[0] != "_":
            yield from ("", *_stub(statement, lines))
        case ast.AnnAssign(target=ast.Name(id=name)) if name[0] != "_":
            yield from _lines(statement, lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
