"""Received streams under uvloop, against a real socket whose other end the test holds."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
import uvloop

from asyncray.io import streams
from asyncray.io.streams import MessageStream
from asyncray.messages import DISCONNECT
from asyncray.wire import frames
from asyncray.wire.frames import Decoder, encode

LIMIT = 1 << 20
DEADLINE = 10.0


class End:
    """Records the messages of a stream, and its end."""

    def __init__(self, drains: bool = True) -> None:
        self.drains = drains
        self.messages: list[Any] = []
        self.closed: list[str | None] = []
        self.came = asyncio.Event()
        self.ended = asyncio.Event()
        self.stream = MessageStream(LIMIT, self._received, self._closed)

    async def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self.stream, sock=ours)
        return theirs

    def _received(self, stream: MessageStream, messages: list[Any]) -> None:
        self.messages += messages
        self.came.set()

    def _closed(self, stream: MessageStream, why: str | None) -> None:
        if self.drains:
            stream.drain_input()
        self.closed.append(why)
        self.ended.set()


def run(main: Any) -> None:
    uvloop.run(asyncio.sleep(0))  # the first loop of a process opens what it keeps
    before = os.listdir("/proc/self/fd")
    uvloop.run(asyncio.wait_for(main(), DEADLINE))
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_batches_go_both_ways() -> None:
    async def main() -> None:
        end = End()
        peer = await end.connect()
        peer.sendall(encode([(1, b"x"), (2,)]))
        await end.came.wait()
        assert end.messages == [(1, b"x"), (2,)]
        end.stream.send([(3,), (4,)])
        end.stream.close()
        await end.ended.wait()
        assert Decoder(LIMIT).feed(peer.recv(1 << 16)) == [(3,), (4,)]
        assert peer.recv(1) == b""
        peer.close()
        assert end.closed == [None]
        end.stream.send([(5,)])  # no process reads it
        end.stream.abort()

    run(main)


def test_what_a_peer_said_before_it_ended_is_heard_though_writing_to_it_fails() -> None:
    """1. the peer sends its last messages; 2. it ends, with something of ours unread; 3. our next write fails."""

    async def main() -> None:
        end = End()
        peer = await end.connect()
        end.stream.send([(0,)])
        await asyncio.sleep(0)
        peer.sendall(b"".join(encode([(number, b"x" * 1000)]) for number in range(100)))
        peer.close()
        end.stream.send([(1,)])
        await end.ended.wait()
        assert [message[0] for message in end.messages] == list(range(100))
        assert len(end.closed) == 1

    run(main)


def test_input_of_a_peer_is_read_at_once_where_its_end_is_known_from_elsewhere() -> None:
    async def main() -> None:
        end = End(drains=False)
        peer = await end.connect()
        end.stream.drain_input()
        assert end.messages == []
        peer.sendall(encode([(1,)]) + encode([(2,)]))
        peer.close()
        end.stream.drain_input()
        assert end.messages == [(1,), (2,)]
        await end.ended.wait()
        assert end.messages == [(1,), (2,)]
        end.stream.drain_input()

    run(main)


@pytest.mark.parametrize("sent", [(LIMIT + 1).to_bytes(4, "little"), b"\x01\x00\x00\x00\xc1"])
def test_nonsense_ends_the_stream_with_a_reason(sent: bytes) -> None:
    async def main() -> None:
        end = End()
        peer = await end.connect()
        peer.sendall(sent + encode([(1,)]))
        await end.ended.wait()
        assert end.messages == []
        assert end.closed[0]
        assert Decoder(LIMIT).feed(peer.recv(LIMIT)) == [(DISCONNECT, end.closed[0], False)]
        assert peer.recv(1) == b""
        peer.close()

    run(main)


def test_a_message_for_which_there_is_no_memory_ends_the_stream_with_that_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(body: memoryview) -> Any:
        raise MemoryError

    async def main() -> None:
        end = End()
        peer = await end.connect()
        monkeypatch.setattr(frames, "unpack", fail)
        peer.sendall(encode([(1,)]))
        await end.ended.wait()
        monkeypatch.undo()
        assert end.messages == []
        ((kind, why, _),) = Decoder(LIMIT).feed(peer.recv(LIMIT))
        assert (kind, why) == (DISCONNECT, "the node has no memory for a message of this process: MemoryError")
        assert end.closed == [why]
        peer.close()

    run(main)


def test_a_peer_that_never_reads_the_reason_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STOP_DEADLINE", 0.0)

    async def main() -> None:
        end = End()
        peer = await end.connect()
        end.stream.send([(1, b"x" * 10_000_000)])
        end.stream.disconnect("it is tired")
        await end.ended.wait()
        assert end.closed == ["it is tired"]
        peer.close()

    run(main)
