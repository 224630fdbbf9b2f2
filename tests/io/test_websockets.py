"""WebSockets as carriers of frames, against sockets of aiohttp on both sides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from asyncray.io import websockets
from asyncray.io.websockets import WebSocketCarrier
from asyncray.wire.frames import pack
from asyncray.wire.link_frames import header


class End:
    """One end, and everything that it reported."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.carrier = WebSocketCarrier(socket, self._frame, lambda carrier, why: self.ended.set_result(why))

    def _frame(self, carrier: Any, number: int, acknowledged: int, size: int, messages: Any) -> None:
        self.frames.put_nowait((number, acknowledged, messages))


class Server:
    """Accepts one WebSocket."""

    def __init__(self) -> None:
        self.end: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.url = ""

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(timeout=1.0, compress=False)
        await socket.prepare(request)
        end = End(socket)
        self.end.set_result(end)
        await end.carrier.run()
        return socket


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    application = web.Application()
    application.add_routes([web.get("/", server.handle)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with asyncio.timeout(20.0):
        yield server
    await runner.cleanup()


async def test_frames_go_both_ways_and_what_is_written_before_a_close_arrives(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as socket:
        ours = End(socket)
        running = asyncio.create_task(ours.carrier.run())
        theirs = await server.end
        ours.carrier.write(pack([(7, "x")]), 1, 0)
        assert await theirs.frames.get() == (1, 0, ((7, "x"),))
        for number in range(1, 100):
            theirs.carrier.write(pack([(8,)]), number, 1)
        theirs.carrier.close()
        theirs.carrier.write(b"", 100, 1)  # a closed carrier ignores it
        await running
        assert [ours.frames.get_nowait()[0] for _ in range(99)] == list(range(1, 100))
        assert (await ours.ended, await theirs.ended) == (None, None)
        theirs.carrier.drain_input()


@pytest.mark.parametrize("data", [b"", b"nonsense", header(b"xx", 1, 0) + b"x", header(b"\xc1", 1, 0) + b"\xc1"])
async def test_bytes_that_are_no_frame_end_the_connection(server: Server, data: bytes) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as socket:
        await socket.send_bytes(data)
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert await (await server.end).ended is not None


async def test_a_text_message_ends_the_connection(server: Server) -> None:
    async with aiohttp.ClientSession() as session, session.ws_connect(server.url) as socket:
        await socket.send_str("hello")
        assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
        assert (await server.end).frames.empty()


class Stuck:
    """A WebSocket whose other side neither reads nor writes."""

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.Event().wait()

    async def receive(self) -> aiohttp.WSMessage:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> bool:
        await asyncio.Event().wait()
        return False


@pytest.mark.parametrize("writes", [0, 3])
async def test_a_side_that_does_not_read_cannot_hold_up_the_end(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    monkeypatch.setattr(websockets, "CLOSE_DEADLINE", 0.01)
    end = End(Stuck())
    running = asyncio.create_task(end.carrier.run())
    for number in range(writes):
        end.carrier.write(b"x", number, 0)
    await asyncio.sleep(0)
    end.carrier.abort("it is silent")
    async with asyncio.timeout(10.0):
        await running
    assert await end.ended == "it is silent"


async def test_a_carrier_that_is_cancelled_reports_its_end() -> None:
    end = End(Stuck())
    running = asyncio.create_task(end.carrier.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert await end.ended is None
