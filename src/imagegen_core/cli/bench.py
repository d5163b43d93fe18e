"""``imagegen bench``: measure this machine's speed, and its best batch size."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imagegen_core.cli import console
from imagegen_core.cli.waiting import load, status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imagegen_core.engine.report import EngineReport
    from imagegen_core.request import GenerateRequest

_CLIENTS = (1, 2, 4, 8, 16)


def bench(
    model: Annotated[
        str | None, typer.Option(help="Checkpoint: a path, a name below MODEL_ROOT, or a plugin's, such as demo.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Backend to draw with; see `imagegen plugins list`.")] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT in pixels, multiples of 8. [default: the checkpoint's own]")
    ] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 4,
    guidance: Annotated[float, typer.Option(help="Guidance scale.")] = 1.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure each number of requests.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure pictures per second and latency at 1 to 16 concurrent requests."""
    from dataclasses import asdict

    from imagegen_core.engine import LocalEngine
    from imagegen_core.engine.benchmark import measure
    from imagegen_core.request import GenerateRequest, check_request
    from imagegen_core.settings import Settings

    request = GenerateRequest.given(
        prompt="a lighthouse on a cliff", num_inference_steps=steps, guidance_scale=guidance, size=size
    )
    check_request(request)  # refuse an invalid request before loading a model
    worker = load(backend, model)
    with status("Testing how many to draw at a time"):
        engine = LocalEngine(worker, batching=Settings.load().batching)
    measured = []
    with engine:
        for clients in _CLIENTS:
            with status(f"Measuring {clients} at a time"):
                measured.append(measure(engine, _requests(request), clients, seconds))
        report = engine.report()
    if as_json:
        console.json_data({"measured": [asdict(measurement) for measurement in measured], "engine": asdict(report)})
        return
    console.table(
        {
            "at a time": [str(measurement.clients) for measurement in measured],
            "pictures a second": [f"{measurement.per_second:.2f}" for measurement in measured],
            "seconds, median": [f"{measurement.median:.2f}" for measurement in measured],
            "seconds, 95 %": [f"{measurement.p95:.2f}" for measurement in measured],
        }
    )
    console.say(_advice(report))


def _requests(request: GenerateRequest) -> Iterator[GenerateRequest]:
    """Yield the same request with new seeds and new prompts, like a server's requests."""
    return (request.model_copy(update={"seed": n, "prompt": f"{request.prompt}, {n}"}) for n in count())


def _advice(report: EngineReport) -> str:
    rows: dict[str, Any] = {group.kind: group.rows for group in report.groups if group.seconds}
    paying = "; ".join(f"{kind}: {count}" for kind, count in rows.items())
    return f"Rows of a forward pass that pay here: {paying}.\n{report.because[0].upper()}{report.because[1:]}."
