"""A long prompt is encoded in parts: other jobs step in between, and a cancelled job is not encoded further."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegen_core import InvalidRequestError, Job, LocalEngine, Picture, Settings, Started, StyleLoraRequest
from imagegen_sdxl import DiffusersSDXLCudaWorker
from tests.engine.conftest import StartEngine, ask
from tests.engine.faults import Gate, Watched
from tests.loras import as_kohya, random_lora, save

LIMIT = 60
CHUNKS = 24
LONG = " BREAK ".join(f"a lake {number}" for number in range(CHUNKS))


@pytest.fixture(scope="module")
def styled(sdxl_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A worker with a style that changes the text encoders, too."""
    root = tmp_path_factory.mktemp("styles")
    options = {"model": str(sdxl_checkpoint), "device": "cpu", "dtype": "fp32", "recipe": False, "lora_root": root}
    save(as_kohya(random_lora(DiffusersSDXLCudaWorker(settings=Settings(**options)).pipe)), root / "ink.safetensors")
    return DiffusersSDXLCudaWorker(settings=Settings(**options))


@pytest.fixture
def encoded(styled: Any) -> Iterator[list[str]]:
    """A log with an entry for each chunk that an encoder reads; tests add other events."""
    events: list[str] = []
    networks = (styled.pipe.text_encoder, styled.pipe.text_encoder_2)
    hooks = [network.register_forward_pre_hook(lambda *_: events.append("chunk")) for network in networks]
    styled._prompts._cache.clear()
    yield events
    for hook in hooks:
        hook.remove()


def _alone(worker: Any, request: Any) -> Picture:
    return Picture(*worker.run_job_with_latents(Job(req=request)))


def test_other_jobs_step_between_the_chunks_of_a_long_prompt(
    styled: Any, start: StartEngine, encoded: list[str]
) -> None:
    gate, watched = Gate(), Watched(styled)
    engine = start(watched)
    watched.before["step"] = lambda _: (gate(), encoded.append("step"))
    gate.shut()
    short = engine.submit(ask(num_inference_steps=40))
    assert gate.reached.wait(LIMIT)
    encoded.clear()
    requests = [ask(LONG, seed=seed, style_lora=StyleLoraRequest(style="ink", level=seed % 2)) for seed in (1, 2)]
    tickets = [engine.submit(request) for request in requests]
    gate.open()
    pictures = [ticket.result(LIMIT) for ticket in tickets]
    runs = "".join("s" if event == "step" else "c" for event in encoded).split("s")
    assert sum(map(len, runs)) == len(tickets) * 2 * CHUNKS
    assert max(map(len, runs)) <= len(tickets) * 16  # parts of each job between two steps
    assert pictures == [_alone(styled, request) for request in requests]
    assert short.result(LIMIT) == _alone(styled, ask(num_inference_steps=40))


def test_beginnings_take_no_longer_than_a_step_of_other_jobs(
    styled: Any, start: StartEngine, encoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a step of no time, one part runs before the next step."""
    monkeypatch.setattr(LocalEngine, "_latest_step", property(lambda _: 0.0, lambda *_: None), raising=False)
    gate, watched = Gate(), Watched(styled)
    engine = start(watched)
    watched.before["step"] = lambda _: (gate(), encoded.append("step"))
    gate.shut()
    short = engine.submit(ask(num_inference_steps=4 * CHUNKS, scheduler="Euler"))
    assert gate.reached.wait(LIMIT)
    encoded.clear()
    long = engine.submit(ask(LONG))
    gate.open()
    long.result(LIMIT)
    short.result(LIMIT)
    runs = "".join("s" if event == "step" else "c" for event in encoded).split("s")
    assert max(map(len, runs)) == 1


@pytest.mark.parametrize("by", ["cancel", "deadline"])
def test_a_cancelled_or_late_job_encodes_no_further_chunk(
    styled: Any, start: StartEngine, encoded: list[str], by: str
) -> None:
    gate = Gate()
    engine = start(styled)
    hook = styled.pipe.text_encoder.register_forward_pre_hook(gate)
    encoded.clear()
    try:
        gate.shut()
        ticket = engine.submit(ask(LONG), deadline=0.2 if by == "deadline" else None)
        assert gate.reached.wait(LIMIT)
        if by == "cancel":
            ticket.cancel()
        list(ticket.events)  # the last event arrives while the chunk is blocked
        gate.open()
        assert engine.submit(ask(seed=3)).result(LIMIT) == _alone(styled, ask(seed=3))
    finally:
        hook.remove()
    assert encoded.count("chunk") < CHUNKS


def test_a_short_prompt_begins_beside_many_long_prompts(styled: Any, start: StartEngine, encoded: list[str]) -> None:
    gate, watched = Gate(shut=True), Watched(styled)
    engine = start(watched)
    encoded.clear()
    watched.before["begin"] = gate
    long = [engine.submit(ask(LONG.replace("lake", f"lake {number}"))) for number in range(8)]
    short, before = engine.submit(ask("a star")), list[int]()
    short.events.listen(lambda event: before.append(encoded.count("chunk")) if isinstance(event, Started) else None)
    gate.open()
    for ticket in [short, *long]:
        ticket.result(LIMIT)
    assert before[0] < encoded.count("chunk")


def test_an_override_of_begin_alone_is_called(styled: Any, start: StartEngine) -> None:
    begun = []

    class Custom(DiffusersSDXLCudaWorker):
        def begin(self, job: Job) -> Any:
            begun.append(job)
            return super().begin(job)

    custom = object.__new__(Custom)
    custom.__dict__ |= styled.__dict__
    engine = start(custom)
    begun.clear()
    ticket = engine.submit(ask())
    ticket.result(LIMIT)
    assert begun == [ticket.job]


def test_an_override_of_encode_alone_is_called(styled: Any) -> None:
    class Custom(DiffusersSDXLCudaWorker):
        def encode(self, prompt: str, clip_skip: int) -> Any:
            return super().encode(prompt.replace("lake", "star"), clip_skip)

    custom = object.__new__(Custom)
    custom.__dict__ |= styled.__dict__
    styled._prompts._cache.clear()
    picture = _alone(custom, ask("a lake"))
    styled._prompts._cache.clear()
    assert picture == _alone(styled, ask("a star"))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_prompt_of_too_many_chunks_is_refused_before_encoding(styled: Any, encoded: list[str], field: str) -> None:
    request = ask(**{"guidance_scale": 3, field: "BREAK " * 64 + "a"})
    encoded.clear()
    with pytest.raises(InvalidRequestError, match=f"Invalid {field} of 65 chunks .* at most 64") as raised:
        styled.begin(Job(req=request))
    assert raised.value.field == field
    assert not encoded
    styled.begin(Job(req=ask("BREAK " * 63 + "a")))


def test_long_prompts_do_not_displace_cached_prompts(styled: Any, encoded: list[str]) -> None:
    styled.begin(Job(req=ask("a hill")))
    for number in range(10):
        styled.begin(Job(req=ask(LONG.replace("lake", f"hill {number}"))))
    encoded.clear()
    styled.begin(Job(req=ask("a hill")))
    assert not encoded
