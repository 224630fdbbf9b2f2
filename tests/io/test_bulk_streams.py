"""Bulk connections over real sockets and real shared memory, on both loops, and with TLS."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
import uvloop

from asyncray.io.bulk_streams import BulkReceiver, BulkSender, Landing
from asyncray.io.segments import Segment
from asyncray.io.tls import Tls
from asyncray.io.tls_transport import TlsProtocol, secured
from asyncray.wire.chunks import CHUNK_HEADER_LENGTH, LARGEST_CHUNK, chunk_header
from tests.certificates import tls_of

_RELEASES = [((3, 12), (3, 12, 9)), ((3, 13), (3, 13, 2))]
"""In which asyncio's own loop lets ``writelines`` fill its buffer without end (cpython#127655). Daemons use uvloop."""

MIB = 1 << 20
DEADLINE = 30.0


@pytest.fixture
def segments() -> Iterator[tuple[Segment, Segment]]:
    """One that is full of random bytes, and a fresh one."""
    name = f"asyncray-test-{os.getpid()}"
    pair = Segment.create(f"{name}-source", 5 * MIB), Segment.create(f"{name}-target", 5 * MIB)
    pair[0].buf[:] = random.Random(1).randbytes(5 * MIB)
    yield pair
    for segment in pair:
        segment.unlink()
        segment.close()


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    """Runs a coroutine function on one of the two loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def runs(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(ending(main))

    return runs


_WRITELINES_DOES_NOT_PAUSE = any(release <= sys.version_info < mended for release, mended in _RELEASES)
LOOPS_THAT_PAUSE = ["uvloop"] if _WRITELINES_DOES_NOT_PAUSE else ["uvloop", "asyncio"]

_open: list[Callable[[], None]] = []
"""End the streams and servers of the present test: a loop of uvloop that closes waits for them."""


async def ending(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a test, and ends its connections even if it fails."""
    try:
        await asyncio.wait_for(main(), DEADLINE)
    finally:
        for close in _open:
            close()
        _open.clear()
        await asyncio.sleep(0)


class Receiving:
    """The receiver of a connection, and everything that it reported."""

    def __init__(self) -> None:
        self.landings: dict[int, Landing] = {}
        self.received: list[tuple[int, int]] = []
        self.failed: list[tuple[int, str]] = []
        self.why: list[str | None] = []
        self.news = asyncio.Event()
        self.ended = asyncio.Event()
        self.stream = BulkReceiver(self.landings, self._received, self._failed, self._closed)
        _open.append(partial(self.stream.abort, "the test has ended"))

    def _received(self, transfer: int, position: int) -> None:
        self.received.append((transfer, position))
        self.news.set()

    def _failed(self, transfer: int, why: str) -> None:
        del self.landings[transfer]
        self.failed.append((transfer, why))

    def _closed(self, stream: BulkReceiver, why: str | None) -> None:
        self.why.append(why)
        self.ended.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()


class Sending:
    """The sender of a connection, and everything that it reported."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.why: list[str | None] = []
        self.news = asyncio.Event()
        self.ended = asyncio.Event()
        self.stream = BulkSender(self._sent, self._closed)
        _open.append(partial(self.stream.abort, "the test has ended"))

    def _sent(self, transfer: int, length: int) -> None:
        self.sent.append((transfer, length))
        self.news.set()

    def _closed(self, stream: BulkSender, why: str | None) -> None:
        self.why.append(why)
        self.ended.set()

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            self.news.clear()
            await self.news.wait()

    def send(self, transfer: int, segment: Segment, start: int, end: int) -> None:
        for place in range(start, end, MIB):
            self.stream.write(transfer, place, segment.buf[place : min(place + MIB, end)])


class _Beginning(asyncio.Protocol):
    """Hands the connection over, as a link stream does after the handshake."""

    def __init__(self, begin: Callable[[Any], None]) -> None:
        self._begin = begin

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        asyncio.get_running_loop().call_soon(self._begin, transport)


async def connect(
    receiving: Receiving, sending: Sending, tls: Tls | None = None, rest: bytes = b""
) -> asyncio.AbstractServer:
    """Connects the two, with the bytes that came behind the handshake."""
    loop = asyncio.get_running_loop()
    ends: asyncio.Queue[None] = asyncio.Queue()

    def accept(transport: Any) -> None:
        receiving.stream.begin(transport, rest)
        ends.put_nowait(None)

    def dial(transport: Any) -> None:
        sending.stream.begin(transport)
        ends.put_nowait(None)

    server = await loop.create_server(lambda: secured(_Beginning(accept), tls, is_server=True), "127.0.0.1", 0)
    _open.append(server.close)
    address = server.sockets[0].getsockname()
    _, protocol = await loop.create_connection(lambda: secured(_Beginning(dial), tls, is_server=False), *address)
    for _ in range(2):
        await ends.get()
    while isinstance(protocol, TlsProtocol) and not protocol._is_open:
        await asyncio.sleep(0)  # as after the handshake of the daemons
    return server


async def raw(receiving: Receiving) -> socket.socket:
    """Connects a socket of ours to the receiver."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=theirs)
    receiving.stream.begin(transport, b"")
    return ours


async def end(sending: Sending, receiving: Receiving, server: asyncio.AbstractServer) -> None:
    sending.stream.abort("the test ends it")
    await sending.ended.wait()
    await receiving.ended.wait()
    server.close()
    await server.wait_closed()


async def transfers(segments: tuple[Segment, Segment], tls: Tls | None = None) -> None:
    """Two objects, whose chunks take turns, and the rest of a third one."""
    source, target = segments
    receiving, sending = Receiving(), Sending()
    server = await connect(receiving, sending, tls)
    receiving.landings[1] = Landing(target, 0, 2 * MIB + 5, 0, warm=False)
    receiving.landings[2] = Landing(target, 3 * MIB, MIB, 0, warm=False)
    receiving.landings[3] = Landing(target, 4 * MIB, 100, 60, warm=False)
    sending.send(1, source, 0, MIB)
    sending.stream.write(2, 0, source.buf[3 * MIB : 4 * MIB])
    sending.send(1, source, MIB, 2 * MIB + 5)
    sending.stream.write(3, 60, source.buf[4 * MIB + 60 : 4 * MIB + 100])
    assert sending.sent == []  # not yet: the caller orders more for each of them
    await receiving.until(lambda: (3, 100) in receiving.received)
    await sending.until(lambda: len(sending.sent) == 5)
    assert receiving.received == [(1, MIB), (2, MIB), (1, 2 * MIB), (1, 2 * MIB + 5), (3, 100)]
    assert sending.sent == [(1, MIB), (2, MIB), (1, MIB), (1, 5), (3, 40)]
    assert not sending.stream.has_unsent
    assert not receiving.stream.expects_bytes
    assert target.buf[: 2 * MIB + 5] == source.buf[: 2 * MIB + 5]
    assert bytes(target.buf[2 * MIB + 5 : 3 * MIB]) == bytes(MIB - 5)
    assert target.buf[3 * MIB : 4 * MIB] == source.buf[3 * MIB : 4 * MIB]
    assert bytes(target.buf[4 * MIB : 4 * MIB + 60]) == bytes(60)
    assert target.buf[4 * MIB + 60 : 4 * MIB + 100] == source.buf[4 * MIB + 60 : 4 * MIB + 100]
    await end(sending, receiving, server)
    assert (sending.why, receiving.why) == (["the test ends it"], [None])


def test_chunks_go_from_segment_to_segment(run: Any, segments: tuple[Segment, Segment]) -> None:
    run(lambda: transfers(segments))


def test_the_same_with_tls(run: Any, segments: tuple[Segment, Segment]) -> None:
    run(lambda: transfers(segments, tls_of("good")))


def test_bytes_that_came_with_the_handshake_are_the_first_of_the_stream(
    run: Any, segments: tuple[Segment, Segment]
) -> None:
    async def main() -> None:
        receiving, sending = Receiving(), Sending()
        receiving.landings[1] = Landing(segments[1], 10, 5, 0, warm=False)
        first = chunk_header(1, 0, 3) + b"abc" + chunk_header(1, 3, 2)[:7]
        server = await connect(receiving, sending, rest=first)
        assert receiving.received == [(1, 3)]
        assert receiving.stream.expects_bytes
        await end(sending, receiving, server)
        assert receiving.why == ["it ended in the middle of a chunk"]
        assert bytes(segments[1].buf[9:16]) == b"\0abc\0\0\0"

    run(main)


def test_a_violation_behind_the_handshake_ends_the_connection(run: Any) -> None:
    async def main() -> None:
        receiving, sending = Receiving(), Sending()
        server = await connect(receiving, sending, rest=bytes(CHUNK_HEADER_LENGTH) * 2)
        await receiving.ended.wait()
        assert receiving.why == ["a chunk of 0 bytes with flags 0x0"]
        await end(sending, receiving, server)

    run(main)


def test_r18_a_transfer_that_is_closed_in_the_middle_of_a_chunk_gets_no_byte_more(
    run: Any, segments: tuple[Segment, Segment]
) -> None:
    async def main() -> None:
        target = segments[1]
        receiving = Receiving()
        receiving.landings[1] = Landing(target, 0, MIB, 0, warm=False)
        receiving.landings[2] = Landing(target, MIB, 2, 0, warm=False)
        ours = await raw(receiving)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(ours, chunk_header(2, 0, 1) + b"x" + chunk_header(1, 0, MIB) + b"y" * 1000)
        await receiving.until(lambda: receiving.received)
        while receiving.stream.total < 2 * CHUNK_HEADER_LENGTH + 1001:
            await asyncio.sleep(0)
        assert len(receiving.stream.get_buffer(-1)) == 128 << 10  # a larger one would hold up the loop
        del receiving.landings[1]
        await loop.sock_sendall(ours, b"y" * (MIB - 1000) + chunk_header(2, 1, 1) + b"z")
        await receiving.until(lambda: len(receiving.received) == 2)
        assert receiving.received == [(2, 1), (2, 2)]
        assert bytes(target.buf[:1001]) == b"y" * 1000 + b"\0"
        assert bytes(target.buf[1001:MIB]) == bytes(MIB - 1001)
        assert bytes(target.buf[MIB : MIB + 2]) == b"xz"
        receiving.stream.abort("the test ends it")
        await receiving.ended.wait()
        ours.close()

    run(main)


def test_a_transfer_for_which_the_system_has_no_memory_fails_alone(
    run: Any, segments: tuple[Segment, Segment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tested with a real file system without room in ``tests/node/test_bulk_shell.py``."""
    populate = Segment.populate

    def full(segment: Segment, offset: int, size: int) -> None:
        if offset < 2 * MIB < offset + size:
            raise OSError(errno.ENOSPC, "No space left on device")
        populate(segment, offset, size)

    monkeypatch.setattr(Segment, "populate", full)

    async def main() -> None:
        source, target = segments
        receiving, sending = Receiving(), Sending()
        server = await connect(receiving, sending)
        receiving.landings[1] = Landing(target, 0, 4 * MIB, MIB + 1, warm=False)
        receiving.landings[2] = Landing(target, 4 * MIB, MIB, 0, warm=False)
        sending.send(1, source, MIB + 1, 4 * MIB)
        sending.stream.write(2, 0, source.buf[4 * MIB :])
        await receiving.until(lambda: (2, MIB) in receiving.received)
        assert receiving.failed == [(1, "No space left on device")]
        assert receiving.received == [(2, MIB)]
        assert target.buf[4 * MIB :] == source.buf[4 * MIB :]
        await end(sending, receiving, server)

    run(main)


def test_warm_memory_is_not_populated(segments: tuple[Segment, Segment], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Segment, "populate")
    landing = Landing(segments[1], MIB, MIB, 0, warm=True)
    landing.room(3)[:] = b"abc"
    assert bytes(segments[1].buf[MIB : MIB + 4]) == b"abc\0"
    assert "0 of 1048576 bytes" in repr(landing)


def test_nothing_comes_by_a_connection_that_was_aborted(run: Any, segments: tuple[Segment, Segment]) -> None:
    async def main() -> None:
        receiving = Receiving()
        ours = await raw(receiving)
        receiving.landings[1] = Landing(segments[1], 0, 10, 0, warm=False)
        await asyncio.get_running_loop().sock_sendall(ours, chunk_header(1, 0, 10) + b"0")
        while receiving.stream.total < CHUNK_HEADER_LENGTH + 1:
            await asyncio.sleep(0)
        receiving.stream.abort("another one replaces it")
        # A loop that had the bytes already.
        receiving.stream.get_buffer(9)[:9] = b"123456789"
        await receiving.ended.wait()
        assert receiving.received == []
        assert receiving.why == ["another one replaces it"]
        assert bytes(segments[1].buf[:10]) == b"0".ljust(10, b"\0")
        ours.close()

    run(main)


@pytest.mark.parametrize("run", LOOPS_THAT_PAUSE, indirect=True)
def test_a_sender_takes_no_bytes_and_ends_with_what_waits(run: Any, segments: tuple[Segment, Segment]) -> None:
    async def main() -> None:
        sending = Sending()
        ours, theirs = socket.socketpair()
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=theirs)
        sending.stream.begin(transport)
        for _ in range(4):
            sending.send(1, segments[0], 0, 5 * MIB)
        assert sending.stream.has_unsent
        assert transport.get_write_buffer_size() <= MIB + CHUNK_HEADER_LENGTH  # the others wait outside
        for _ in range(10):
            await asyncio.sleep(0)
        before = sending.stream.taken
        assert sum(length for _, length in sending.sent) <= before
        ours.send(b"who are you?")
        await sending.ended.wait()
        assert sending.why == ["it sends on a connection that it has to read"]
        assert before < 20 * MIB
        sending.send(1, segments[0], 0, MIB)  # dropped
        assert repr(sending.stream) == "<BulkSender closed 0 chunks wait, 0 are unsent>"
        ours.close()

    run(main)


async def hostile(receiving: Receiving, chance: random.Random, frames: int) -> None:
    """Sends frames that are right in form for as long as it goes well, and then one that is not, or half of one."""
    ours = await raw(receiving)
    data = bytearray()
    for _ in range(frames - 1):
        length = chance.randrange(1, 300)
        data += chunk_header(chance.randrange(2, 1 << 64), chance.randrange(1 << 64), length) + bytes(length)
    last = chance.randrange(4)
    if last == 0:
        data += chance.randbytes(chance.randrange(1, 200))
    elif last == 1:
        data += chunk_header(7, 0, LARGEST_CHUNK) + b"half"
    elif last == 2:
        data += chunk_header(1, chance.randrange(11, 1 << 64), 1) + b"?"
    else:
        data += chunk_header(1, 0, 11) + bytes(11)
    try:
        await asyncio.get_running_loop().sock_sendall(ours, data)
        ours.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the receiver has ended it
    await receiving.ended.wait()
    ours.close()


def test_ten_thousand_hostile_frames_of_a_node_with_the_token_change_nothing(
    segments: tuple[Segment, Segment],
) -> None:
    """It uses up no memory, and writes nowhere but into a transfer that it was asked for, where the next byte goes."""

    async def main() -> None:
        chance = random.Random(5)
        peak = 0
        for number in range(250):
            if number == 20:
                tracemalloc.start()
            receiving = Receiving()
            receiving.landings[1] = Landing(segments[1], 100, 10, 10, warm=False)
            await hostile(receiving, chance, 40)
            assert len(receiving.why) == 1
            assert receiving.received == []
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert bytes(segments[1].buf[:]) == bytes(5 * MIB)
        assert peak < MIB

    uvloop.run(ending(main))
