"""Bulk connections between simulated hosts: chunks are ordered, and arrive in order when a test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from asyncray.core.cluster.commands import CloseBulk, ReceiveRange, SendRange, StopReceiving
from tests.core.host import CELL, Host


class Bulk:
    """All bulk connections of a world.

    Args:
        host: returns a living host.
        events: returns what learns of a host's chunks: its ``LargeObjects``.
    """

    def __init__(self, host: Callable[[bytes], Host | None], events: Callable[[bytes], Any]) -> None:
        self._host = host
        self._events = events
        self.chunks: deque[tuple[bytes, SendRange]] = deque()
        self._ranges: dict[tuple[bytes, bytes, int], ReceiveRange] = {}

    def do(self, node: bytes, command: object) -> None:
        """A node's core gives a command; those that are not about bulk connections are left out."""
        if isinstance(command, SendRange):
            self.chunks.append((node, command))
        elif isinstance(command, ReceiveRange):
            self._ranges[node, command.node, command.transfer] = command
        elif isinstance(command, StopReceiving):
            self._ranges.pop((node, command.node, command.transfer), None)
        elif isinstance(command, CloseBulk):
            self.chunks = deque(one for one in self.chunks if {one[0], one[1].node} != {node, command.node})
            for key in [key for key in self._ranges if key[:2] == (node, command.node)]:
                del self._ranges[key]

    def deliver_one(self, now: float) -> None:
        """The next chunk is sent and arrives."""
        node, chunk = self.chunks.popleft()
        sender, receiver = self._host(node), self._host(chunk.node)
        if sender is None or receiver is None:
            return
        target = self._ranges.get((chunk.node, node, chunk.transfer))
        if target is not None:
            place = target.offset + chunk.position
            for cell in range(-(-chunk.length // CELL)):
                content = sender.memory[chunk.segment, chunk.offset // CELL + cell]
                receiver.memory[target.segment, place // CELL + cell] = content
        self._events(node).range_sent(chunk.node, chunk.transfer, chunk.length, now)
        sender.after()
        if target is not None:
            self._events(chunk.node).range_received(node, chunk.transfer, chunk.position + chunk.length, now)
            receiver.after()
