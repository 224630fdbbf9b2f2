"""The routes for tools: their answers, and the errors of nodes as statuses."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from asyncray.core.key_values import LARGEST_VALUE, KeyValues
from asyncray.head import rest
from asyncray.head.rest import LARGEST_BODY_OF_TOOLS, Rest, description
from asyncray.io.addresses import listen_at


class Node:
    """A node with one object, and key-value pairs."""

    def __init__(self) -> None:
        self.pairs = KeyValues()
        self.answers: dict[str, tuple[Any, ...]] = {
            "nodes": (True, [{"NodeID": "aa", "Alive": True, "Labels": {"zone": "east"}}, {"Alive": False}]),
            "cluster_resources": (True, {"CPU": 2.0}),
            "available_resources": (True, {"CPU": 1.0}),
            "list_named_actors": (True, []),
        }
        self.asked: list[tuple[str, list[Any]]] = []

    async def ask(self, method: str, arguments: list[Any]) -> tuple[Any, ...]:
        self.asked.append((method, arguments))
        if method == "key_value":
            try:
                return True, self.pairs.perform(arguments[0], arguments[1:])
            except ValueError as error:
                return False, "ValueError", {"message": str(error)}
        return self.answers.get(method, (True, {"asked": method}))


class Tool:
    """A client of the routes."""

    def __init__(self, session: aiohttp.ClientSession, url: str, node: Node) -> None:
        self._session = session
        self._url = url
        self.node = node

    async def request(self, verb: str, path: str, data: bytes = b"") -> tuple[int, Any]:
        # A file object: aiohttp warns of large bytes.
        body_of_request = io.BytesIO(data) if data else None
        async with self._session.request(verb, f"{self._url}{path}", data=body_of_request) as response:
            body = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, json.loads(body) if is_json and verb != "HEAD" else body

    async def get(self, path: str) -> tuple[int, Any]:
        return await self.request("GET", path)


@asynccontextmanager
async def served(node: Node) -> AsyncIterator[Tool]:
    application = web.Application(client_max_size=LARGEST_BODY_OF_TOOLS)
    application.add_routes(Rest(node.ask).routes())
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listener = listen_at("127.0.0.1", 0)
    await web.SockSite(runner, listener).start()
    async with aiohttp.ClientSession() as session:
        yield Tool(session, f"http://127.0.0.1:{listener.getsockname()[1]}", node)
    await runner.cleanup()


@pytest.fixture
async def tool() -> AsyncIterator[Tool]:
    async with served(Node()) as tool:
        yield tool


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("status", "status"),
        ("actors", "all_actors"),
        ("jobs", "jobs"),
        ("placement_groups", "placement_groups"),
    ],
)
async def test_some_routes_pass_one_answer_on(tool: Tool, path: str, method: str) -> None:
    assert await tool.get(f"/api/{path}") == (200, {"asked": method})
    assert tool.node.asked == [(method, [])]


async def test_resources_labels_and_names(tool: Tool) -> None:
    assert await tool.get("/api/resources") == (200, {"total": {"CPU": 2.0}, "available": {"CPU": 1.0}})
    assert await tool.get("/api/labels") == (200, {"aa": {"zone": "east"}})
    assert await tool.get("/api/names") == (200, [])
    assert await tool.get("/api/names?namespace=ns") == (200, [])
    assert tool.node.asked[-2:] == [("list_named_actors", [None]), ("list_named_actors", ["ns"])]


async def test_an_object_is_named_by_hex_digits(tool: Tool) -> None:
    assert await tool.get("/api/objects/0102") == (200, {"asked": "object"})
    assert tool.node.asked == [("object", [b"\1\2"])]
    assert await tool.get("/api/objects/xyz") == (
        400,
        {"error": "ValueError", "message": "An object's ID is hex digits."},
    )


@pytest.mark.parametrize(
    ("name", "status"),
    [("ObjectLostError", 404), ("NodeDiedError", 503), ("InternalError", 500), ("ValueError", 400)],
)
async def test_errors_of_a_node_have_statuses(tool: Tool, name: str, status: int) -> None:
    tool.node.answers["object"] = (False, name, {"message": "the reason"})
    assert await tool.get("/api/objects/00") == (status, {"error": name, "message": "the reason"})


class SilentNode(Node):
    """A node that never answers."""

    async def ask(self, method: str, arguments: list[Any]) -> tuple[Any, ...]:
        await asyncio.Event().wait()
        return ()


async def test_an_answer_that_does_not_come_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "ANSWER_DEADLINE", 0.01)
    async with served(SilentNode()) as tool:
        status, answer = await tool.get("/api/jobs")
        assert (status, answer["error"]) == (504, "TimeoutError")


async def test_key_value_pairs(tool: Tool) -> None:
    path = "/api/kv/a/key%20%C3%A9?namespace=ns"
    assert (await tool.get(path))[0] == 404
    assert await tool.request("PUT", path, b"\0one") == (201, {"existed": False})
    assert await tool.get(path) == (200, b"\0one")
    assert await tool.request("HEAD", path) == (200, b"")
    assert (await tool.request("HEAD", "/api/kv/other"))[0] == 404
    assert await tool.request("PUT", f"{path}&overwrite=false", b"two") == (200, {"existed": True})
    assert await tool.get(path) == (200, b"\0one")
    assert await tool.request("PUT", path, b"two") == (200, {"existed": True})
    assert await tool.get("/api/kv?namespace=ns&prefix=a/") == (200, ["a/key é"])
    assert await tool.get("/api/kv") == (200, [])
    assert (await tool.request("PUT", f"{path}&overwrite=perhaps", b""))[0] == 400
    assert await tool.request("DELETE", "/api/kv/a?namespace=ns") == (200, {"deleted": 0})
    assert await tool.request("DELETE", "/api/kv/a?namespace=ns&by_prefix=true") == (200, {"deleted": 1})


async def test_a_value_that_is_too_large_is_refused(tool: Tool) -> None:
    assert (await tool.request("PUT", "/api/kv/key", bytes(LARGEST_VALUE)))[0] == 201
    assert (await tool.request("PUT", "/api/kv/key", bytes(LARGEST_VALUE + 1)))[0] == 413
    status, answer = await tool.request("PUT", f"/api/kv/{'k' * 5000}", b"")
    assert status == 400
    assert "at most 4096 bytes" in answer["message"]


async def test_the_description_is_served(tool: Tool) -> None:
    status, found = await tool.get("/api/openapi.json")
    assert (status, found) == (200, json.loads(description()))
    schemas = found["components"]["schemas"]
    references = [part.partition('"')[0] for part in json.dumps(found).split("#/components/schemas/")[1:]]
    assert set(references) == schemas.keys()


async def test_a_probe_of_health(tool: Tool) -> None:
    assert await tool.get("/healthz") == (200, b"ok\n")
    assert tool.node.asked == []
