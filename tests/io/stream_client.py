"""A process that uses a channel, and the other end of its stream."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from typing import Any

from asyncray.io.channel import Channel
from asyncray.wire.frames import Decoder

DEADLINE = 10.0
LIMIT = 16 << 20


class Daemon:
    """The other end."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(DEADLINE)
        self.decoder = Decoder(LIMIT)

    def hear(self, count: int) -> list[Any]:
        heard: list[Any] = []
        while len(heard) < count:
            heard += self.decoder.feed(self.socket.recv(1 << 16))
        return heard


class Client:
    """A process that uses a channel. It records the messages that it posts and receives, and the end of the channel."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.daemon = Daemon(theirs)
        self.posted: deque[Any] = deque()
        self.portion = 1 << 30  # that is collected at once
        self.received: list[Any] = []
        # Free once something came. No semaphore: a signal handler that raises in its Python code leaves its lock taken.
        self.came = threading.Lock()
        self.came.acquire()
        self.closed: list[str] = []
        self.ended = threading.Event()
        self.channel = Channel(ours, LIMIT, self.collect, self.receive, self.close, lambda: False, lambda: None)

    def end(self) -> None:
        """For a client whose io thread was not started."""
        self.channel.stop(DEADLINE)
        self.daemon.socket.close()

    def collect(self) -> list[Any]:
        return [self.posted.popleft() for _ in range(min(self.portion, len(self.posted)))]

    def receive(self, messages: list[Any]) -> None:
        self.received += messages
        with contextlib.suppress(RuntimeError):  # it is free already
            self.came.release()

    def close(self, reason: str) -> None:
        self.closed.append(reason)
        self.ended.set()

    def post(self, *message: Any) -> None:
        self.posted.append(message)
        self.channel.request_flush()

    def wait(self, count: int, timeout: float = DEADLINE, *, spins: bool = False) -> bool:
        """Waits until so many messages have come in all. The thread reads for itself if no other thread does."""

        def done() -> bool:
            return len(self.received) >= count

        def otherwise(timeout: float | None) -> bool:
            return self.came.acquire(timeout=-1 if timeout is None else timeout) and done()

        return self.channel.read_until(done, otherwise, timeout, spins=spins)
