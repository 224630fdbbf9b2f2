"""How a test learns that a task runs, and lets it go on: datagrams instead of sleeping and looking."""

from __future__ import annotations

import itertools
import os
import socket

DEADLINE = 20.0
"""Seconds after which a bell that should have rung never will."""

_numbers = itertools.count()


class Bell:
    """Pickles into tasks. The side that made it receives the texts that they ring.

    Example::

        with Bell() as bell:
            ref = work.remote(bell)  # which calls bell.ring("begun") and bell.wait()
            assert bell.heard() == "begun"
            bell.let_go()
    """

    def __init__(self, name: str = "") -> None:
        self._name = name or f"\0asyncray-bell-{os.getpid()}-{next(_numbers)}"
        self._socket: socket.socket | None = None
        self._waiting: list[bytes] = []
        if not name:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(self._name)
            self._socket.settimeout(DEADLINE)

    def __enter__(self) -> Bell:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def __reduce__(self) -> tuple[type[Bell], tuple[str]]:
        return Bell, (self._name,)

    # In tasks ---------------------------------------------------------------------------------------------------------

    def ring(self, text: object = "") -> None:
        """Sends the test a text."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.sendto(str(text).encode(), self._name)

    def wait(self, text: object = "") -> None:
        """The same, and waits until the test lets it go. Holds the CPU meanwhile."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mine:
            mine.bind("")
            mine.sendto(str(text).encode(), self._name)
            mine.recv(1)

    # In the test ------------------------------------------------------------------------------------------------------

    def heard(self) -> str:
        """The next text that a task rings. Raises TimeoutError."""
        assert self._socket is not None
        text, address = self._socket.recvfrom(4096)
        if address:
            self._waiting.append(address)
        return text.decode()

    def take_waiting(self) -> list[bytes]:
        """The tasks that were heard and wait, in order. ``let_go`` without arguments does not know of them any more."""
        waiting, self._waiting = self._waiting, []
        return waiting

    def let_go(self, waiting: list[bytes] | None = None) -> None:
        """Lets tasks go that were heard and wait: all of them, or these."""
        assert self._socket is not None
        for address in self.take_waiting() if waiting is None else waiting:
            try:
                self._socket.sendto(b".", address)
            except ConnectionRefusedError:
                pass  # it was interrupted while it waited
