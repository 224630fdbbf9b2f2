"""The end of a connection: it is reported once, with its reason, and after everything that the peer wrote before."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from asyncray.io.socket_protocol import SocketProtocol


class End(SocketProtocol):
    """One end of a connection that takes bytes as they are. The test has the other end."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = b""
        # (reason, bytes taken until then) for each call of `ended`. The first call sets the event.
        self.ends: list[tuple[str | None, bytes]] = []
        self.has_ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self.taken += data

    def ended(self, why: str | None) -> None:
        self.drain_input()
        self.ends.append((why, self.taken))
        self.has_ended.set()


def run(main: Callable[[End, socket.socket], Coroutine[Any, Any, None]]) -> None:
    async def connected() -> None:
        ours, theirs = socket.socketpair()
        end = End()
        async with asyncio.timeout(20.0):
            with theirs:
                await asyncio.get_running_loop().create_unix_connection(lambda: end, sock=ours)
                await main(end, theirs)
                await end.has_ended.wait()
        assert len(end.ends) == 1
        assert (end.transport, end._descriptor) == (None, None)

    uvloop.run(connected())


def test_a_peer_that_hangs_up_is_a_plain_end() -> None:
    async def main(end: End, peer: socket.socket) -> None:
        peer.sendall(b"words")
        peer.close()
        await end.has_ended.wait()
        assert end.ends == [(None, b"words")]

    run(main)


def test_input_that_the_loop_has_not_read_yet_is_read_at_once() -> None:
    async def main(end: End, peer: socket.socket) -> None:
        end.drain_input()
        assert end.taken == b""
        peer.sendall(b"words")
        end.drain_input()
        assert end.taken == b"words"
        peer.sendall(b", last words")
        peer.close()
        end.drain_input()
        assert end.taken == b"words, last words"

    run(main)


def test_the_first_reason_is_reported_and_later_input_is_ignored() -> None:
    async def main(end: End, peer: socket.socket) -> None:
        peer.sendall(b"words")
        end.abort("the first reason")
        end.abort("the second reason")
        end.drain_input()
        await end.has_ended.wait()
        assert end.ends == [("the first reason", b"")]

    run(main)


def test_a_connection_that_is_closed_writes_what_is_due() -> None:
    async def main(end: End, peer: socket.socket) -> None:
        assert end.transport is not None
        end.transport.write(b"farewell")
        end.close()
        await end.has_ended.wait()
        assert peer.recv(100) == b"farewell"
        assert peer.recv(100) == b""
        assert end.ends == [(None, b"")]

    run(main)


def test_a_connection_for_which_no_descriptor_is_left_ends_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def dup(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async def main(end: End, peer: socket.socket) -> None:
        await end.has_ended.wait()
        assert end.ends == [("a connection needs another descriptor: Too many open files", b"")]
        assert peer.recv(1) == b""

    monkeypatch.setattr(os, "dup", dup)
    run(main)
