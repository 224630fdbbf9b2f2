"""The connections of links, with the links of the core and carriers that keep all frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from asyncray.cluster_messages import PING, RESUME, VIEW
from asyncray.core.cluster.commands import CloseConnection, SendAgain, SendControl
from asyncray.core.cluster.links import Link
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.io.link_connections import LinkConnections


class Carrier:
    """A carrier that keeps its frames: (number, acknowledged, messages)."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, int, Any]] = []
        self.ends: list[str | None] = []
        self.drained = 0

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        self.frames.append((number, acknowledged, msgpack.unpackb(body, use_list=False)))

    def close(self) -> None:
        self.ends.append(None)

    def abort(self, why: str | None = None) -> None:
        self.ends.append(why)

    def drain_input(self) -> None:
        self.drained += 1


class Machine:
    """A machine with one peer."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.peer = Peer(1, b"node0002", Link(self.outbox, b"node0001", b"node0002", 0.0, dials=False))
        self.heard: list[Any] = []
        self.lost: list[int] = []
        self.changes = 0
        self.connections = LinkConnections(lambda: 1.0, self._received, self._disconnected, self._changed)

    def _received(self, peer: Peer, messages: Sequence[Any]) -> None:
        if messages[0][0] == 666:
            raise KeyError(666)
        self.heard += messages

    def _disconnected(self, peer: Peer, connection: int) -> None:
        self.lost.append(connection)
        peer.link.disconnected(connection, 1.0)

    def _changed(self) -> None:
        self.changes += 1
        commands, self.outbox.commands = self.outbox.commands, []
        for command in commands:
            if isinstance(command, SendControl):
                self.connections.send_control(command.connection, command.message)
            elif isinstance(command, SendAgain):
                self.connections.send_again(command.connection, command.frames)
            elif isinstance(command, CloseConnection):
                self.connections.close(command.connection)

    def open(self, number: int = 1) -> Carrier:
        """The peer has dialled."""
        carrier = Carrier()
        self.connections.add(carrier, self.peer)
        self.connections.arrived(carrier, 0, 0, 0, [(RESUME, number, 0)])
        return carrier


def test_messages_are_numbered_and_written_and_kept_without_a_connection() -> None:
    machine = Machine()
    machine.peer.out = [(1, "a")]  # type: ignore[list-item]  # any message
    machine.connections.write(machine.peer)
    carrier = machine.open()
    machine.peer.out = [(2, "b")]  # type: ignore[list-item]  # as above
    machine.connections.write(machine.peer)
    machine.connections.write(machine.peer)  # nothing is due
    assert carrier.frames == [(0, 0, ((RESUME, 1, 0),)), (1, 0, ((1, "a"),)), (2, 0, ((2, "b"),))]


def test_frames_reach_the_machine_once() -> None:
    machine = Machine()
    carrier = machine.open()
    for number in (1, 1, 2):
        machine.connections.arrived(carrier, number, 0, 5, [(7, number)])
    assert machine.heard == [(7, 1), (7, 2)]
    machine.connections.arrived(carrier, 0, 0, 0, [(PING,)])
    assert carrier.frames[-1][:2] == (0, 2)


def test_a_gap_and_an_invalid_message_end_the_connection() -> None:
    for number, message in ((5, (7, 1)), (1, (666,)), (0, (RESUME,))):
        machine = Machine()
        carrier = machine.open()
        machine.connections.arrived(carrier, number, 0, 5, [message])
        assert carrier.ends == ["it sent an invalid message"]
        assert machine.heard == []
        machine.connections.ended(carrier, carrier.ends[0])
        assert machine.lost == [1]


def test_the_end_of_a_connection_is_reported_once_and_what_came_before_is_read() -> None:
    machine = Machine()
    carrier = machine.open()
    machine.connections.ended(carrier, None)
    machine.connections.ended(carrier, None)
    assert (machine.lost, carrier.drained) == ([1], 1)
    machine.connections.arrived(carrier, 1, 0, 5, [(7, 1)])
    assert machine.heard == []


def test_a_connection_that_the_machine_has_closed_is_forgotten() -> None:
    machine = Machine()
    old = machine.open()
    new = machine.open(number=2)
    assert old.ends == [None]
    machine.connections.ended(old, None)
    assert machine.lost == []
    machine.connections.send_control(1, (PING,))
    machine.connections.send_again(1, [(1, b"")])
    machine.connections.close(1)
    machine.connections.drain(machine.peer)
    assert (old.drained, new.drained) == (0, 1)
    machine.connections.close_all()
    assert new.ends == [None]


def test_a_message_for_many_parties_is_packed_once() -> None:
    outbox = Outbox()
    written: list[bytes] = []

    class Keeper(Carrier):
        def write(self, body: bytes, number: int, acknowledged: int) -> None:
            written.append(body)

    connections = LinkConnections(lambda: 1.0, lambda *_: None, lambda *_: None, lambda: None)
    peers = [Peer(number, b"node%04d" % number, Link(outbox, b"head", b"n", 0.0, dials=False)) for number in range(3)]
    for peer in peers:
        connection = connections.add(Keeper(), peer)
        peer.link.control(connection, (RESUME, 1, 0), 0, 1.0)
    messages: list[Any] = [(7, "news"), (7, "news"), (VIEW, bytes(2 << 20)), (7, bytes(2 << 20))]
    for message in messages:
        written.clear()
        for peer in peers:
            peer.out = [message]
            connections.write(peer)
        bodies = {id(body) for body in written}
        # A large one that is no view is not kept for the next party: it goes to one only.
        assert len(bodies) == (1 if message[0] == VIEW or len(written[0]) < 1 << 20 else 3)
        assert {len(body) for body in written} == {len(written[0])}
    batch: list[Any] = [(7, 1), (7, 2)]
    peers[0].out = batch
    connections.write(peers[0])
    assert msgpack.unpackb(written[-1], use_list=False) == ((7, 1), (7, 2))
