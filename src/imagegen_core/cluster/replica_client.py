"""The ingress's client of the replicas: calls to one or all replicas, and their reports."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from imagegen_core.cluster.plans import AgreedPlans
from imagegen_core.cluster.replica import model_id
from imagegen_core.errors import NotReadyError, first_line
from imagegen_core.hosting.model_host import HostReport
from imagegen_core.modes import ModelKey

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ATTEMPTS = 5  # limit per request or call; a request that crashes its replicas fails after that
_PAUSE, _LONGEST_PAUSE = 0.2, 3.0  # seconds before another attempt
_ASK_EVERY = 2.0  # seconds between two polls of the replicas
_ASK_EACH = 0.02  # seconds for each replica, so that polling many replicas does not overload the ingress
_ANSWER_LIMIT = 10.0
_FAILED = "DEPLOY_FAILED"  # Ray Serve's status


class ReplicaClient:
    """Client of the `Replica` deployment, with its own event loop in a separate thread.

    A call is therefore independent of its HTTP request, and works from threads and coroutines.

    Attributes:
        hosts: Reports of the replicas from the last poll.
        plans: The numerics plans of the models.
        failure: Reason why no replica can start, as a sentence; empty otherwise.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        """Start to poll the replicas."""
        self._handle: Any = handle
        self.hosts: tuple[HostReport, ...] = ()
        self.plans = AgreedPlans()
        self.failure = ""
        self._loop = asyncio.new_event_loop()
        self._failed = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="imagegen-cluster", daemon=True)
        self._thread.start()
        self.start(self._keep_asking())

    def start(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run a coroutine on the loop in a new context; in the request's context, its end would cancel the call."""
        return contextvars.Context().run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)

    async def stream(self, method: str, key: ModelKey, *arguments: Any) -> AsyncGenerator[Any]:
        """Yield the results of a replica's generator; prefer a replica with the model. Closing cancels the generator.

        Raises:
            RayActorError: The replica was lost.
            NotReadyError: There is no replica, and none can start.
        """
        handle = self._handle.options(stream=True, multiplexed_model_id=model_id(key))
        stream, exhausted = getattr(handle, method).remote(*arguments), False
        try:
            yield await self._unless_failed(_next(stream))
            async for event in stream:
                yield event
            exhausted = True
        finally:
            if not exhausted:
                stream.cancel()

    async def call(self, method: str, *arguments: Any, key: ModelKey | None = None) -> Any:
        """Call a method of a replica, and return its result; with `key`, prefer a replica with that model.

        Raises:
            NotReadyError: There is no replica and none can start, or `ATTEMPTS` replicas were lost.
        """
        handle = self._handle if key is None else self._handle.options(multiplexed_model_id=model_id(key))
        for attempt in range(1, ATTEMPTS + 1):
            response = getattr(handle, method).remote(*arguments)
            try:
                return await self._unless_failed(_result(response))
            except RayActorError:
                await asyncio.sleep(pause(attempt))
            except (NotReadyError, asyncio.CancelledError):
                response.cancel()
                raise
            except (RayServeException, RayError) as error:
                raise NotReadyError(f"No replica can answer: {first_line(error)}; `serve status` says more") from error
        raise NotReadyError(f"{ATTEMPTS} replicas were lost, one after another: look into their logs")

    async def broadcast(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of all replicas, and return the results; ignore replicas that do not answer."""
        try:
            answers = await self._handle.broadcast(method, *arguments).results_async(
                timeout_s=_ANSWER_LIMIT, return_exceptions=True
            )
        except (RayServeException, RayError, TimeoutError) as error:
            logger.debug("The replicas could not be asked: %r", error)
            return []
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def ask(self) -> None:
        """Poll the replicas' reports; without replicas, ask Ray Serve whether the deployment failed."""
        hosts: list[HostReport] = await self.broadcast("tell")
        self.hosts = tuple(sorted(hosts, key=lambda host: host.name))
        self.plans.keep(self.hosts)
        self.failure = "" if hosts else await asyncio.to_thread(self._why_none)
        if self.failure:
            self._failed.set()
        else:
            self._failed.clear()

    def close(self, limit: float) -> None:
        """Cancel all calls, and wait up to `limit` seconds for their end."""
        self.start(self._end()).result(limit)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _unless_failed(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Return the coroutine's result, or raise if the deployment fails; Ray Serve does not report that."""
        answered, failed = asyncio.ensure_future(coroutine), asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait({answered, failed}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise NotReadyError(self.failure)
            return answered.result()
        finally:
            answered.cancel()
            failed.cancel()
            await asyncio.gather(answered, failed, return_exceptions=True)

    def _why_none(self) -> str:
        application = serve.status().applications.get(self._handle.app_name)
        deployment = application and application.deployments.get(self._handle.deployment_name)
        if not deployment or deployment.status != _FAILED:
            return ""
        return f"No replica can start: {_last_line(deployment.message)}"

    async def _keep_asking(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(max(_ASK_EVERY, _ASK_EACH * len(self.hosts)))

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def pause(attempt: int) -> float:
    """Return the seconds to wait after a failed attempt, counted from 1; Ray Serve replaces a replica meanwhile."""
    return min(_PAUSE * 2.0**attempt, _LONGEST_PAUSE)


async def _result(response: Any) -> Any:
    return await response


async def _next(stream: Any) -> Any:
    return await anext(stream)


def _last_line(trace: str) -> str:
    """Return the error message in the last line of a traceback."""
    line = trace.strip().splitlines()[-1]
    kind, colon, said = line.partition(": ")
    return said if colon and " " not in kind else line
