"""One thread for all computations of a model, for all callers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import update_wrapper
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from imagegen_core.diffusion.construction_lock import stepping_aside

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_Call = tuple[Future[Any], Callable[[], Any]]

# A thread that failed to create one of oneDNN's primitives creates none afterwards: the code generator keeps its error.
_LASTING_ERROR = "could not create a primitive\n"


class ComputeThread:
    """Runs calls one after another on its own thread, and ends the thread with this object.

    torch divides an operator's work among OpenMP threads, and these belong to the calling thread. A second calling
    thread brings more OpenMP threads than there are cores. GNU's OpenMP then puts each thread to sleep after every
    operator: a step of the demo at 128 px took 40 ms instead of 13. It is enough that one thread loads the model and
    another draws.

    After an error of oneDNN that would last on this thread, another thread takes over.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._serving = _Serving()
        self._calls = self._serving.calls
        self._at_length = threading.Lock()
        _start(self._serving)
        # This also runs when the program ends: a thread still inside torch would then abort the program.
        weakref.finalize(self, _end, self._serving)

    def run(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run `function` in its turn, and return its result or raise its error; on the thread itself, run it now."""
        if threading.current_thread() is self._serving.thread:
            return function(*args, **kwargs)
        future: Future[Result] = Future()
        self._calls.put((future, lambda: function(*args, **kwargs)))
        return future.result()

    def run_at_length(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Run a call of many steps, which lets others in by `give_way`; only one such call runs at a time."""
        with self._at_length:
            return self.run(function, *args, **kwargs)

    def give_way(self) -> None:
        """Run the calls that wait now, between two steps of a call of `run_at_length`.

        Otherwise, other models on this thread would wait for a whole picture. Other threads may build networks
        meanwhile. On another thread, this does nothing.
        """
        if threading.current_thread() is not self._serving.thread:
            return
        with stepping_aside():
            for _ in range(self._calls.qsize()):
                if (call := self._calls.get()) is None:
                    self._calls.put(None)  # the thread ends after the present call
                    return
                _answer(self._serving, call)
                del call


@dataclass(slots=True)
class _Serving:
    """The calls that wait, the thread that runs them, and whether it is of further use."""

    calls: SimpleQueue[_Call | None] = field(default_factory=SimpleQueue)
    thread: threading.Thread | None = None
    worn: bool = False


class _Computes(Protocol):
    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any: ...


Owner = TypeVar("Owner", bound=_Computes)


def computed(
    method: Callable[Concatenate[Owner, Parameters], Result],
) -> Callable[Concatenate[Owner, Parameters], Result]:
    """Make a method run by its object's `compute`."""

    def call(self: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        return self.compute(lambda: method(self, *args, **kwargs))  # type: ignore[no-any-return]

    update_wrapper(call, method)
    return call


def _start(serving: _Serving, first: _Call | None = None) -> None:
    before = serving.thread
    serving.thread = threading.Thread(target=_serve, args=(serving, first), name="imagegen-compute", daemon=True)
    try:
        serving.thread.start()
    except RuntimeError:
        serving.thread = before
        raise


def _end(serving: _Serving) -> None:
    """End the thread after its current call."""
    serving.calls.put(None)
    if serving.thread is not None and serving.thread is not threading.current_thread():
        serving.thread.join()


def _serve(serving: _Serving, first: _Call | None) -> None:
    call = first or serving.calls.get()
    del first
    while call is not None:
        if serving.worn:
            serving.worn = False
            with suppress(RuntimeError):  # without memory for another thread, this thread goes on
                _start(serving, call)
                return
        _answer(serving, call)
        del call  # otherwise, the last call's tensors and object would live until the next call
        call = serving.calls.get()


def _answer(serving: _Serving, call: _Call) -> None:
    future, function = call
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - the caller handles it
        serving.worn |= any(_LASTING_ERROR in f"{one}\n" for one in (error, error.__cause__))
        future.set_exception(error)
