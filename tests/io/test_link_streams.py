"""Connections between daemons under uvloop, over real TCP sockets, and everything that a stranger may send to one."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from asyncray.io import link_streams
from asyncray.io.link_streams import LinkStream
from asyncray.wire import link_frames
from asyncray.wire.frames import pack
from asyncray.wire.handshake import LINK, MAGIC, AcceptorHandshake, DialerHandshake
from asyncray.wire.link_frames import header

TOKEN = b"t" * 32
CLUSTER = b"c" * 16
DEADLINE = 20.0


class End:
    """One end, and everything that it reported."""

    def __init__(self, handshake: Any) -> None:
        self.frames: list[Any] = []
        self.why: list[str | None] = []
        self.shaken = asyncio.Event()
        self.came = asyncio.Event()
        self.ended = asyncio.Event()
        self.drains = False
        self.stream = LinkStream(handshake, lambda stream: self.shaken.set(), self._frame, self._closed)

    def _frame(self, stream: LinkStream, number: int, acknowledged: int, size: int, messages: Any) -> None:
        self.frames.append((number, acknowledged, messages))
        self.came.set()

    def _closed(self, stream: LinkStream, why: str | None) -> None:
        if self.drains:
            stream.drain_input()
        self.why.append(why)
        self.ended.set()


def acceptor() -> AcceptorHandshake:
    return AcceptorHandshake(TOKEN, b"acceptor", CLUSTER, os.urandom(32))


def dialer(token: bytes = TOKEN) -> DialerHandshake:
    return DialerHandshake(token, b"dialler_", CLUSTER, LINK, b"acceptor", os.urandom(32))


class Pair:
    """A listener whose connections are ends, and ways to connect to it."""

    def __init__(self) -> None:
        self.accepted: list[End] = []

    async def __aenter__(self) -> Pair:
        self._server = await asyncio.get_running_loop().create_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _accept(self) -> LinkStream:
        self.accepted.append(End(acceptor()))
        return self.accepted[-1].stream

    async def dial(self, token: bytes = TOKEN) -> End:
        end = End(dialer(token))
        await asyncio.get_running_loop().create_connection(lambda: end.stream, "127.0.0.1", self.port)
        return end

    async def raw(self, data: bytes) -> tuple[End, socket.socket]:
        """Sends the bytes as a stranger. Returns the end that got them, and the stranger's socket."""
        count = len(self.accepted)
        ours = socket.socket()
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", self.port))
        await asyncio.get_running_loop().sock_sendall(ours, data)
        while len(self.accepted) == count:
            await asyncio.sleep(0)
        return self.accepted[-1], ours

    async def __aexit__(self, *exc_info: object) -> None:
        self._server.close()
        for end in self.accepted:
            end.stream.abort()
            await end.ended.wait()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.sleep(0))  # the first loop of a process opens descriptors that it keeps
    before = os.listdir("/proc/self/fd")
    uvloop.run(asyncio.wait_for(main(), DEADLINE))
    assert len(os.listdir("/proc/self/fd")) == len(before)


async def shaken(pair: Pair) -> tuple[End, End]:
    one = await pair.dial()
    await one.shaken.wait()
    return one, pair.accepted[-1]


def test_two_daemons_shake_hands_and_send_frames_both_ways() -> None:
    async def main() -> None:
        async with Pair() as pair:
            one, other = await shaken(pair)
            assert other.stream.handshake.peer == b"dialler_"
            one.stream.write(pack([(7, "x")]), 1, 0)
            await other.came.wait()
            assert other.frames == [(1, 0, ((7, "x"),))]
            other.stream.write(pack([(8,)]), 3, 1)
            await one.came.wait()
            assert one.frames == [(3, 1, ((8,),))]
            one.stream.close()
            await other.ended.wait()
            await one.ended.wait()
            assert (one.why, other.why) == ([None], [None])
            one.stream.write(b"", 9, 9)  # a closed stream ignores it
            assert one.stream.address == other.stream.address == "127.0.0.1"

    run(main)


def test_a_wrong_token_ends_the_connection() -> None:
    async def main() -> None:
        async with Pair() as pair:
            one = await pair.dial(b"w" * 32)
            await one.ended.wait()
            await pair.accepted[0].ended.wait()
            assert "does not know the token" in str(pair.accepted[0].why)
            assert not one.shaken.is_set()

    run(main)


def test_a_side_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_streams, "HANDSHAKE_DEADLINE", 0.01)

    async def main() -> None:
        async with Pair() as pair:
            end, ours = await pair.raw(MAGIC)
            await end.ended.wait()
            assert end.why == ["the handshake took too long"]
            ours.close()

    run(main)


class Bomb:
    """Records it if a daemon loads the pickle."""

    loaded = False

    def __reduce__(self) -> Any:
        return setattr, (Bomb, "loaded", True)


def test_h27_no_bytes_of_a_stranger_reach_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(limit: int) -> None:
        raise AssertionError("a decoder was made for a stranger")

    monkeypatch.setattr(link_streams, "LinkDecoder", refuse)
    bomb = pickle.dumps(Bomb())
    chance = random.Random(1)

    async def main() -> None:
        async with Pair() as pair:
            first = dialer(b"w" * 32).start()
            for data in (bomb, bomb * 100, header(bomb, 1, 0) + bomb, first + bomb, first + bytes(32), first[:-1]):
                end, ours = await pair.raw(data)
                ours.shutdown(socket.SHUT_WR)
                await end.ended.wait()
                ours.close()
            for _ in range(300):
                end, ours = await pair.raw(chance.randbytes(chance.randrange(1, 400)))
                ours.close()
                await end.ended.wait()
            assert not any(end.frames or end.shaken.is_set() for end in pair.accepted)

    run(main)
    assert not Bomb.loaded


def test_ten_thousand_bad_frames_of_a_member_end_connections_and_nothing_more() -> None:
    """After a handshake, too. The decoder gets all bytes at once: a connection for each frame would take too long."""
    chance = random.Random(2)
    good = pack([(7, "text", b"bytes", [1, 2.5, None])])
    bomb = pickle.dumps(Bomb())

    async def main() -> None:
        for number in range(10_000):
            end = End(acceptor())
            end.stream._decoder = link_frames.LinkDecoder(1 << 20)
            frame = header(good, 1, 0) + good
            kind = number % 4
            if kind == 0:
                data = chance.randbytes(chance.randrange(1, 80))
            elif kind == 1:
                data = frame[: chance.randrange(len(frame))]
            elif kind == 2:
                place = chance.randrange(len(frame))
                data = frame[:place] + chance.randbytes(1) + frame[place + 1 :]
            else:
                data = header(bomb, 1, 0) + bomb
            end.stream.data_received(data)
            assert len(end.frames) <= 1
            assert kind != 1 or not end.frames
            if kind == 3:
                assert end.stream._why is not None
                assert not end.frames

    run(main)
    assert not Bomb.loaded


def test_r5_frames_of_a_dead_daemon_are_read_before_its_end_is_reported() -> None:
    async def main() -> None:
        async with Pair() as pair:
            one, other = await shaken(pair)
            other.drains = True
            for number in range(1, 40):
                one.stream.write(pack([(7, bytes(10_000))]), number, 0)
            while one.stream.transport is not None and one.stream.transport.get_write_buffer_size():
                await asyncio.sleep(0)
            one.stream.abort()
            assert other.stream._descriptor is not None
            other.stream.drain_input()
            await other.ended.wait()
            assert [number for number, _, _ in other.frames] == list(range(1, 40))

    run(main)


def test_a_connection_that_must_go_at_once_is_ended_by_the_loop() -> None:
    async def main() -> None:
        end = End(acceptor())
        end.stream._came = lambda stream: stream.abort("too many")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: end.stream, sock=ours)
        await end.ended.wait()
        assert end.why == ["too many"]
        theirs.close()

    run(main)


def test_a_connection_is_handed_over_to_another_protocol_after_the_handshake() -> None:
    class Heir(asyncio.Protocol):
        def __init__(self) -> None:
            self.data = b""
            self.ended = asyncio.Event()

        def data_received(self, data: bytes) -> None:
            self.data += data

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set()

    async def main() -> None:
        heirs = {True: Heir(), False: Heir()}
        rests = []

        def hand_over(stream: LinkStream) -> None:
            transport, rest = stream.hand_over()
            transport.set_protocol(heirs[isinstance(stream.handshake, DialerHandshake)])
            rests.append(rest)
            if isinstance(stream.handshake, DialerHandshake):
                transport.write(b"no frames")
                transport.close()

        def stream(handshake: Any) -> LinkStream:
            return LinkStream(
                handshake, hand_over, lambda *frame: rests.append(b"frame"), lambda *end: rests.append(b"end")
            )

        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: stream(acceptor()), "127.0.0.1", 0)
        await loop.create_connection(lambda: stream(dialer()), *server.sockets[0].getsockname())
        for heir in heirs.values():
            await heir.ended.wait()
        assert heirs[False].data == b"no frames"
        assert rests == [b"", b""]
        server.close()

    run(main)


def test_bytes_that_came_behind_the_handshake_are_handed_over_too() -> None:
    async def main() -> None:
        rests = []
        ended = asyncio.Event()

        class Heir(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                ended.set()

        def hand_over(stream: LinkStream) -> None:
            transport, rest = stream.hand_over()
            rests.append(rest)
            transport.set_protocol(Heir())

        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: LinkStream(acceptor(), hand_over, lambda *frame: None, lambda *end: None), "127.0.0.1", 0
        )
        ours = socket.socket()
        ours.setblocking(False)
        await loop.sock_connect(ours, server.sockets[0].getsockname())
        handshake = dialer()
        await loop.sock_sendall(ours, handshake.start())
        await loop.sock_sendall(ours, handshake.feed(await loop.sock_recv(ours, 42)) + b"early")
        ours.shutdown(socket.SHUT_WR)
        await ended.wait()
        assert rests == [b"early"]
        ours.close()
        server.close()

    run(main)
