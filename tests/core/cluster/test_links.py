"""Links between two nodes, with a model of the network between them: every frame arrives once, in order.

The model knows four faults of connections: one does not open, its ends learn of a break at different times, a break
loses the frames under way, and an end stays silent although it is open (a half-open connection).
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncray.cluster_messages import ACK, PING, RESUME
from asyncray.core.cluster.commands import CloseConnection, Dial, SendAgain, SendControl
from asyncray.core.cluster.links import (
    BROKEN_AFTER,
    BURIED,
    CONGESTED_BYTES,
    DEAD_AFTER,
    IDLE,
    LONGEST_REDIAL,
    OPEN,
    PING_AFTER,
    Link,
    LinkGap,
)
from asyncray.core.outbox import Outbox

NAMES = (b"nodeaaaa", b"nodebbbb")


class Wire:
    """One connection: the frames under way in each direction, and whether each end is open."""

    def __init__(self, number: int, dialler: int) -> None:
        self.number = number
        self.dialler = dialler
        self.under_way: tuple[deque[Any], deque[Any]] = (deque(), deque())  # towards 0, towards 1
        self.open = [True, True]
        self.black_hole = False

    def __repr__(self) -> str:
        return f"<Wire {self.number} of {self.dialler} open={self.open} {self.under_way}>"


class Pair:
    """Two nodes and the network between them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.outboxes = (Outbox(), Outbox())
        self.links = tuple(Link(self.outboxes[side], NAMES[side], NAMES[1 - side], 0.0) for side in (0, 1))
        self.dials: list[int] = []  # sides whose dials are under way
        self.wires: dict[int, Wire] = {}
        self.count = 0
        self.taken: tuple[list[Any], list[Any]] = ([], [])
        self.pushed: tuple[list[Any], list[Any]] = ([], [])

    def perform(self) -> None:
        for side in (0, 1):
            commands, self.outboxes[side].commands = self.outboxes[side].commands, []
            for command in commands:
                self._do(side, command)
            self.links[side].check()

    def _do(self, side: int, command: Any) -> None:
        if isinstance(command, Dial):
            assert command.node == NAMES[1 - side]
            self.dials.append(side)
            return
        wire = self.wires[command.connection]
        if isinstance(command, CloseConnection):
            wire.open[side] = False
        elif isinstance(command, SendControl):
            self._write(side, wire, (0, self.links[side].received, command.message))
        elif isinstance(command, SendAgain):
            for number, body in command.frames:
                self._write(side, wire, (number, self.links[side].received, body))

    def _write(self, side: int, wire: Wire, frame: Any) -> None:
        if wire.open[side] and not wire.black_hole:
            wire.under_way[1 - side].append(frame)

    def push(self, side: int, size: int = 10) -> None:
        link = self.links[side]
        body = len(self.pushed[side])
        self.pushed[side].append(body)
        number = link.push(body, size, self.now)
        if link.connection is not None:
            self._write(side, self.wires[link.connection], (number, link.received, body))
        self.perform()

    def dial_ends(self, works: bool) -> None:
        side = self.dials.pop(0)
        if works:
            self.count += 1
            self.wires[self.count] = Wire(self.count, side)
            self.links[side].dialled(self.count, self.now)
        else:
            self.links[side].dial_failed(self.now)
        self.perform()

    def deliver(self, wire: Wire, side: int) -> None:
        """The next frame, or the end of the stream, reaches a side."""
        link = self.links[side]
        if not wire.open[side]:
            wire.under_way[side].clear()
        elif wire.under_way[side]:
            number, acknowledged, body = wire.under_way[side].popleft()
            if number == 0:
                link.control(wire.number, body, acknowledged, self.now)
            elif link.take(wire.number, number, acknowledged, 10, self.now):
                self.taken[side].append(body)
        elif not wire.open[1 - side]:
            wire.open[side] = False
            link.disconnected(wire.number, self.now)
        self.perform()

    def reset(self, wire: Wire, side: int) -> None:
        """The connection breaks. One side learns of it; the frames under way may be lost."""
        wire.under_way[0].clear()
        wire.under_way[1].clear()
        if wire.open[side]:
            wire.open[side] = False
            self.links[side].disconnected(wire.number, self.now)
        self.perform()

    def tick(self, seconds: float, late: float = 0.0) -> None:
        self.now += seconds
        for link in self.links:
            link.tick(self.now, late)
        self.perform()

    def settle(self) -> None:
        """The network heals: everything under way arrives, and time passes."""
        for wire in self.wires.values():
            if wire.black_hole:
                self.reset(wire, 0)
                self.reset(wire, 1)
        for _ in range(400):
            moved = False
            while self.dials:
                self.dial_ends(works=True)
                moved = True
            for wire in list(self.wires.values()):
                for side in (0, 1):
                    while wire.open[side] and (wire.under_way[side] or not wire.open[1 - side]):
                        self.deliver(wire, side)
                        moved = True
                if wire.open == [False, False]:
                    del self.wires[wire.number]
            if not moved:
                self.tick(0.05)
                if all(self._rests(link) for link in self.links):
                    return
        raise AssertionError(f"no end: {self.links} {self.wires}")

    @staticmethod
    def _rests(link: Link) -> bool:
        return link.state in (IDLE, OPEN) and link.tick_wanted_at is None and not list(link.kept())


class Network(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()

    @rule(side=st.integers(0, 1))
    def push(self, side: int) -> None:
        self.pair.push(side)

    @precondition(lambda self: self.pair.dials)
    @rule(works=st.booleans())
    def dial_ends(self, works: bool) -> None:
        self.pair.dial_ends(works)

    @precondition(lambda self: self.pair.wires)
    @rule(data=st.data(), side=st.integers(0, 1), count=st.integers(1, 5))
    def deliver(self, data: st.DataObject, side: int, count: int) -> None:
        wire = data.draw(st.sampled_from(list(self.pair.wires.values())))
        for _ in range(count):
            self.pair.deliver(wire, side)

    @precondition(lambda self: self.pair.wires)
    @rule(data=st.data(), side=st.integers(0, 1))
    def reset(self, data: st.DataObject, side: int) -> None:
        self.pair.reset(data.draw(st.sampled_from(list(self.pair.wires.values()))), side)

    @precondition(lambda self: self.pair.wires)
    @rule(data=st.data())
    def swallow(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(list(self.pair.wires.values()))).black_hole = True

    @rule(seconds=st.sampled_from([0.05, 0.5, 1.0, 4.0]))
    def tick(self, seconds: float) -> None:
        self.pair.tick(seconds)

    @invariant()
    def frames_arrive_once_and_in_order(self) -> None:
        for side in (0, 1):
            taken = self.pair.taken[side]
            assert taken == self.pair.pushed[1 - side][: len(taken)]

    def teardown(self) -> None:
        self.pair.settle()
        for side in (0, 1):
            assert self.pair.taken[side] == self.pair.pushed[1 - side]
            assert self.pair.links[side].unacknowledged == 0


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.fixture
def pair() -> Pair:
    return Pair()


def linked(pair: Pair, dialler: int = 0) -> Wire:
    pair.push(dialler)
    pair.settle()
    (wire,) = pair.wires.values()
    return wire


def test_a_link_opens_at_the_first_need(pair: Pair) -> None:
    pair.tick(60.0)
    assert [link.state for link in pair.links] == [IDLE, IDLE]
    linked(pair)
    assert [link.state for link in pair.links] == [OPEN, OPEN]
    assert pair.taken == ([], [0])


def test_h15_of_two_dials_at_the_same_moment_that_of_the_smaller_id_stays(pair: Pair) -> None:
    pair.push(0)
    pair.push(1)
    pair.dial_ends(works=True)
    pair.dial_ends(works=True)
    pair.settle()
    (wire,) = pair.wires.values()
    assert wire.dialler == 0
    assert pair.taken == ([0], [0])


def test_h15_a_half_open_connection_does_not_hold_up_the_next(pair: Pair) -> None:
    old = linked(pair)
    pair.reset(old, 1)  # side 0 knows nothing
    pair.push(1)
    assert pair.links[0].state == OPEN
    pair.dial_ends(works=True)
    pair.settle()
    (wire,) = pair.wires.values()
    assert wire is not old
    assert pair.taken == ([0], [0])


def test_h15_frames_on_an_old_connection_count_no_more(pair: Pair) -> None:
    old = linked(pair)
    pair.push(1)
    late = old.under_way[0].popleft()
    pair.reset(old, 1)
    pair.dial_ends(works=True)
    (new,) = [wire for wire in pair.wires.values() if wire is not old]
    while new.under_way[0]:
        pair.deliver(new, 0)  # RESUME
    old.open[0] = True
    old.under_way[0].append(late)
    pair.deliver(old, 0)
    pair.settle()
    assert pair.taken[0] == [0]


def test_a_silent_connection_is_asked_and_then_broken(pair: Pair) -> None:
    wire = linked(pair)
    wire.black_hole = True
    pair.tick(PING_AFTER)
    assert pair.links[0].state == OPEN
    pair.tick(BROKEN_AFTER)
    assert pair.dials == [0, 1]
    assert wire.open == [False, False]


def test_a_dialled_connection_that_is_not_resumed_is_given_up(pair: Pair) -> None:
    pair.push(0)
    pair.dial_ends(works=True)
    (wire,) = pair.wires.values()
    wire.black_hole = True
    wire.under_way[1].clear()
    pair.tick(BROKEN_AFTER)
    assert wire.open[0] is False
    pair.settle()
    assert pair.taken == ([], [0])


def test_an_answered_ping_keeps_the_connection(pair: Pair) -> None:
    wire = linked(pair)
    for _ in range(5):
        pair.tick(PING_AFTER + 0.01)
        assert [frame[2][0] for frame in wire.under_way[0]] == [PING]
        while wire.under_way[0] or wire.under_way[1]:
            pair.deliver(wire, 0)
            pair.deliver(wire, 1)
    assert [link.state for link in pair.links] == [OPEN, OPEN]


def test_r6b_seconds_in_which_our_own_loop_stood_still_do_not_count(pair: Pair) -> None:
    linked(pair)
    pair.tick(60.0, late=59.5)
    assert [link.state for link in pair.links] == [OPEN, OPEN]


def test_dials_that_fail_come_again_after_longer_and_longer_pauses(pair: Pair) -> None:
    pair.push(0)
    times = []
    for _ in range(8):
        while not pair.dials:
            pair.tick(0.05)
        times.append(pair.now)
        pair.dial_ends(works=False)
    pauses = [round(later - earlier, 2) for earlier, later in itertools.pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(LONGEST_REDIAL, abs=0.06)
    assert pair.links[0].broken_since == 0.0


def test_a_dial_that_fails_after_the_other_side_has_dialled_changes_nothing(pair: Pair) -> None:
    linked(pair, dialler=1)
    link = pair.links[0]
    link.dial_failed(pair.now)
    assert link.state == OPEN
    assert link.connection is not None
    assert link.tick_wanted_at is None
    link.check()


def test_a_link_says_when_it_wants_to_dial_again_and_counts_no_time_of_a_loop_that_stood_still(pair: Pair) -> None:
    link = pair.links[0]
    pair.push(0)
    for failures in range(5):
        wanted = [link.tick_wanted_at]
        link.dial_failed(10.0 + failures)
        wanted.append(link.tick_wanted_at)
        assert wanted[0] is None  # the dial is under way
        assert wanted[1] is not None
        link.tick(wanted[1], 0.0)
    assert link.broken_since == 0.0
    link.tick(100.0, 60.0)
    assert link.broken_since == 60.0
    link.tick(101.0, 60.0)
    assert link.broken_since == 101.0  # never later than now


def test_the_head_asks_nobody_and_acknowledges_at_the_usual_tick(pair: Pair) -> None:
    outbox = Outbox()
    head = Link(outbox, NAMES[0], NAMES[1], 0.0, dials=False)
    head.control(1, (RESUME, 1, 0), 0, 0.0)
    outbox.commands.clear()
    head.tick(PING_AFTER, 0.0)
    head.tick(2 * BROKEN_AFTER, 0.0)
    assert (head.state, outbox.commands) == (OPEN, [])
    assert head.take(1, 1, 0, 10, 7.0)
    assert head.tick_wanted_at is None
    node = Link(outbox, NAMES[1], NAMES[0], 0.0, to_head=True)
    node.control(1, (RESUME, 1, 0), 0, 0.0)
    node.take(1, 1, 0, 10, 7.0)
    assert node.tick_wanted_at is None
    outbox.commands.clear()
    head.tick(7.1, 0.0)
    assert outbox.commands == [SendControl(1, (ACK,))]
    head.tick(7.0 + DEAD_AFTER, 0.0)
    assert isinstance(outbox.commands[-1], CloseConnection)


def test_large_batches_are_acknowledged_at_once_and_small_ones_by_the_tick(pair: Pair) -> None:
    wire = linked(pair)
    pair.push(0)
    pair.deliver(wire, 1)
    assert list(pair.links[0].kept()) == [2]
    assert pair.links[1].tick_wanted_at == pair.links[1].heard_at
    pair.tick(0.01)
    pair.deliver(wire, 0)
    assert list(pair.links[0].kept()) == []
    number = pair.links[0].push("large", 1 << 20, pair.now)
    assert pair.links[1].take(wire.number, number, 0, 1 << 20, pair.now)
    pair.perform()
    assert [frame[2] for frame in wire.under_way[0]] == [(ACK,)]


def test_a_link_is_congested_until_the_other_side_has_read(pair: Pair) -> None:
    linked(pair)
    pair.push(0, CONGESTED_BYTES + 1)
    assert pair.links[0].congested
    pair.settle()
    assert not pair.links[0].congested


def test_a_gap_is_a_defect_of_the_other_side(pair: Pair) -> None:
    wire = linked(pair)
    with pytest.raises(LinkGap, match="misses the frames before 3"):
        pair.links[1].take(wire.number, 3, 0, 10, pair.now)


def test_a_buried_link_keeps_nothing_and_answers_nobody(pair: Pair) -> None:
    wire = linked(pair)
    pair.push(0)
    pair.links[0].bury("the node is lost")
    pair.perform()
    assert wire.open[0] is False
    assert pair.links[0].state == BURIED
    pair.links[0].control(99, (RESUME, 7, 0), 0, pair.now)
    assert pair.outboxes[0].commands == [CloseConnection(99, "the node is lost or has left")]
    pair.outboxes[0].commands.clear()
    pair.links[0].tick(100.0, 0.0)
    pair.links[0].disconnected(wire.number, 100.0)
    assert pair.outboxes[0].commands == []
