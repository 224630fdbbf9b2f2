"""Bulk connections between simulated hosts: chunks of large objects, which arrive in order, late, or never.

Memory of a host is made of cells (``tests.core.host``). A chunk is read from the sender's memory when it arrives,
because the system may read a page as late as that. A break loses the chunks under way, and each end notices it later.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from asyncray.core.cluster.commands import CloseBulk, ReceiveRange, SendRange, StopReceiving
from asyncray.core.cluster.large_objects import LargeObjects

if TYPE_CHECKING:
    from tests.sim.cluster_host import ClusterHost

NOTICED_AFTER = 1.0
"""Seconds after which a sender notices that nothing gets through."""


class BulkLine:
    """The bulk connection between two hosts. Each break begins a new age, and chunks of an earlier one are lost."""

    def __init__(self) -> None:
        self.age = 0
        self.last_arrival = 0.0


class Bulk:
    """The bulk connections of one host."""

    def __init__(self, host: ClusterHost) -> None:
        self._host = host
        self._ranges: dict[tuple[bytes, int], ReceiveRange] = {}

    def __repr__(self) -> str:
        return f"<Bulk of {self._host} {len(self._ranges)} ranges>"

    @property
    def _large(self) -> LargeObjects:
        return self._host.part.large

    def do(self, command: Any) -> bool:
        """Carries out a command. False if it is none of these."""
        if isinstance(command, SendRange):
            self._send(command)
        elif isinstance(command, ReceiveRange):
            self._ranges[command.node, command.transfer] = command
        elif isinstance(command, StopReceiving):
            self._ranges.pop((command.node, command.transfer), None)
        elif isinstance(command, CloseBulk):
            for key in [key for key in self._ranges if key[0] == command.node]:
                del self._ranges[key]
            self.break_line(command.node)
        else:
            return False
        return True

    def _send(self, command: SendRange) -> None:
        host, net = self._host, self._host.net
        receiver = host.cluster.hosts[command.node]
        line = host.cluster.bulk_line(host, receiver)
        host.clock.after(net.delay(), partial(self._sent, line, line.age, command))
        if net.is_cut(host, receiver) or not receiver.alive:
            host.clock.after(NOTICED_AFTER, partial(self._breaks, line, line.age, command.node))
            return
        line.last_arrival = max(host.clock.now + net.delay(), line.last_arrival)
        host.clock.at(line.last_arrival, partial(receiver.bulk.arrived, host, line, line.age, command))

    def _sent(self, line: BulkLine, age: int, command: SendRange) -> None:
        host = self._host
        if not host.is_deferred(partial(self._sent, line, age, command)) and host.alive and line.age == age:
            self._large.range_sent(command.node, command.transfer, command.length, host.clock.now)
            host.after()

    def _breaks(self, line: BulkLine, age: int, node: bytes) -> None:
        if line.age == age:
            self.break_line(node)

    def arrived(self, sender: ClusterHost, line: BulkLine, age: int, command: SendRange) -> None:
        """The last byte of a chunk has come."""
        host = self._host
        if host.is_deferred(partial(self.arrived, sender, line, age, command)):
            return
        target = self._ranges.get((sender.id, command.transfer))
        if not host.alive or not sender.alive or line.age != age or target is None:
            return
        end = command.position + command.length
        assert target.position <= command.position <= end <= target.size
        content = sender.node.look([command.segment, command.offset, command.length])
        host.node.write([target.segment, target.offset + command.position, command.length], content)
        if end == target.size:
            del self._ranges[sender.id, command.transfer]
        self._large.range_received(sender.id, command.transfer, end, host.clock.now)
        host.after()

    def break_line(self, node: bytes) -> None:
        """The connection to a node breaks."""
        host, other = self._host, self._host.cluster.hosts[node]
        host.cluster.bulk_line(host, other).age += 1
        for one, far in ((host, other), (other, host)):
            host.clock.after(host.net.delay(), partial(one.bulk.notice, far.id))

    def notice(self, node: bytes) -> None:
        """The daemon sees that a connection has broken."""
        host = self._host
        if not host.is_deferred(partial(self.notice, node)) and host.alive and node in host.part.peers:
            self._large.sending_failed(node, host.clock.now)
            self._large.receiving_failed(node, host.clock.now)
            host.after()
