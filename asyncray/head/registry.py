"""The head registry: an aiohttp application beside a node's daemon, for tools and people.

It answers from the machines of the node that it runs in, through ``ask``, and decides nothing itself. It answers only
requests that carry its token and name its own address as their host: a web page in a browser on this machine must not
reach it. Its address and token are in a file of the session directory that only the user can read.

A node without a cluster serves it on the loopback interface, with a token of its own. The head of a cluster serves it
at the address of the cluster, and the token for tools is derived from the cluster's: it opens no way into the cluster.
There, nodes have routes of their own (``head/stream.py``).

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
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from asyncray.io.sessions import REGISTRY_FILE

if TYPE_CHECKING:
    from asyncray.io.unproven import UnprovenConnections
    from asyncray.words import NodeFacts

AskNode = Callable[[str, list[Any]], Awaitable[tuple[Any, ...]]]
"""Puts a question of ``asyncray.core.requests``: (True, value) or (False, exception name, fields)."""

_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})

_STOP_DEADLINE = 1.0
"""Seconds that requests get to end when the registry stops."""

_BACKLOG = 1024
"""Connections that wait until they are accepted: all nodes of a cluster may come at once."""

log = logging.getLogger("asyncray.node")


@dataclass(frozen=True)
class HeadDoor:
    """The door of the head of a cluster.

    Args:
        listener: a socket that listens at the address of the cluster.
        hosts: names and addresses by which others may know this machine.
        token: the token for tools.
        routes: those for nodes, which need no token for tools: nodes prove in another way who they are.
        unproven: admits connections, and learns which of them have sent the token for tools.
    """

    listener: socket.socket
    hosts: frozenset[str]
    token: str
    routes: tuple[web.RouteDef, ...]
    unproven: UnprovenConnections


async def run_registry(ask: AskNode, facts: NodeFacts, door: HeadDoor | None = None) -> None:
    """Serves the registry until it is cancelled.

    Args:
        ask: puts a question to the node.
        facts: the node's facts, with "session_dir".
        door: that of the head of a cluster; None for a node that is no head.
    """
    token = secrets.token_urlsafe(32) if door is None else door.token
    registry = Registry(ask, token, door)
    path = os.path.join(facts["session_dir"], REGISTRY_FILE)
    try:
        host, port = await registry.start()
        await asyncio.to_thread(_write, path, {"url": f"http://{url_host(host)}:{port}", "token": token})
        log.info("the registry answers at port %d", port)
        await asyncio.Event().wait()
    finally:
        # Remove the file first: another program may get the port as soon as the registry has stopped.
        with contextlib.suppress(OSError):
            os.unlink(path)
        await registry.stop()


def url_host(host: str) -> str:
    """A host as URLs have it: one that stands for every address of this machine becomes the loopback address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


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
        door: that of the head of a cluster.
    """

    def __init__(self, ask: AskNode, token: str, door: HeadDoor | None = None) -> None:
        self._ask = ask
        self._token = token
        self._door = door
        self._hosts = _HOSTS if door is None else _HOSTS | door.hosts
        self._node_paths = frozenset() if door is None else frozenset(route.path for route in door.routes)
        # None until ``start`` and after ``stop``.
        self._runner: web.AppRunner | None = None
        # Accepts connections for the head of a cluster.
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Registry {'serving' if self._runner else 'stopped'}>"

    async def start(self) -> tuple[str, int]:
        """Serves at the address of the cluster, or at any free port of the loopback interface; returns the address."""
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/api/status", self._answer("status")),
                web.get("/api/nodes", self._answer("nodes")),
                web.get("/api/actors", self._answer("actors")),
                web.get("/api/objects/{id}", self._object),
            ]
        )
        if self._door is not None:
            application.add_routes(self._door.routes)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_DEADLINE)
        await self._runner.setup()
        if self._door is None:
            await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            bound = self._runner.addresses[0]
        else:
            bound = self._door.listener.getsockname()
            assert self._runner.server is not None
            self._server = await asyncio.get_running_loop().create_server(
                self._door.unproven.guard(self._runner.server), sock=self._door.listener, backlog=_BACKLOG
            )
        return bound[0], bound[1]

    async def stop(self) -> None:
        """Ends all connections."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if self._server is not None:
                self._server.close()
            await runner.cleanup()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if "Origin" in request.headers:
            raise web.HTTPForbidden(text="The registry answers no web page.")
        # Nodes may know this machine by any name, and prove who they are.
        if request.path in self._node_paths:
            return await handler(request)
        if request.host.rsplit(":", 1)[0] not in self._hosts:
            raise web.HTTPForbidden(text="The registry answers only tools that name its own address.")
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {self._token}".encode()):
            raise web.HTTPUnauthorized(text="Send the token for tools: Authorization: Bearer TOKEN.")
        if self._door is not None:
            self._door.unproven.proven(request.transport)
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
