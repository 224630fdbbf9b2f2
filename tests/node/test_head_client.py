"""The node's client of the head, against servers that are no head, that have another version, or that lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from asyncray.io.addresses import listen_at
from asyncray.node import head_client
from asyncray.node.head_client import HeadClient, HeadRefusal, HeadSilence
from asyncray.wire.handshake import LINK_VERSION
from asyncray.wire.head_proofs import PROOF_HEADER, WHY_HEADER
from tests.node.hosts import TOKEN, cluster

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
GOOD = {"version": LINK_VERSION, "node": "ab" * 8, "cluster": "cd" * 16, "nonce": "ef" * 32}


@asynccontextmanager
async def served(join: Handler, stream: Handler | None = None) -> AsyncIterator[HeadClient]:
    """A client whose head is a server with these handlers."""
    application = web.Application()
    application.add_routes([web.get("/join", join), *([web.get("/stream", stream)] if stream else [])])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    listener = listen_at("127.0.0.1", 0)
    await web.SockSite(runner, listener).start()
    async with asyncio.timeout(20.0):
        yield HeadClient("127.0.0.1", listener.getsockname()[1], TOKEN, b"node0001")
    await runner.cleanup()


async def answer_well(request: web.Request) -> web.Response:
    return web.json_response(GOOD)


async def connect(client: HeadClient) -> None:
    await client.serve_connection(lambda carrier: None, lambda *frame: None, lambda carrier, why: None)


async def test_it_finds_the_head() -> None:
    async with cluster(1) as (head,):
        client = HeadClient(*head.address, TOKEN, b"node0001")
        await client.find(10.0)
        assert (client.head, client.cluster) == (head.id, b"c" * 16)


@pytest.mark.parametrize(
    "answer",
    [[], {}, {**GOOD, "node": 7}, {**GOOD, "nonce": "ef"}, {**GOOD, "cluster": "zz" * 16}, "x" * 10_000],
)
async def test_an_answer_that_is_no_heads(answer: object) -> None:
    async def join(request: web.Request) -> web.Response:
        return web.json_response(answer)

    async with served(join) as client:
        with pytest.raises(HeadSilence, match=r"as a head does|as no head does"):
            await connect(client)


@pytest.mark.parametrize("text", ["", "<html>It works!</html>", "[" * 4096, b"\xff\xfe"])
async def test_an_answer_that_is_no_json_is_no_heads(text: str | bytes) -> None:
    async def join(request: web.Request) -> web.Response:
        return web.Response(body=text)

    async with served(join) as client:
        with pytest.raises(HeadSilence, match=r"as a head does|as no head does"):
            await connect(client)


async def test_a_try_without_an_answer_says_how_long_it_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    async def join(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(head_client, "_DEADLINE", aiohttp.ClientTimeout(total=0.05))
    async with served(join) as client, aiohttp.ClientSession(timeout=head_client._DEADLINE) as session:
        with pytest.raises(head_client.ACCIDENTS) as caught:
            await client._ask(session)
    assert head_client._explained_silence(caught.value) == "no answer within 0.05 s"


async def test_another_version_is_said_at_once() -> None:
    async def join(request: web.Request) -> web.Response:
        return web.json_response({**GOOD, "version": 99})

    async with served(join) as client:
        with pytest.raises(HeadRefusal, match="speaks version 99 of the protocol, this node 1: upgrade the older one"):
            await client.find(10.0)


async def test_another_cluster_at_the_same_address_is_no_head_of_this_node() -> None:
    async with served(answer_well) as client:
        client.head = b"another1"
        with pytest.raises(HeadRefusal, match="another cluster answers"):
            await connect(client)


async def test_a_head_that_does_not_know_the_token_is_none() -> None:
    async def stream(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        socket.headers[PROOF_HEADER] = "ab" * 32
        await socket.prepare(request)
        await socket.receive()
        return socket

    async with served(answer_well, stream) as client:
        with pytest.raises(HeadRefusal, match="the head does not know the token of this cluster: is 127"):
            await connect(client)


@pytest.mark.parametrize(
    ("status", "kind"), [(401, HeadRefusal), (403, HeadRefusal), (409, HeadSilence), (500, HeadSilence)]
)
async def test_refusals_are_no_accidents(status: int, kind: type[Exception]) -> None:
    async def stream(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={WHY_HEADER: "the reason"})

    async with served(answer_well, stream) as client:
        with pytest.raises(kind, match="the reason") as caught:
            await connect(client)
        assert not getattr(caught.value, "is_proven", False)


async def test_the_head_proves_that_it_is_the_head_that_refuses() -> None:
    async with cluster(2) as (head, node):
        assert head.head is not None
        head.head.machine.members.lose(node.id, "a test says so", 0.0)
        client = HeadClient(*head.address, TOKEN, node.id)
        with pytest.raises(HeadRefusal, match="lost: a test says so") as caught:
            await connect(client)
        assert caught.value.is_proven
