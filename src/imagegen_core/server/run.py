"""Run the server with uvicorn, and shut it down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from imagegen_core.errors import SettingsError
from imagegen_core.server.access import check_address
from imagegen_core.server.app import create_app
from imagegen_core.server.config_watcher import reload_modes
from imagegen_core.server.connection_limits import ConnectionLimits, allow_files
from imagegen_core.server.connections import ServerConfig
from imagegen_core.server.log import log_as_json
from imagegen_core.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from imagegen_core.server.context import ServerContext

logger = logging.getLogger(__name__)


def serve(settings: Settings, make_app: Callable[[Settings], FastAPI] = create_app) -> None:
    """Serve until SIGTERM or SIGINT, then finish all work and return.

    Args:
        settings: The server's settings.
        make_app: Builds the application with `app_of`, after the server has bound its address.

    Raises:
        SettingsError: The server cannot bind the address, the address needs API keys, or the limit on open files is
            too low for the number of connections.
        ImagegenError: The configured store or upscaler is unusable.
    """
    check_address(settings)
    allow_files(settings)
    log_as_json()
    listening = _listen(settings)
    app = make_app(settings)
    config = ServerConfig(
        app, ConnectionLimits.of(settings), timeout_graceful_shutdown=max(1, round(settings.shutdown_limit))
    )
    _Server(config, app.state.context).run(sockets=[listening])


def _listen(settings: Settings) -> socket.socket:
    """Bind the address, before the slow start of the application."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        cause = str(error.strerror).partition(" (")[0]  # the rest repeats the address
        taken = ", or stop what listens there" if error.errno == errno.EADDRINUSE else ""
        raise SettingsError(
            f"Cannot listen on {settings.host}, port {settings.port} ({cause}): choose another with --port "
            f"and --host{taken}"
        ) from error


class _Server(uvicorn.Server):
    """Make ``/ready`` fail and refuse new pictures after a stop signal; exit after the work in progress."""

    def __init__(self, config: uvicorn.Config, context: ServerContext) -> None:
        super().__init__(config)
        self._context = context
        self._ending: asyncio.Task[None] | None = None
        self._told_to_reload = False
        self._reloading: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals like uvicorn, but do not raise them again at the end: the process exits with status 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled: dict[signal.Signals, Callable[[int, FrameType | None], None]]
        handled = {signal.SIGTERM: self.handle_exit, signal.SIGINT: self.handle_exit}
        if hasattr(signal, "SIGHUP"):
            handled[signal.SIGHUP] = self._note_reload
        before = {number: signal.signal(number, handler) for number, handler in handled.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start a graceful shutdown; on a second signal, exit at once."""
        if self._context.mode_manager.state == "stopping":
            super().handle_exit(sig, frame)
            return
        logger.info("Stopping: finishing the open requests")
        self._context.mode_manager.stop_accepting()

    async def on_tick(self, counter: int) -> bool:
        """Check for a shutdown or a reload, ten times a second."""
        if self._told_to_reload and (self._reloading is None or self._reloading.done()):
            self._told_to_reload = False
            self._reloading = asyncio.ensure_future(reload_modes(self._context.mode_manager))
        if self._context.mode_manager.state == "stopping" and self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        return await super().on_tick(counter)

    def _note_reload(self, _signal: int, _frame: FrameType | None) -> None:
        self._told_to_reload = True

    async def _end(self) -> None:
        limit = self._context.settings.shutdown_limit
        try:
            await asyncio.wait_for(self._context.done(), limit)
        except TimeoutError:
            logger.warning("Cancelling the open requests: the limit of %g s has passed", limit)
            self._context.give_up()
        self.should_exit = True
