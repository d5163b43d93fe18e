"""The compute thread goes on after errors, and another takes over after an error that would last."""

from __future__ import annotations

import threading

import pytest

from imagegen_core.diffusion.compute_thread import ComputeThread
from imagegen_core.diffusion.memory import memory_errors
from imagegen_core.errors import OutOfMemoryError
from imagegen_core.request import Size


def _fail(message: str) -> None:
    with memory_errors(Size(64, 64)):
        raise RuntimeError(message)


def test_another_thread_takes_over_after_onednns_lasting_error() -> None:
    compute = ComputeThread()
    before = compute.run(threading.current_thread)
    with pytest.raises(OutOfMemoryError):
        compute.run(_fail, "could not create a primitive")
    after = compute.run(threading.current_thread)
    assert after is not before
    assert compute.run(lambda: compute.run(threading.current_thread)) is after
    before.join(60)
    assert not before.is_alive()


def test_the_thread_stays_after_other_errors() -> None:
    compute = ComputeThread()
    before = compute.run(threading.current_thread)
    for message in ("not enough memory", "could not create a primitive descriptor for a matmul primitive"):
        with pytest.raises((OutOfMemoryError, RuntimeError)):
            compute.run(_fail, message)
    assert compute.run(threading.current_thread) is before


def test_the_thread_goes_on_without_memory_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = ComputeThread()
    before = compute.run(threading.current_thread)
    with pytest.raises(OutOfMemoryError):
        compute.run(_fail, "could not create a primitive")

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert compute.run(threading.current_thread) is before
    with pytest.raises(OutOfMemoryError):
        compute.run(_fail, "could not create a primitive")
    assert compute.run(threading.current_thread) is not before
