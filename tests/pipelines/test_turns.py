"""A picture of many steps lets other models on its device take their turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from imagegen_core.diffusion.compute_thread import ComputeThread
from imagegen_core.diffusion.construction_lock import ReadWriteLock, building, undisturbed
from tests.waiting import until


def test_waiting_calls_run_between_the_steps_of_a_long_call() -> None:
    thread, order = ComputeThread(), list[str]()
    began = threading.Event()

    def long() -> None:
        began.set()
        until(lambda: thread._calls.qsize() == 2)
        order.append("step")
        thread.give_way()
        order.append("last step")

    with ThreadPoolExecutor(3) as callers:
        callers.submit(thread.run_at_length, long)
        assert began.wait(60)
        for name in ("one", "two"):
            callers.submit(thread.run, order.append, name)
    assert (order[0], {*order[1:3]}, order[3]) == ("step", {"one", "two"}, "last step")


def test_long_calls_do_not_nest() -> None:
    thread, running, most = ComputeThread(), [], []

    def long(number: int) -> None:
        running.append(number)
        most.append(len(running))
        thread.give_way()
        running.remove(number)

    with ThreadPoolExecutor(4) as callers:
        for number in range(20):
            callers.submit(thread.run_at_length, long, number)
    assert most == [1] * 20


def test_give_way_does_nothing_on_another_thread() -> None:
    ComputeThread().give_way()


def test_an_error_of_a_call_between_the_steps_is_its_own() -> None:
    thread = ComputeThread()
    began = threading.Event()

    def long() -> str:
        began.set()
        until(thread._calls.qsize)
        thread.give_way()
        return "drawn"

    with ThreadPoolExecutor(2) as callers:
        picture = callers.submit(thread.run_at_length, long)
        assert began.wait(60)
        failing = callers.submit(thread.run, lambda: 1 / 0)
        assert isinstance(failing.exception(60), ZeroDivisionError)
        assert picture.result(60) == "drawn"


def test_a_network_is_built_between_the_steps_of_a_long_call() -> None:
    thread, built = ComputeThread(), threading.Event()
    began = threading.Event()

    def build() -> None:
        with building():
            built.set()

    def long() -> None:
        began.set()

        def has_been_built() -> bool:
            thread.give_way()
            return built.is_set()

        until(has_been_built)

    with ThreadPoolExecutor(2) as callers:
        drawing = callers.submit(thread.run_at_length, undisturbed, long)
        assert began.wait(60)
        callers.submit(build).result(60)
        drawing.result(60)


def test_stepping_aside_keeps_the_lock_of_nested_calls() -> None:
    lock = ReadWriteLock()
    with lock.passing(), lock.passing():
        with lock.stepping_aside():
            lock.begin_change()
            lock.end_change()
        changing = threading.Thread(target=lambda: (lock.begin_change(), lock.end_change()))
        changing.start()
        changing.join(0.05)
        assert changing.is_alive()
    changing.join(60)
    assert not changing.is_alive()
    with lock.stepping_aside():  # without the lock, it does nothing
        pass
