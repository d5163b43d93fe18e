"""Shared helpers of the benchmarks: figures with their spread, tables and charts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return ``median (smallest to largest)``."""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def show(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    for row in (heading, ["---"] * len(heading), *rows):
        print("| " + " | ".join(row) + " |")


def chart(path: Path, rows: Sequence[tuple[str, Sequence[float]]]) -> None:
    """Draw each row's median as a bar with a whisker from smallest to largest value, on a logarithmic axis around 1."""
    from matplotlib import pyplot as plt

    labels = [label for label, _ in rows]
    middles = [median(values) for _, values in rows]
    whiskers = [
        [middle - min(values) for middle, (_, values) in zip(middles, rows, strict=True)],
        [max(values) - middle for middle, (_, values) in zip(middles, rows, strict=True)],
    ]
    plt.rcParams["svg.fonttype"] = "none"  # keep text as text
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1))
    axes.barh(labels, [middle - 1 for middle in middles], left=1, xerr=whiskers, color="#4a7bb7", ecolor="#222222")
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([0.1, 0.2, 0.5, 1, 2, 5], ["0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.invert_yaxis()
    axes.set_xlabel("ratio")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
