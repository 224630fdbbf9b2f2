"""The head registry: an aiohttp application beside a node's daemon, for tools and people.

Its routes are in ``rest``. It answers only requests that carry its token and name its own address as their host: a web
page in a browser on this machine must not reach it. Two kinds of routes need no token: ``/healthz``, which says no more
than a connection does, and those for nodes at the head of a cluster (``stream``), which prove in another way who they
are. The registry's address and token are in a file of the session directory that only the user can read.

A node without a cluster serves it on the loopback interface, with a token of its own. The head of a cluster serves it
at the address of the cluster, and the token for tools is derived from the cluster's: it opens no way into the cluster.

Importing this module takes 280 ms, because it imports aiohttp.web. So the daemon imports it in a thread, once it
answers its drivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http import HttpProcessingError

from asyncray.head.rest import LARGEST_BODY_OF_TOOLS, AskNode, Rest
from asyncray.io.addresses import listen_at
from asyncray.io.sessions import REGISTRY_FILE
from asyncray.io.strangers import Strangers
from asyncray.io.unproven import UnprovenConnections

if TYPE_CHECKING:
    from asyncray.io.tls import Tls
    from asyncray.words import NodeFacts

_LOOPBACK = "127.0.0.1"
_HOSTS = frozenset({_LOOPBACK, "localhost", "[::1]"})

_HEALTH = "/healthz"

_STOP_DEADLINE = 1.0
"""Seconds that requests get to end when the registry stops."""

_BACKLOG = 1024
"""Connections that wait until they are accepted: all nodes of a cluster may come at once."""

log = logging.getLogger("asyncray.node")

_http_log = logging.getLogger("asyncray.http")
# aiohttp logs a traceback for each request that it cannot parse: strangers could fill the disk with these.
_http_log.addFilter(lambda record: record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError))


@dataclass(frozen=True)
class RegistryDoor:
    """Where the registry answers, and whom.

    Args:
        listener: a socket that listens.
        hosts: names and addresses by which others may know this machine, besides those of the loopback interface.
        token: the token for tools.
        unproven: admits connections, and learns which of them have sent the token for tools.
        routes: those for nodes, which need no token for tools: nodes prove in another way who they are.
        tls: the registry speaks TLS, and clients must have a certificate, too. None: it does not.
    """

    listener: socket.socket
    hosts: frozenset[str]
    token: str
    unproven: UnprovenConnections
    routes: tuple[web.RouteDef, ...] = ()
    tls: Tls | None = None


def loopback_door(tls: Tls | None = None) -> RegistryDoor:
    """The door of a node that is no head: at any free port of the loopback interface, with a token of its own.

    Raises:
        OSError: no port can be used.
    """
    unproven = UnprovenConnections(Strangers(), lambda address: False)
    return RegistryDoor(listen_at(_LOOPBACK, 0), frozenset(), secrets.token_urlsafe(32), unproven, tls=tls)


async def run_registry(ask: AskNode, facts: NodeFacts, door: RegistryDoor | None = None) -> None:
    """Serves the registry until it is cancelled.

    Args:
        ask: puts a question to the node.
        facts: the node's facts, with "session_dir".
        door: None for a node without a cluster.
    """
    door = door or loopback_door()
    registry = Registry(ask, door)
    path = os.path.join(facts["session_dir"], REGISTRY_FILE)
    scheme = "http" if door.tls is None else "https"
    try:
        host, port = await registry.start()
        url = f"{scheme}://{url_host(host)}:{port}"
        await asyncio.to_thread(_write, path, {"url": url, "token": door.token})
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
        door: where it answers; clients must send its token as ``Authorization: Bearer TOKEN``.
    """

    def __init__(self, ask: AskNode, door: RegistryDoor) -> None:
        self._ask = ask
        self._door = door
        self._hosts = _HOSTS | door.hosts
        self._node_paths = frozenset(route.path for route in door.routes)
        # None until ``start`` and after ``stop``.
        self._runner: web.AppRunner | None = None
        # Accepts connections.
        self._server: asyncio.Server | None = None

    def __repr__(self) -> str:
        return f"<Registry {'serving' if self._runner else 'stopped'}>"

    async def start(self) -> tuple[str, int]:
        """Serves at the door; returns the address."""
        application = web.Application(middlewares=[self._guard], client_max_size=LARGEST_BODY_OF_TOOLS)
        application.add_routes([*Rest(self._ask).routes(), *self._door.routes])
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_STOP_DEADLINE, logger=_http_log)
        await self._runner.setup()
        assert self._runner.server is not None
        make: Callable[[], asyncio.BaseProtocol] = self._door.unproven.guard(self._runner.server)
        if self._door.tls is not None:
            make = _secured(make, self._door.tls)
        self._server = await asyncio.get_running_loop().create_server(make, sock=self._door.listener, backlog=_BACKLOG)
        host, port, *_ = self._door.listener.getsockname()
        return host, port

    async def stop(self) -> None:
        """Ends all connections."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            if self._server is not None:
                self._server.close()
            await runner.cleanup()
        self._door.listener.close()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        host = _host_of(request.host)
        is_for_nodes = request.path in self._node_paths
        if request.method == "CONNECT":
            # Its target takes the place of the path and of the host.
            raise web.HTTPMethodNotAllowed("CONNECT", [])
        if "Origin" in request.headers:
            raise web.HTTPForbidden(text="The registry answers no web page.")
        # Nodes may know this machine by any address, but by no name: only a name can lead a browser here.
        if host not in self._hosts and not (is_for_nodes and _is_address(host)):
            raise web.HTTPForbidden(text="The registry answers only tools that name its own address.")
        if is_for_nodes or request.path == _HEALTH:
            return await handler(request)
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), f"Bearer {self._door.token}".encode()):
            raise web.HTTPUnauthorized(text="Send the token for tools: Authorization: Bearer TOKEN.")
        self._door.unproven.proven(request.transport)
        return await handler(request)


def _secured(make: Callable[[], asyncio.BaseProtocol], tls: Tls) -> Callable[[], asyncio.BaseProtocol]:
    """Not by the loop's own TLS: connections must count as those of strangers before they have shaken hands."""
    from asyncray.io.tls_transport import secured  # start-up cost: a lone node has no TLS

    return lambda: secured(make(), tls, is_server=True)


def _host_of(text: str) -> str:
    """The host of a Host header, which may name a port."""
    return text[: text.find("]") + 1] if text.startswith("[") else text.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
