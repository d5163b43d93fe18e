"""Pictures for the routes of plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import Request

from imagegen_core.engine import Ticket
from imagegen_core.picture import Picture
from imagegen_core.request import GenerateRequest
from imagegen_core.server.input_pictures import with_pictures
from imagegen_core.server.waiting import drawn_all

if TYPE_CHECKING:
    from imagegen_core.server.context import ServerContext


class Pictures:
    """Draws pictures for the caller of a route, as the server's own routes do.

    It is a dependency of FastAPI::

        @app.get("/cat.png")
        async def cat(pictures: Annotated[Pictures, Depends()]) -> Response:
            picture = await pictures.draw(GenerateRequest(prompt="a cat"))
            return Response(picture.png, media_type="image/png")

    The defaults and limits of the server, the caller's share of the queue, and the plugins' hooks apply. If the client
    hangs up, its pictures are cancelled.
    """

    def __init__(self, request: Request) -> None:
        """Take the route's HTTP request."""
        self._request = request
        self._context: ServerContext = request.app.state.context
        self._caller: str = request.state.caller

    async def draw(self, request: GenerateRequest, mode: str | None = None) -> Picture:
        """Draw one picture.

        Args:
            request: The request; missing fields get their defaults.
            mode: The name of a mode; None is the server's default.

        Raises:
            ImagegenError: The request is invalid, the queue is full, or the picture failed. Let the error through: the
                server answers with its status and its sentence.
        """
        return (await self.draw_all([request], mode))[0]

    async def draw_all(self, requests: Sequence[GenerateRequest], mode: str | None = None) -> list[Picture]:
        """Draw several pictures together; see `draw`. If one fails, the others are cancelled."""
        return await drawn_all(self._request, await self.submit_all(requests, mode))

    async def submit_all(self, requests: Sequence[GenerateRequest], mode: str | None = None) -> list[Ticket]:
        """Queue all requests or none, and return their tickets, to follow their events; see `draw` for the arguments.

        A ticket goes on when the client hangs up; `Ticket.cancel` ends it.
        """
        found = self._context.mode_manager.modes.find(mode)
        read = [await with_pictures(request, self._context, self._caller) for request in requests]
        completed = [self._context.complete(request, found) for request in read]
        return self._context.submit_all(await self._context.final(completed, found), self._caller, found)
