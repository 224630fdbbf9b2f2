"""The registry's HTTP face: the clients that it refuses, over every route and verb. Its answers: `test_rest.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from asyncray.head.registry import Registry, RegistryDoor, loopback_door
from asyncray.head.rest import Rest, description
from asyncray.io import strangers, unproven
from asyncray.io.addresses import listen_at
from asyncray.io.strangers import Strangers
from asyncray.io.tls import Tls
from asyncray.io.unproven import UnprovenConnections
from tests.certificates import tls_of

DEADLINE = 20.0
TOKEN = "a-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NO_VERBS = {"CONNECT": (405,), "NONSENSE": (400,)}
"""Verbs that no route can have, with the answers to them."""

VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", *NO_VERBS)
EXEMPT = {"/healthz", "/join", "/stream"}
"""Paths that want no token for tools."""

PATHS = [path.replace("{id}", "00").replace("{key}", "a/key") for path in json.loads(description())["paths"]]


async def ask(method: str, arguments: list[Any]) -> tuple[Any, ...]:
    """A node that answers everything."""
    return True, {"asked": method}


def door(hosts: frozenset[str] = frozenset(), tls: Tls | None = None) -> RegistryDoor:
    """The door of the head of a cluster, with routes for nodes."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="for nodes")

    connections = UnprovenConnections(Strangers(), lambda address: False)
    routes = (web.get("/join", answer, allow_head=False), web.get("/stream", answer, allow_head=False))
    return RegistryDoor(listen_at("127.0.0.1", 0), hosts, TOKEN, connections, routes, tls)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    registry = Registry(ask, door(frozenset({"10.0.0.1", "head.example"})))
    host, port = await registry.start()
    yield f"http://{host}:{port}"
    await registry.stop()


async def get(url: str, headers: dict[str, str]) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


async def test_a_node_without_a_cluster_answers_at_the_loopback_interface_with_a_token_of_its_own() -> None:
    first, second = Registry(ask, loopback_door()), Registry(ask, loopback_door())
    assert first._door.token != second._door.token
    host, port = await first.start()
    assert host == "127.0.0.1"
    headers = {"Authorization": f"Bearer {first._door.token}"}
    assert await get(f"http://127.0.0.1:{port}/api/status", headers) == (200, '{"asked": "status"}')
    for path in ("/join", "/stream"):
        assert (await get(f"http://127.0.0.1:{port}{path}", headers))[0] == 404
    await first.stop()
    await second.stop()


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
async def test_it_answers_nobody_without_the_token(url: str, headers: dict[str, str]) -> None:
    assert (await get(f"{url}/api/status", headers))[0] == 401


async def test_bytes_that_are_no_text_are_no_token(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("path", [*PATHS, "/", "/nonsense", "//join", "/api/", "/healthz/"])
async def test_every_route_and_verb_wants_the_token_and_looks_at_host_and_origin(url: str, path: str) -> None:
    async with aiohttp.ClientSession() as session:
        for verb in VERBS:
            for headers, status in (
                ({}, 401),
                ({"Authorization": "Bearer wrong"}, 401),
                ({**BEARER, "Host": "evil.example"}, 403),
                ({**BEARER, "Origin": "http://evil.example"}, 403),
                ({**BEARER, "Origin": url}, 403),
            ):
                async with session.request(verb, f"{url}{path}", headers=headers) as response:
                    expected = (200, 405) if path in EXEMPT and status == 401 else (status,)
                    assert response.status in NO_VERBS.get(verb, expected), (verb, headers)
        if path not in EXEMPT:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await session.ws_connect(f"{url}{path}")
        for refused in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{url}{path}", headers={**BEARER, **refused})


def test_the_routes_are_those_of_the_description_and_no_others() -> None:
    described = json.loads(description())["paths"]
    listed = {(path, verb.upper()) for path, verbs in described.items() for verb in verbs}
    with door().listener:
        nodes = door()
        nodes.listener.close()
    application = web.Application()
    application.add_routes([*Rest(ask).routes(), *nodes.routes])
    served = set()
    for route in application.router.routes():
        assert route.resource is not None
        path = route.resource.canonical
        if not (route.method == "HEAD" and (path, "GET") in listed):  # HEAD is possible wherever GET is
            served.add((path, route.method))
    assert served == listed


async def test_it_answers_to_its_names_and_nodes_may_use_any_address(url: str) -> None:
    for name in ("10.0.0.1", "head.example:80", "localhost", "[::1]", "[::1]:80"):
        assert (await get(f"{url}/api/status", {**BEARER, "Host": name}))[0] == 200
    for name in ("10.9.9.9:7", "[fe80::7]:80"):
        assert await get(f"{url}/join", {"Host": name}) == (200, "for nodes")
        assert (await get(f"{url}/api/status", {**BEARER, "Host": name}))[0] == 403


async def test_a_caller_without_the_token_learns_that_the_daemon_lives(url: str) -> None:
    assert await get(f"{url}/healthz", {}) == (200, "ok\n")


async def test_bytes_that_are_no_http_change_nothing_and_fill_no_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(5)
    host, _, port = url.removeprefix("http://").partition(":")
    start = b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    with caplog.at_level(logging.INFO):
        for number in range(200):
            _, writer = await asyncio.open_connection(host, int(port))
            noise = chance.randbytes(chance.randrange(1, 500))
            writer.write(start + noise + b"\r\n\r\n" if number % 2 else noise)
            writer.close()
            await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
        assert (await get(f"{url}/api/status", BEARER))[0] == 200
    assert not [record for record in caplog.records if record.name.startswith(("asyncray", "aiohttp"))]


async def test_with_tls_connections_count_before_they_have_shaken_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST_OF_ADDRESS", 2)
    tls = tls_of("good")
    registry = Registry(ask, door(tls=tls))
    host, port = await registry.start()
    silent = [await asyncio.open_connection(host, port) for _ in range(2)]
    with pytest.raises(OSError):
        await asyncio.open_connection(host, port, ssl=tls.client)
    for _, writer in silent:
        writer.close()
    address = f"https://{host}:{port}/api/status"
    async with asyncio.timeout(DEADLINE), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(address, headers=BEARER, ssl=tls.client) as response:
                    assert (response.status, await response.json()) == (200, {"asked": "status"})
                    break
            except aiohttp.ClientError:
                pass  # the ends of the silent connections have not arrived
    await registry.stop()


async def test_a_handshake_of_tls_that_stalls_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unproven, "PROOF_DEADLINE", 0.01)
    registry = Registry(ask, door(tls=tls_of("good")))
    host, port = await registry.start()
    reader, writer = await asyncio.open_connection(host, port)
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    await registry.stop()
