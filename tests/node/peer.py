"""The other end of a connection to a node, held by a test."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from asyncray.messages import HELLO, VERSION
from asyncray.wire.frames import Decoder, encode
from tests.greeting import DRIVER

HELLO_OF_DRIVER = (HELLO, VERSION, "driver", DRIVER)


def hello_of_worker(number: int) -> tuple[int, int, str, dict[str, int]]:
    return HELLO, VERSION, "worker", {"pid": 2, "number": number}


class Peer:
    """Sends messages, and keeps those that come."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._decoder = Decoder(1 << 30)
        self._unread: list[Any] = []  # messages that came with the one that ``hear_kind`` has returned

    async def say(self, *messages: Any) -> None:
        await self.say_bytes(encode(list(messages)))

    async def say_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def hear(self, count: int) -> list[Any]:
        """So many messages, or more if they come together; fewer if the connection ends."""
        heard, self._unread = self._unread, []
        while len(heard) < count:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20)
            if not data:
                break
            heard += self._decoder.feed(data)
        return heard

    async def hear_kind(self, kind: int) -> Any:
        """The next message of a kind; those before it are dropped."""
        while messages := await self.hear(1):
            for number, message in enumerate(messages, start=1):
                if message[0] == kind:
                    self._unread = messages[number:]
                    return message
        raise AssertionError(f"the connection has ended before a message of kind {kind}")

    async def ended(self) -> bool:
        """True once the other end has closed the connection."""
        while await self.hear(1):
            pass
        return True

    def close(self) -> None:
        self._socket.close()
