"""The other end of a connection, played by the test: messages in, messages out, and no process."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from asyncray.config import FRAME_LIMIT
from asyncray.messages import HELLO, WELCOME
from asyncray.runtime.connection import Connection
from asyncray.runtime.runtime import Runtime
from asyncray.wire.frames import Decoder, encode_all

DEADLINE = 10.0

T = TypeVar("T", Connection, Runtime)

_WELCOME = (WELCOME, {"client_id": b"c" * 12, "node_id": b"n" * 8, "job_id": b"job1", "namespace": "here"})


class DaemonSide:
    """Reads what a connection sends, and answers as the test wants."""

    def __init__(self, stream: socket.socket) -> None:
        stream.settimeout(DEADLINE)
        self._stream = stream
        self._decoder = Decoder(FRAME_LIMIT)
        self._messages: deque[Any] = deque()

    def next(self, kind: int) -> list[Any]:
        """The next message of that kind; others before it are dropped. Waits for it."""
        return self.until(kind)[-1]

    def until(self, kind: int) -> list[list[Any]]:
        """All messages up to the next one of that kind. Waits for it."""
        found = []
        while True:
            while self._messages:
                found.append(list(self._messages.popleft()))
                if found[-1][0] == kind:
                    return found
            data = self._stream.recv(1 << 16)
            assert data, "the connection was closed"
            self._messages += self._decoder.feed(data)

    def next_of(self, *kinds: int) -> list[Any]:
        """The next message of one of these kinds; others before it are dropped. Waits for it."""
        while True:
            while self._messages:
                message = list(self._messages.popleft())
                if message[0] in kinds:
                    return message
            data = self._stream.recv(1 << 16)
            assert data, "the connection was closed"
            self._messages += self._decoder.feed(data)

    def send(self, *messages: Any) -> None:
        for frame in encode_all(list(messages)):
            self._stream.sendall(frame)

    def close(self) -> None:
        self._stream.close()


@contextmanager
def _welcomed(make: Callable[..., T]) -> Iterator[tuple[T, DaemonSide]]:
    ours, its = socket.socketpair()
    daemon = DaemonSide(its)
    client = make(ours, "driver", {}, lambda reason: None)
    try:
        daemon.send(_WELCOME)
        client.start()
        daemon.next(HELLO)
        yield client, daemon
    finally:
        client.stop(DEADLINE)
        daemon.close()


def connected() -> AbstractContextManager[tuple[Connection, DaemonSide]]:
    """A connection that was welcomed, and the daemon's side of it."""
    return _welcomed(Connection)


def started() -> AbstractContextManager[tuple[Runtime, DaemonSide]]:
    """The same for a whole runtime."""
    return _welcomed(Runtime)
