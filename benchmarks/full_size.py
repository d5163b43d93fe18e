"""Measure imagegen and its peers with random checkpoints of the full size of Stable Diffusion 1.5 and SDXL.

Each program has its own process. All programs draw in turn, round by round; a program that memory does not take beside
the others is loaded for each of its turns. Each finding is printed at once, and appended to a JSON-lines file, so
several short runs add up. `--tables` prints that file's tables, and `--write` puts them into a document.

    python benchmarks/full_size.py --models sd15 --parts pictures --minutes 10 --results full_size.jsonl
    python benchmarks/full_size.py --results full_size.jsonl --tables --write docs/performance.md
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import full_size_clients as many
import full_size_loading as loading
from full_size_case import Case
from full_size_checkpoints import FAMILIES, Checkpoint, checkpoint
from full_size_processes import Processes
from full_size_programs import FASTSD, OURS, PLAIN, Candidate, programs
from full_size_results import Finding, Results, read
from full_size_tables import print_tables, write_tables
from sides import Side, SideError

from imagegen_core.diffusion.torchvision import make_torchvision_importable

PARTS = ("pictures", "loading", "clients", "joining", "styles")
LONG, SHORT = 30, 4


class Benchmark:
    """Measures one checkpoint."""

    def __init__(self, options: argparse.Namespace, made: Checkpoint, results: Results, minutes: float) -> None:
        """Take the command's options, the checkpoint, and the results to add to."""
        self._options, self._made, self._results = options, made, results
        self._model = f"tiny {made.family}" if options.tiny else made.family
        self._processes = Processes(options.device, minutes)
        listed = programs(made, options.device, options.settings, tiny=options.tiny)
        self._programs = [one for one in listed if not options.programs or one.name in options.programs]
        self._failed: set[tuple[str, str]] = set()

    def run(self) -> None:
        """Measure all chosen parts."""
        for part in self._options.parts:
            getattr(self, f"_{part}")()
            self._processes.close()

    def _pictures(self) -> None:
        usable = self._usable("pictures", self._programs)
        for case in self._cases():
            self._rounds(
                "pictures",
                str(case),
                {one.name: (one.side, one.memory, ("draw", case)) for one in usable if _draws(one, case)},
                prepare=("prepare", case),
            )

    def _loading(self) -> None:
        device, made = self._options.device, self._made
        folder, file = str(made.folder), str(made.file)
        dtype = "bfloat16" if device == "cpu" else "float16"
        for model, case, theirs in ((file, "file", "from_single_file"), (folder, "folder", "from_pretrained")):
            loads: dict[str, tuple[Side, float, tuple[Any, ...]]] = {
                one.name: ((loading.ours, (model, folder, device, one.settings)), one.memory, ())
                for one in self._usable("loading", self._programs)
                if one.settings is not None
            }
            loads[theirs] = ((loading.diffusers, (model, folder, device, dtype)), 2.2, ())
            self._rounds("loading", case, loads, fresh=True)

    def _clients(self) -> None:
        side = self._options.sides[0]
        for number in self._options.clients:
            self._rounds(
                "clients",
                f"{number} clients, {side} px",
                {name: (work, memory, (number,)) for name, work, memory in self._ours(many.our_clients, side)},
            )
        for rows in self._options.batches:
            self._rounds(
                "clients",
                f"batches of {rows}, {side} px",
                {name: (work, memory, (rows,)) for name, work, memory in self._plain(many.plain_batches, side)},
            )

    def _joining(self) -> None:
        side, share = self._options.sides[0], self._options.share
        steps = (max(1, round(share * LONG)), max(1, round(share * SHORT)))
        case = f"a request of {steps[1]} steps beside 8 of {steps[0]}, {side} px"
        works = [*self._ours(many.our_joining, side, steps), *self._plain(many.whole_requests, side, steps)]
        self._rounds("joining", case, {name: (work, memory, ()) for name, work, memory in works}, numbered=True)

    def _styles(self) -> None:
        side = self._options.sides[0]
        work: Side = (
            many.style_switches,
            (str(self._made.folder), "bf16" if self._options.device == "cpu" else "fp16", self._options.device, side),
        )
        self._rounds("styles", f"{side} px", {OURS: (work, 3.5, ())}, numbered=True)

    def _cases(self) -> Iterable[Case]:
        """Yield the pictures, the cheap and important first."""
        for side in self._options.sides:
            for steps in self._options.steps:
                for guidance in self._options.guidance:
                    yield Case(side, steps, guidance)

    def _ours(self, make: Callable[..., Any], *arguments: Any) -> Iterable[tuple[str, Side, float]]:
        for one in self._usable("clients", self._programs):
            if one.settings is not None:
                model, device = str(self._made.folder), self._options.device
                yield one.name, (make, (model, device, one.settings, *arguments)), one.memory

    def _plain(self, make: Callable[..., Any], *arguments: Any) -> Iterable[tuple[str, Side, float]]:
        dtype = "bf16" if self._options.device == "cpu" else "fp16"
        if any(one.name.startswith(PLAIN) for one in self._programs):
            given = (str(self._made.folder), self._options.device, dtype, *arguments)
            yield f"{PLAIN}, {dtype}", (make, given), 1.3

    def _usable(self, part: str, listed: Sequence[Candidate]) -> list[Candidate]:
        """Return the programs that can run, and report the others once."""
        for one in listed:
            if one.missing and (part, one.name) not in self._failed:
                self._failed.add((part, one.name))
                self._leave_out(part, "all", one.name, one.missing)
        return [one for one in listed if not one.missing]

    def _rounds(
        self,
        part: str,
        case: str,
        works: dict[str, tuple[Side, float, tuple[Any, ...]]],
        *,
        prepare: tuple[Any, ...] = (),
        fresh: bool = False,
        numbered: bool = False,
    ) -> None:
        """Measure each work in turn, round by round.

        Args:
            part: The part of the benchmark.
            case: The case, in words.
            works: By program: the side, its memory in weights, and the arguments of its work.
            prepare: Arguments of the work before its first measurement; none without preparation.
            fresh: Load the program for each measurement.
            numbered: Add the round's number to the arguments.
        """
        stopped: set[str] = set()
        for number in range(self._options.rounds):
            for name, (side, weights, arguments) in works.items():
                if name in stopped:
                    continue
                key, needed = f"{part} {name}", weights * self._made.weights
                given = (*arguments, number + 1) if numbered or arguments[:1] == ("draw",) else arguments
                try:
                    if prepare and (number == 0 or not self._processes.is_loaded(key)):
                        self._processes.ask(key, side, needed, f"{case}, first", *prepare)
                    values = self._processes.ask(key, side, needed, case, *given)
                except SideError as error:
                    stopped.add(name)
                    self._leave_out(part, case, name, f"{error}" + (f", after {number} rounds" if number else ""))
                    continue
                self._results.add(Finding(self._model, part, case, name, values | {"weights": self._made.weights}))
                if fresh:
                    self._processes.close()

    def _leave_out(self, part: str, case: str, name: str, why: str) -> None:
        self._results.add(Finding(self._model, part, case, name, left_out=why))


def _draws(one: Candidate, case: Case) -> bool:
    """Return whether a program draws a case: FastSD CPU's setup draws without guidance."""
    return one.name != FASTSD or case.guidance <= 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--models", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--programs", nargs="+", default=[], help="measure only these, by their names in the tables")
    add("--settings", action="append", default=[], metavar="NAME=VALUE", help="also measure imagegen with a setting")
    add("--device", default="cpu", help="cpu, or cuda")
    add("--sides", nargs="+", type=int, default=[512, 1024], help="pixels of the pictures")
    add("--steps", nargs="+", type=int, default=[4, 1, 30])
    add("--guidance", nargs="+", type=float, default=[1.0, 7.5])
    add("--clients", nargs="+", type=int, default=[1, 4, 16])
    add("--batches", nargs="+", type=int, help="rows of diffusers' batches; 1 on a CPU, which gains nothing by more")
    add("--share", type=float, default=1.0, help="of the 30 and 4 steps of the joining requests, for slow machines")
    add("--rounds", type=int, default=3)
    add("--minutes", type=float, default=600, help="end by then, and say which measurements are missing")
    add("--cache", type=Path, help="the folder of the checkpoints; default: the disk with the most free space")
    add("--results", type=Path, default=Path("full_size.jsonl"), help="the file to append the findings to")
    add("--tiny", action="store_true", help="tiny checkpoints, to test this program")
    add("--tables", action="store_true", help="measure nothing: print the tables of --results")
    add("--write", type=Path, metavar="DOCUMENT", help="replace the tables in a document, too")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.sides = [64]
    if options.batches is None:
        options.batches = [1] if options.device == "cpu" else [1, 4, 8, 16]
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = _options(arguments)
    if not options.tables:
        make_torchvision_importable()
        results = Results(options.results, options.device)
        end = time.monotonic() + 60 * options.minutes
        for index, family in enumerate(options.models):
            made = checkpoint(family, options.cache, tiny=options.tiny)
            minutes = (end - time.monotonic()) / 60 / (len(options.models) - index)
            Benchmark(options, made, results, minutes).run()
    findings = read(options.results)
    print_tables(findings)
    if options.write:
        write_tables(findings, options.write)


if __name__ == "__main__":
    main()
