"""The registry's HTTP face: its answers, and the clients that it refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from asyncray.head.registry import HeadDoor, Registry
from asyncray.io.addresses import listen_at
from asyncray.io.strangers import Strangers
from asyncray.io.unproven import UnprovenConnections

TOKEN = "a-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


async def ask(method: str, arguments: list[Any]) -> tuple[Any, ...]:
    """A node that knows one object."""
    if method == "object":
        if arguments == [b"\x01\x02"]:
            return True, {"state": "ready", "size": 3}
        return False, "ObjectLostError", {"message": "There is no such object."}
    return True, {"asked": method}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    registry = Registry(ask, TOKEN)
    host, port = await registry.start()
    assert host == "127.0.0.1"
    yield f"http://127.0.0.1:{port}"
    await registry.stop()


async def get(url: str, headers: dict[str, str]) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("path", ["status", "nodes", "actors"])
async def test_it_answers_tools_that_send_the_token(url: str, path: str) -> None:
    assert await get(f"{url}/api/{path}", BEARER) == (200, f'{{"asked": "{path}"}}')


async def test_it_resolves_objects_by_id(url: str) -> None:
    assert await get(f"{url}/api/objects/0102", BEARER) == (200, '{"state": "ready", "size": 3}')
    status, text = await get(f"{url}/api/objects/ffff", BEARER)
    assert status == 404
    assert "no such object" in text
    assert (await get(f"{url}/api/objects/xyz", BEARER))[0] == 400


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}])
async def test_it_answers_nobody_without_the_token(url: str, headers: dict[str, str]) -> None:
    assert (await get(f"{url}/api/status", headers))[0] == 401


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
async def test_it_answers_no_web_page(url: str, headers: dict[str, str]) -> None:
    assert (await get(f"{url}/api/status", {**BEARER, **headers}))[0] == 403


async def test_bytes_that_are_no_text_are_no_token(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /api/status HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert b" 401 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def head_url() -> AsyncIterator[str]:
    """The registry of the head of a cluster, with a route for nodes."""

    async def join(request: web.Request) -> web.Response:
        return web.Response(text="for nodes")

    listener = listen_at("127.0.0.1", 0)
    unproven = UnprovenConnections(Strangers(), lambda address: False)
    routes = (web.get("/join", join, allow_head=False),)
    door = HeadDoor(listener, frozenset({"10.0.0.1", "head.example"}), TOKEN, routes, unproven)
    registry = Registry(ask, TOKEN, door)
    host, port = await registry.start()
    assert (host, port) == listener.getsockname()
    yield f"http://127.0.0.1:{port}"
    await registry.stop()


@pytest.mark.parametrize(
    "path", ["/", "/api/status", "/api/nodes", "/api/actors", "/api/objects/00", "/nonsense", "//join"]
)
@pytest.mark.parametrize("verb", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"])
async def test_every_route_and_verb_of_a_head_wants_the_token(head_url: str, path: str, verb: str) -> None:
    async with aiohttp.ClientSession() as session:
        for headers, status in (
            ({}, 401),
            ({**BEARER, "Host": "evil.example"}, 403),
            ({**BEARER, "Origin": "http://evil.example"}, 403),
        ):
            async with session.request(verb, f"{head_url}{path}", headers=headers) as response:
                assert response.status == status
        with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
            await session.ws_connect(f"{head_url}{path}")


async def test_a_head_answers_to_its_names_and_nodes_may_use_any(head_url: str) -> None:
    for name in ("10.0.0.1", "head.example:80", "localhost"):
        assert (await get(f"{head_url}/api/status", {**BEARER, "Host": name}))[0] == 200
    assert await get(f"{head_url}/join", {"Host": "another.example"}) == (200, "for nodes")
    assert (await get(f"{head_url}/join", {"Origin": "http://evil.example"}))[0] == 403


async def test_bytes_that_are_no_http_change_nothing(head_url: str) -> None:
    chance = random.Random(5)
    host, _, port = head_url.removeprefix("http://").partition(":")
    start = b"GET /stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    for number in range(200):
        _, writer = await asyncio.open_connection(host, int(port))
        noise = chance.randbytes(chance.randrange(1, 500))
        writer.write(start + noise + b"\r\n\r\n" if number % 2 else noise)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])
    assert (await get(f"{head_url}/api/status", BEARER))[0] == 200
