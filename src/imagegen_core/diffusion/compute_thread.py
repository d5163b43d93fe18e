"""One thread for all that a model computes, whoever calls."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import update_wrapper
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from imagegen_core.diffusion.construction_lock import undisturbed

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_Call = tuple[Future[Any], Callable[[], Any]]


class ComputeThread:
    """Runs calls one after another on a thread of its own, which ends with this object.

    torch shares an operator's work among OpenMP threads that belong to the thread that calls it. With a second such
    caller there are more of them than cores, and GNU's OpenMP then lets each sleep at every operator's end instead of
    waiting for the next: a step of the demo at 128 px took 40 ms instead of 13. It is enough that one thread
    loads the model and another draws.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=_serve, args=(self._calls,), name="imagegen-compute", daemon=True)
        self._thread.start()
        # Also when the program ends: a thread that is still inside torch then would abort it.
        weakref.finalize(self, _end, self._calls, self._thread)

    def run(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """What `function` returns, or raises, when it is its turn; at once where the thread itself calls."""
        if threading.current_thread() is self._thread:
            return function(*args, **kwargs)
        future: Future[Result] = Future()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        return future.result()


class _HasComputeThread(Protocol):
    _compute: ComputeThread


Owner = TypeVar("Owner", bound=_HasComputeThread)


def computed(
    method: Callable[Concatenate[Owner, Parameters], Result],
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """A method that runs on its object's compute thread, while no model is being built."""

    def call(self: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return self._compute.run(lambda: undisturbed(method, self, *args, **kwargs))

    update_wrapper(call, method)
    return call


def _end(calls: SimpleQueue[_Call | None], thread: threading.Thread) -> None:
    """End the thread after the call that it is in."""
    calls.put(None)
    if thread is not threading.current_thread():
        thread.join()


def _serve(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        future, function = call
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - the caller's to handle
            future.set_exception(error)
        del call, future, function  # or the last call's tensors and its object would live until the next
