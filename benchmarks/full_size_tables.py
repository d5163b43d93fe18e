"""The full-size findings as Markdown tables."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

from figures import show, spread
from full_size_programs import DEFAULTS, FASTSD, OURS, PLAIN, SETUP
from full_size_results import Finding

_BEGIN, _END = "<!-- full_size.py -->", "<!-- end of full_size.py -->"
_PARTS = ("text", "step", "VAE", "PNG")
_FIRST = "512 px, 4 steps"


def write_tables(findings: Sequence[Finding], document: Path) -> None:
    """Replace the lines between the document's two comments of this program.

    Raises:
        SystemExit: The document lacks them.
    """
    text = document.read_text()
    if _BEGIN not in text or _END not in text:
        raise SystemExit(f"{document} lacks the lines '{_BEGIN}' and '{_END}': add them where the tables belong")
    head, _, rest = text.partition(_BEGIN)
    _, _, tail = rest.partition(_END)
    with contextlib.redirect_stdout(io.StringIO()) as tables:
        print_tables(findings)
    document.write_text(f"{head}{_BEGIN}\n{tables.getvalue()}\n{_END}{tail}")


def print_tables(findings: Sequence[Finding]) -> None:
    """Print the tables of each machine."""
    for machine in dict.fromkeys(map(_machine, findings)):
        on_it = _Findings([one for one in findings if _machine(one) == machine])
        print(f"\n{machine}. {_versions(on_it.all)}")
        for heading, title, rows in (
            ("targets", ["what", "figure", "target", ""], _targets(on_it)),
            ("pictures", ["picture", "program", "s", "imagegen's time over it", "peak memory, GB"], _pictures(on_it)),
            ("parts", ["picture", "program", "text, s", "a step, s", "VAE, s", "PNG, s"], _picture_parts(on_it)),
            (
                "loading",
                [
                    "load",
                    "program",
                    "s",
                    "with a first use",
                    "imagegen's time over it",
                    "peak / weights",
                    "anonymous, GB",
                    "mapped, GB",
                ],
                _loading(on_it),
            ),
            ("clients", ["load", "program", "pictures a second"], _clients(on_it)),
            ("joining", ["requests", "program", "s to the short request's picture"], _joining(on_it)),
            ("styles", ["picture", *_style_names(on_it)], _styles(on_it)),
            ("programs", ["program", "set up as"], [[name, why] for name, why in SETUP.items() if on_it.has(name)]),
            ("not measured", ["what", "program", "why"], _left_out(on_it)),
        ):
            listed = list(rows)
            if listed:
                print(f"\n**{heading.capitalize()}**\n")
                show(title, listed)


class _Findings:
    """The findings of one machine, in order."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.all = findings

    def cases(self, part: str) -> list[tuple[str, str]]:
        """Return the measured pairs of model and case."""
        return list(dict.fromkeys((one.model, one.case) for one in self.all if one.part == part and one.values))

    def programs(self, part: str, model: str, case: str) -> list[str]:
        """Return the measured programs of a case."""
        return list(dict.fromkeys(one.program for one in self.all if _is(one, part, model, case) and one.values))

    def values(self, part: str, model: str, case: str, program: str, name: str) -> list[float]:
        """Return a measured value, round by round."""
        return [
            one.values[name]
            for one in self.all
            if _is(one, part, model, case) and one.program == program and name in one.values
        ]

    def has(self, program: str) -> bool:
        """Return whether a program was measured."""
        return any(one.program == program and one.values for one in self.all)


def _is(one: Finding, part: str, model: str, case: str) -> bool:
    return (one.part, one.model, one.case) == (part, model, case)


def _machine(one: Finding) -> str:
    about = one.about
    if "gpu" in about:
        return str(about["gpu"])
    bf16 = " with bf16" if about["bf16"] else ""
    return f"{about['processor']}{bf16}, {about['cores']} cores, {about['memory'] / 2**30:.0f} GiB"


def _versions(findings: Sequence[Finding]) -> str:
    """Return the last finding's packages, and the commits of all."""
    versions = findings[-1].about["versions"]
    packages = ", ".join(f"{name} {number}" for name, number in versions.items() if number != "not installed")
    commits = ", ".join(dict.fromkeys(str(one.about["commit"]) for one in findings))
    return f"{packages}; commits {commits}."


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median and the range, or a single value."""
    return spread(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}, once"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    """Return the spread of the ratios, round by round."""
    pairs = list(zip(ours, theirs, strict=False))
    return _spread([above / below for above, below in pairs]) if pairs else ""


def _pictures(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("pictures"):
        ours = found.values("pictures", model, case, OURS, "picture")
        for program in found.programs("pictures", model, case):
            seconds, anonymous, mapped = (
                found.values("pictures", model, case, program, name)
                for name in ("picture", "anonymous memory", "mapped memory")
            )
            ratio = "" if program == OURS else _ratio(ours, seconds)
            memory = f"{max(anonymous) / 1e9:.1f} + {max(mapped) / 1e9:.1f} mapped" if anonymous else ""
            yield [f"{model}, {case}", program, _spread(seconds), ratio, memory]


def _picture_parts(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("pictures"):
        for program in found.programs("pictures", model, case):
            parts = [found.values("pictures", model, case, program, name) for name in _PARTS]
            if any(parts):
                yield [f"{model}, {case}", program, *(_spread(part) if part else "" for part in parts)]


def _loading(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("loading"):
        ours = found.values("loading", model, case, OURS, "load")
        for program in found.programs("loading", model, case):
            load, use, total, anonymous, mapped, weights = (
                found.values("loading", model, case, program, name)
                for name in ("load", "first use", "total", "anonymous", "mapped", "weights")
            )
            yield [
                f"{model}, {case}",
                program,
                _spread(load),
                _spread(use),
                "" if program == OURS else _ratio(ours, load),
                _spread([peak / size for peak, size in zip(total, weights, strict=True)]),
                f"{max(anonymous) / 1e9:.1f}",
                f"{max(mapped) / 1e9:.1f}",
            ]


def _clients(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("clients"):
        for program in found.programs("clients", model, case):
            rates = found.values("clients", model, case, program, "pictures a second")
            yield [f"{model}, {case}", program, _spread(rates, 3)]


def _joining(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("joining"):
        for program in found.programs("joining", model, case):
            yield [f"{model}, {case}", program, _spread(found.values("joining", model, case, program, "seconds"), 1)]


def _style_names(found: _Findings) -> list[str]:
    return next((list(one.values) for one in found.all if one.part == "styles" and one.values), [])


def _styles(found: _Findings) -> Iterator[list[str]]:
    for model, case in found.cases("styles"):
        columns = (found.values("styles", model, case, OURS, name) for name in _style_names(found))
        yield [f"{model}, {case}", *(_spread(column) for column in columns)]


def _left_out(found: _Findings) -> Iterator[list[str]]:
    """Yield the measurements without any value; the case ``all`` counts as measured with its first value."""
    measured = {
        (one.part, one.model, one.program, case) for one in found.all if one.values for case in (one.case, "all")
    }
    for one in dict.fromkeys(
        (one.part, one.model, one.program, one.case, one.left_out) for one in found.all if one.left_out
    ):
        part, model, program, case, why = one
        if one[:4] not in measured:
            yield [f"{model}, {part}, {case}", program, str(why)]


def _targets(found: _Findings) -> Iterator[list[str]]:
    """Yield the targets with the medians' ratios, as far as they are measured."""
    if "gpu" in found.all[0].about:
        yield from _gpu_targets(found)
    else:
        for model, case in found.cases("pictures"):
            if case == _FIRST:
                yield from _picture_targets(found, model)
    for model, case in found.cases("joining"):
        ours = found.values("joining", model, case, OURS, "seconds")
        for program in found.programs("joining", model, case):
            if ours and program.startswith(PLAIN):
                theirs = found.values("joining", model, case, program, "seconds")
                yield _target(f"{model}, {case}: over whole requests", median(ours) / median(theirs), 0.3)
    for model, case in found.cases("loading"):
        seconds, theirs, peak, weights = (
            found.values("loading", model, case, program, name)
            for program, name in ((OURS, "load"), ("from_single_file", "load"), (OURS, "total"), (OURS, "weights"))
        )
        if seconds and theirs:
            yield _target(f"{model}: loading a file, over from_single_file", median(seconds) / median(theirs), 0.5)
            yield _target(f"{model}: peak of loading a file, over its weights", median(peak) / weights[0], 1.1)


def _picture_targets(found: _Findings, model: str) -> Iterator[list[str]]:
    """Yield imagegen's ratios to the best peer, and to diffusers' defaults."""
    medians = {
        program: median(found.values("pictures", model, _FIRST, program, "picture"))
        for program in found.programs("pictures", model, _FIRST)
    }
    peers = {
        name: seconds
        for name, seconds in medians.items()
        if not name.startswith(OURS) and name not in {DEFAULTS, FASTSD}
    }
    best = min(peers, key=lambda name: peers[name], default=None)
    for program, seconds in medians.items():
        if not program.startswith(OURS) or "fast_decode" in program:  # a tiny VAE's pictures are no rival of the VAE's
            continue
        if best:
            target = 0.7 if "int8" in program else 0.8
            what = f"{model}, {_FIRST}: {program} over the best of the others, {best}"
            yield _target(what, seconds / peers[best], target)
        if DEFAULTS in medians:
            yield _target(f"{model}, {_FIRST}: {program} over {DEFAULTS}", seconds / medians[DEFAULTS], 0.35)


def _gpu_targets(found: _Findings) -> Iterator[list[str]]:
    """Yield SDXL's speed at 1024 px, for one picture and for 16 clients, over diffusers in fp16."""
    theirs, case = f"{PLAIN}, fp16", "1024 px, 4 steps"
    seconds = [found.values("pictures", "sdxl", case, program, "picture") for program in (OURS, theirs)]
    if all(seconds):
        yield _target(f"sdxl, {case}: {theirs} over {OURS}", median(seconds[1]) / median(seconds[0]), least=1.5)
    rates = {
        (case, program): median(found.values("clients", "sdxl", case, program, "pictures a second"))
        for model, case in found.cases("clients")
        for program in found.programs("clients", model, case)
        if model == "sdxl" and case.endswith("1024 px")
    }
    batches = [rate for (_, program), rate in rates.items() if program == theirs]
    ours = rates.get(("16 clients, 1024 px", OURS))
    if ours and batches:
        yield _target(
            "sdxl, 16 clients, 1024 px: pictures a second over the best batch", ours / max(batches), least=1.3
        )


def _target(what: str, figure: float, most: float = math.inf, least: float = 0.0) -> list[str]:
    target = f"at least {least}" if least else f"at most {most}"
    return [what, f"{figure:.2f}", target, "reached" if least <= figure <= most else "**missed**"]
