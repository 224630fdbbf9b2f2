"""The registry's HTTP face: what it answers, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from asyncray.head.registry import Registry

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
