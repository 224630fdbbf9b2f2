"""The head registry: an aiohttp application beside a node's daemon, for tools and people.

It answers from the machines of the node that it runs in, through ``ask``, and decides nothing itself. It binds to the
loopback interface, and answers only requests that carry the session's token and name this machine as their host: a
web page in a browser on this machine must not reach it. Its address and token are in a file of the session directory
that only the user can read.

Importing this module takes 280 ms, because it imports aiohttp.web. So the daemon imports it in a thread, once it
answers its drivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from asyncray.words import NodeFacts

AskNode = Callable[[str, list[Any]], Awaitable[tuple[Any, ...]]]
"""Puts a question of ``asyncray.core.requests``: (True, value) or (False, exception name, fields)."""

REGISTRY_FILE = "registry.json"
"""In the session directory: {"url", "token"}, readable by its owner only."""

_HOSTS = {"127.0.0.1", "localhost", "[::1]"}

log = logging.getLogger("asyncray.node")


async def run_registry(ask: AskNode, facts: NodeFacts) -> None:
    """Serves the registry until it is cancelled.

    Args:
        ask: puts a question to the node.
        facts: the node's facts, with "session_dir".
    """
    token = secrets.token_urlsafe(32)
    registry = Registry(ask, token)
    path = os.path.join(facts["session_dir"], REGISTRY_FILE)
    try:
        port = await registry.start()
        await asyncio.to_thread(_write, path, {"url": f"http://127.0.0.1:{port}", "token": token})
        log.info("the registry answers at port %d", port)
        await asyncio.Event().wait()
    finally:
        # Remove the file first: another program may get the port as soon as the registry has stopped.
        with contextlib.suppress(OSError):
            os.unlink(path)
        await registry.stop()


def _write(path: str, content: dict[str, str]) -> None:
    """Writes under another name and renames: a reader that finds the file finds all of it."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(f"{path}.new", path)


class Registry:
    """The application.

    Args:
        ask: puts a question to the node.
        token: clients must send it as ``Authorization: Bearer TOKEN``.
    """

    def __init__(self, ask: AskNode, token: str) -> None:
        self._ask = ask
        self._token = token
        # None until ``start`` and after ``stop``.
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
            raise web.HTTPForbidden(text="The registry answers only tools on this machine.")
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized(text="Send the session's token: Authorization: Bearer TOKEN.")
        return await handler(request)

    def _answer(self, method: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            return await self._respond(method, [])

        return handler

    async def _object(self, request: web.Request) -> web.Response:
        try:
            object_id = bytes.fromhex(request.match_info["id"])
        except ValueError:
            raise web.HTTPBadRequest(text="An object's ID is hex digits.") from None
        return await self._respond("object", [object_id])

    async def _respond(self, method: str, arguments: list[Any]) -> web.Response:
        ok, value, *fields = await self._ask(method, arguments)
        if ok:
            return web.json_response(value)
        return web.json_response({"error": value, **fields[0]}, status=404)
