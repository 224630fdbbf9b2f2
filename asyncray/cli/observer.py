"""Finds nodes from outside, and asks them.

A small blocking connection with a deadline for every answer, unlike the runtime's: a tool must not hang because the
node does. Only ``request("stop")`` changes anything.
"""

from __future__ import annotations

import os
import time
from typing import Any, Self, TypedDict

from asyncray.config import FRAME_LIMIT
from asyncray.io.credentials import credentials_of
from asyncray.io.sessions import program_of, running, socket_of
from asyncray.messages import HELLO, REFUSED, REPLY, REQUEST, VERSION, WELCOME, Message, Received
from asyncray.runtime.launch import ADDRESS_SCHEME, connect
from asyncray.runtime.launch import close as close_connection
from asyncray.wire.frames import Decoder, encode

ANSWER_DEADLINE = 5.0
"""Seconds for an answer. A busy daemon needs milliseconds."""


class Observer:
    """A connection to a node that only asks. Use it with ``with``.

    Args:
        address: "auto" or ``unix:PATH``.
        deadline: seconds for each answer.

    Raises:
        ConnectionError: no node there, or it refused.
        TimeoutError: it did not answer.
        ValueError: not an address.

    Example::

        with Observer("auto") as observer:
            print(observer.request("status")["objects"])
    """

    def __init__(self, address: str, deadline: float = ANSWER_DEADLINE) -> None:
        self._deadline = deadline
        self._decoder = Decoder(FRAME_LIMIT)
        self._socket = connect(address)
        self.facts: dict[str, Any] = {}
        try:
            self._send((HELLO, VERSION, "observer", {"pid": os.getpid()}))
            answer = self._receive(WELCOME, REFUSED)
            if answer[0] == REFUSED:
                raise ConnectionError(f"The node at {address} refused the connection: {answer[1]}.")
            self.facts = answer[1]
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Observer {self.facts.get('address', 'closed')}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        close_connection(self._socket)

    def request(self, method: str, *arguments: Any) -> Any:
        """Asks, and waits for the answer. Raises ConnectionError or TimeoutError."""
        self._send((REQUEST, 1, method, arguments))
        return self._receive(REPLY)[2]

    def _send(self, message: Message) -> None:
        self._socket.settimeout(self._deadline)
        self._socket.sendall(encode([message]))

    def _receive(self, *kinds: int) -> Received:
        """The next message of one of these kinds. Drops others, which are not for tools."""
        end = time.monotonic() + self._deadline
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError("The node has closed the connection.")
            for message in self._decoder.feed(data):
                if message[0] in kinds:
                    return message
        raise TimeoutError(f"The node did not answer within {self._deadline:g} seconds.")


class OwnNode(TypedDict):
    """A node of this user on this machine."""

    address: str
    pid: int
    program: str | None
    """The command line of the program that has started it for itself; None for a node that programs share."""


def own_nodes() -> list[OwnNode]:
    """Returns this user's nodes on this machine, the newest first.

    Raises:
        OSError: the directory of sessions cannot be used.
    """
    return [
        {"address": f"{ADDRESS_SCHEME}{socket_of(directory)}", "pid": pid, "program": program_of(directory)}
        for pid, directory in listeners(private=True)
    ]


def listeners(*, private: bool) -> list[tuple[int, str]]:
    """Returns ``listener`` of each node of this user on this machine, the newest first.

    Args:
        private: with the nodes that programs have started for themselves.
    """
    found = []
    for directory in running():
        if not private and program_of(directory) is not None:
            continue
        try:
            found.append(listener(f"{ADDRESS_SCHEME}{socket_of(directory)}"))
        except ConnectionError:
            continue  # it ended meanwhile
    return found


def listener(address: str) -> tuple[int, str]:
    """Returns the pid and the session directory of the process that listens at an address, whether it answers or not.

    The pid is 0 where the system does not know it.

    Raises:
        ConnectionError: no process listens there, or one of another user.
        ValueError: not an address.
    """
    connection = connect(address)
    try:
        directory = os.path.dirname(os.path.realpath(connection.getpeername()))
        peer = credentials_of(connection)
        return 0 if peer is None else peer.pid, directory
    finally:
        close_connection(connection)
