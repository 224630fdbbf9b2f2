"""The head registry's HTTP face: an aiohttp application for tools and people.

It answers from the machines of the node that it runs in, through ``ask``, and decides nothing itself. It binds to the
loopback interface, and answers only requests that carry the session's token and name this machine as their host: a
web page in a browser on this machine must not reach it.

Comes up after the daemon answers its drivers: importing aiohttp.web takes 280 ms.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

Ask = Callable[[str, list[Any]], tuple[Any, ...]]
"""A request of ``asyncray.core.requests``: (True, value) or (False, exception name, fields)."""

_HOSTS = {"127.0.0.1", "localhost", "[::1]"}


class Registry:
    """The application.

    Args:
        ask: puts a question to the node.
        token: what clients must send as ``Authorization: Bearer TOKEN``.
    """

    def __init__(self, ask: Ask, token: str) -> None:
        self._ask = ask
        self._token = token
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<Registry {'serving' if self._runner else 'stopped'}>"

    async def start(self, port: int = 0) -> int:
        """Serves on the loopback interface; returns the port.

        Args:
            port: 0 for any free one.

        Raises:
            OSError: the port is taken.
        """
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/api/status", self._answer("status")),
                web.get("/api/nodes", self._answer("nodes")),
                web.get("/api/actors", self._answer("actors")),
                web.get("/api/objects/{id}", self._object),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Ends all connections."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.host.rsplit(":", 1)[0] not in _HOSTS or "Origin" in request.headers:
            raise web.HTTPForbidden(text="Only tools on this machine are answered.")
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized(text="Send the session's token: Authorization: Bearer TOKEN.")
        return await handler(request)

    def _answer(self, method: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            return self._respond(method, [])

        return handler

    async def _object(self, request: web.Request) -> web.Response:
        try:
            object_id = bytes.fromhex(request.match_info["id"])
        except ValueError:
            raise web.HTTPBadRequest(text="An object's ID is hex digits.") from None
        return self._respond("object", [object_id])

    def _respond(self, method: str, arguments: list[Any]) -> web.Response:
        ok, value, *fields = self._ask(method, arguments)
        if ok:
            return web.json_response(value)
        return web.json_response({"error": value, **fields[0]}, status=404)
