"""``progress``, ``interrupt`` and ``skip``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import webuiapi

from tests.engine.faults import Gate
from tests.server.a1111.conftest import client_of
from tests.server.conftest import LIMIT, Running, StartServer


def test_progress_is_reported_and_interrupt_cancels_the_picture(client: webuiapi.WebUIApi, server: Running) -> None:
    assert client.get_progress()["progress"] == 0
    gate, ended = Gate(shut=True), threading.Event()
    server.worker.batches.clear()

    def hold(*_: Any) -> None:
        if len(server.worker.batches) > 1:
            gate()

    server.worker.before["step"] = hold
    failures: list[Exception] = []

    def draw() -> None:
        try:
            client.txt2img(prompt="a star", width=64, height=64, cfg_scale=1, steps=4)
        except RuntimeError as error:
            failures.append(error)
        ended.set()

    thread = threading.Thread(target=draw)
    thread.start()
    assert gate.reached.wait(LIMIT)
    other_client = client_of(server)
    progress = other_client.get_progress()
    assert progress["progress"] == 0.25
    assert (progress["state"]["job_count"], progress["state"]["sampling_steps"]) == (1, 4)
    assert progress["current_image"]
    other_client.interrupt()
    assert ended.wait(LIMIT)
    gate.open()
    thread.join()
    assert failures[0].args[0] == 409
    server.until(lambda: server.report().cancelled == 1)
    other_client.util_wait_for_ready(check_interval=0.01)


def test_progress_interrupt_and_skip_apply_to_own_pictures_only(serve: StartServer) -> None:
    server = serve(api_keys="one,two")
    first, second = (client_of(server, username="me", password=key) for key in ("one", "two"))
    gate = Gate(shut=True)
    server.worker.before["step"] = lambda *_: gate()
    with ThreadPoolExecutor() as threads:
        drawing = threads.submit(first.txt2img, prompt="a star", seed=7, width=64, height=64, n_iter=3)
        assert gate.reached.wait(LIMIT)
        server.until(lambda: first.get_progress()["state"]["job_count"] == 3)
        assert second.get_progress()["state"]["job_count"] == 0
        second.interrupt()
        second.skip()
        first.skip()
        gate.open()
        assert drawing.result(LIMIT).info["all_seeds"] == [8, 9]
