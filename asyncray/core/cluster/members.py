"""Members: this node's knowledge of the cluster, and its messages to the head.

The node joins once. Then it sends beats, which carry the fields of its row that changed, and gets views, which carry
what changed elsewhere. A member that is LOST or LEFT stays so for ever, and its NodeID never comes back.

A node that the head has declared lost must end: its actors may live elsewhere by then, and its names belong to others.
So must a node that cannot reach the head for ``CUT_OFF_AFTER`` seconds, because it cannot know whether it was declared
lost. Until then it works on. A head that ends in order announces that, and its nodes end at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from asyncray.cluster_messages import (
    ABORT,
    ANSWER,
    ASK,
    BEAT,
    COMMIT,
    FENCED,
    GROUP,
    HEAD_ENDS,
    INQUIRY,
    JOBS_OVER,
    JOIN,
    JOINED,
    LEAVING_CLUSTER,
    LEFT_CLUSTER,
    PACE,
    PREPARE,
    RELEASE_BUNDLES,
    TURNED_AWAY,
    VIEW,
)
from asyncray.core.outbox import Outbox
from asyncray.core.questions import Answer
from asyncray.core.records import Party

if TYPE_CHECKING:
    from asyncray.cluster_messages import MemberEntry
    from asyncray.cluster_words import ClusterRow, MemberFacts

JOINING: Final = "joining"
MEMBER: Final = "member"
LEAVING: Final = "leaving"
OUTSIDE: Final = "outside"
"""The node is a member no more, or never was one."""

EARLIEST_BEAT = 0.2
"""Seconds between two beats, if the row has changed. In a large cluster, whose beats are rarer, none comes early."""

SLOW_BEAT = 1.0
"""Seconds between beats from which on a cluster counts as large."""

CUT_OFF_AFTER = 60.0
"""Seconds without the head after which a node ends. Ray's raylets wait as long."""

MISSED_AFTER = 5.0
"""Seconds without the head after which the drivers of a node learn of it."""

MOST_ENDED = 10_000
"""The number of ended members that the head and each node remember."""

MOST_PAST = 100
"""The number of ended members that lists of nodes still show."""


class OtherNode:
    """A member as this node knows it, itself included. ``Members`` writes it."""

    __slots__ = ("facts", "row", "version")

    def __init__(self, facts: MemberFacts, version: int, row: ClusterRow) -> None:
        self.facts = facts
        self.version = version
        self.row = row

    def __repr__(self) -> str:
        return f"<OtherNode {self.facts['node'].hex()} {self.facts['host']}:{self.facts['port']}>"


class Watcher:
    """Learns what happens to members. The machines of the node override these methods."""

    def became_member(self, jobs: range) -> None:
        """This node is a member, with a block of job numbers."""

    def member_joined(self, member: OtherNode) -> None:
        """Another node is a member from now on."""

    def member_ended(self, node: bytes, state: str, how: str) -> None:
        """Another node is LOST or has LEFT."""

    def inquiry_came(self, number: int, method: str, arguments: Sequence[Any]) -> None:
        """The head asks a question that only this node can answer."""

    def view_changed(self) -> None:
        """Members have come or ended, or their rows have changed."""

    def grace_over(self, node: bytes) -> None:
        """No member needs anything any more that only this ended node kept alive."""

    def jobs_over(self, job_ids: Sequence[bytes]) -> None:
        """Jobs have ended where they began, and so on all nodes."""

    def must_end(self, why: str) -> None:
        """This node is no member any more and must stop."""


class Members:
    """The node's side of the head.

    Args:
        head: messages for the head go here.
        facts: those of this node.
        row: returns the row of this node as it is now.
        watcher: learns what happens.
    """

    def __init__(
        self, outbox: Outbox, head: Party, facts: MemberFacts, row: Callable[[], ClusterRow], watcher: Watcher
    ) -> None:
        self._outbox = outbox
        self.head = head
        self._facts = facts
        self._row = row
        self._watcher = watcher
        self.state = JOINING
        self.cluster = b""
        self.epoch = 0
        # Members that have not ended, this node among them, by NodeID.
        self.table: dict[bytes, OtherNode] = {}
        # NodeID -> (LOST or LEFT, how) of members that ended while this node was a member. The oldest come first, and
        # there are at most MOST_ENDED.
        self.ended: dict[bytes, tuple[str, str]] = {}
        # The last MOST_PAST of them, which lists of nodes show to people.
        self.past: dict[bytes, OtherNode] = {}
        self._beat_every = 0.0
        self._last_beat = 0.0
        # The row that the head knows, and how often it was sent.
        self._sent: ClusterRow | None = None
        self._version = 0
        # Ended nodes from which this node needs nothing any more, and which the head does not know of yet.
        self._settled: list[bytes] = []
        # The number of the last view.
        self._view = 0
        # The count of job numbers that each member has, and the numbers of this node.
        self._job_block = 0
        self._job_numbers = range(0)
        # Number of a question to the head -> the function that takes the answer.
        self._questions: dict[int, Callable[[Answer], None]] = {}
        self._asked = 0
        # Sends a text to the drivers of this node. ``ClusterMachine`` sets it.
        self.notify_drivers: Callable[[str], None] = lambda text: None
        # Takes a message about placement groups. ``MemberGroups`` sets it.
        self.take_group_word: Callable[[Any], None] = _refuse
        # Why this node is OUTSIDE. Empty before.
        self.why = ""
        # The reason that this node gave with its farewell.
        self._farewell = ""
        # The drivers of this node have had the notice that the head cannot be reached.
        self._is_missed = False

    def __repr__(self) -> str:
        return f"<Members {self.state} {len(self.table)}>"

    def others(self) -> Iterator[OtherNode]:
        """Yields the other members."""
        own = self._facts["node"]
        return (member for node, member in self.table.items() if node != own)

    def jobs_of(self, member: OtherNode) -> range:
        """Returns the numbers that jobs of a member have."""
        first = member.facts["joined"] * self._job_block
        return range(first, first + self._job_block)

    # To the head ------------------------------------------------------------------------------------------------------

    def join(self) -> None:
        """Asks the head to become a member."""
        self._sent = self._row()
        self._outbox.send(self.head, (JOIN, self._facts, self._sent))

    def leave(self, reason: str) -> None:
        """Says farewell. ``must_end`` follows when the head has answered."""
        if self.state == MEMBER:
            self.state = LEAVING
            self._farewell = reason
            self._outbox.send(self.head, (LEAVING_CLUSTER, reason))

    def ask(self, method: str, arguments: Sequence[Any], reply: Callable[[Answer], None]) -> None:
        """Puts a question to the head. ``reply`` gets the answer after a later event; OUTSIDE a fault, at once."""
        if self.state == OUTSIDE:
            reply(self._too_late())
            return
        self._asked += 1
        self._questions[self._asked] = reply
        self._outbox.send(self.head, (ASK, self._asked, method, arguments))

    def flush(self, now: float) -> None:
        """Sends a beat if the row has changed, not too often."""
        if self.state == MEMBER and now - self._last_beat >= self._earliest_beat:
            self._beat(now, always=False)

    def tick(self, now: float) -> None:
        """Some time has passed: sends a beat if one is due."""
        if self.state in (MEMBER, LEAVING) and now - self._last_beat >= self._beat_every:
            self._beat(now, always=True)

    @property
    def _earliest_beat(self) -> float:
        return EARLIEST_BEAT if self._beat_every < SLOW_BEAT else self._beat_every

    def _beat(self, now: float, *, always: bool) -> None:
        row = self._row()
        before: Mapping[str, Any] = self._sent or {}
        changes = {name: value for name, value in row.items() if before.get(name) != value}
        if changes:
            self._version += 1
            self._sent = row
        elif not always and not self._settled:
            return
        self._last_beat = now
        settled, self._settled = self._settled, []
        self._outbox.send(self.head, (BEAT, self._version, changes, settled))

    def settled(self, node: bytes) -> None:
        """This node has registered what it had from an ended node. ``Watcher.grace_over`` follows when all have."""
        self._settled.append(node)

    def head_is_away(self, seconds: float | None) -> None:
        """The connection to the head has been broken for this time. None: there is one."""
        if seconds is None:
            if self._is_missed:
                self._is_missed = False
                self.notify_drivers("the head of the cluster is back")
        elif seconds >= CUT_OFF_AFTER:
            self._end(f"it could not reach the head for {CUT_OFF_AFTER:g} s")
        elif seconds >= MISSED_AFTER and self.state == MEMBER and not self._is_missed:
            self._is_missed = True
            self.notify_drivers(
                "the head of the cluster cannot be reached. Names, placement groups and work of lost nodes wait, "
                f"and this node ends unless it comes back within {CUT_OFF_AFTER - seconds:.0f} s"
            )

    # From the head ----------------------------------------------------------------------------------------------------

    def receive(self, message: Any, now: float) -> None:
        """A message of the head came. It changes nothing any more if this node has ended meanwhile."""
        if self.state == OUTSIDE:
            return
        kind = message[0]
        if kind == VIEW:
            self._view_came(message)
        elif kind == ANSWER:
            _, number, ok, value = message
            self._questions.pop(number)((True, value) if ok else (False, *value))
        elif kind in (PREPARE, COMMIT, ABORT, RELEASE_BUNDLES, GROUP):
            self.take_group_word(message)
        elif kind == PACE:
            self._beat_every = message[1]
        elif kind == INQUIRY:
            self._watcher.inquiry_came(*message[1:])
        elif kind == JOBS_OVER:
            self._watcher.jobs_over(message[1])
        elif kind == JOINED:
            self._joined(message, now)
        elif kind in (TURNED_AWAY, FENCED):
            self.turned_away(message[1])
        elif kind == LEFT_CLUSTER:
            self._end(self._farewell)
        elif kind == HEAD_ENDS:
            self._end(f"the head has ended: {message[1]}")
        else:
            raise ValueError(f"the head sent a message of kind {kind}")

    def turned_away(self, why: str) -> None:
        """The head refuses the connection of this node."""
        self._end(why)

    def _joined(self, message: Any, now: float) -> None:
        _, self.cluster, self.epoch, self._beat_every, first, count, self._view, place, members = message
        self._last_beat = now
        self._facts = {**self._facts, "joined": place}
        self._job_block = count
        self._job_numbers = range(first, first + count)
        if members is not None:
            self._become_member(members)

    def _become_member(self, members: Sequence[MemberEntry]) -> None:
        assert self._sent is not None
        self.state = MEMBER
        self.table[self._facts["node"]] = OtherNode(self._facts, 0, self._sent)
        self._watcher.became_member(self._job_numbers)
        for entry in members:
            self._enter(entry)

    def _enter(self, entry: MemberEntry) -> None:
        facts, version, row = entry
        node = facts["node"]
        if node not in self.table and node not in self.ended:
            member = self.table[node] = OtherNode(facts, version, row)
            self._watcher.member_joined(member)

    def _view_came(self, message: Any) -> None:
        _, number, joined, gone, rows, over = message
        assert number == self._view + 1, f"view {number} follows view {self._view}"
        self._view = number
        if self.state == JOINING:
            # JOINED had no list of members: this is the first view, and names all.
            self._become_member(joined)
        for entry in joined:
            self._enter(entry)
        for node, version, changes in rows:
            member = self.table.get(node)
            if member is not None and version > member.version:
                member.version = version
                member.row = {**member.row, **changes}  # fields of a row
        for node, state, how in gone:
            self.ended[node] = (state, how)
            if len(self.ended) > MOST_ENDED:
                del self.ended[next(iter(self.ended))]
            member = self.table.pop(node, None)
            if member is not None:
                self.past[node] = member
                if len(self.past) > MOST_PAST:
                    del self.past[next(iter(self.past))]
                self._watcher.member_ended(node, state, how)
            else:
                self.settled(node)  # this node came after it
        for node in over:
            self._watcher.grace_over(node)
        self._watcher.view_changed()

    def _end(self, why: str) -> None:
        if self.state == OUTSIDE:
            return
        self.state = OUTSIDE
        self.why = why
        questions, self._questions = self._questions, {}
        for reply in questions.values():
            reply(self._too_late())
        self._watcher.must_end(why)

    def _too_late(self) -> Answer:
        return (False, "LocalNodeDiedError", {"message": f"The node of this process ends: {self.why}."})

    def check(self) -> None:
        """Raises AssertionError if the tables contradict each other."""
        assert not self.table.keys() & self.ended.keys(), "a member has ended and lives"
        assert self.past.keys() <= self.ended.keys(), "people are shown a member without its end"
        assert self.state == JOINING or self.state == OUTSIDE or self._facts["node"] in self.table, (
            f"{self} lacks itself"
        )


def _refuse(message: Any) -> None:
    raise ValueError(f"the head sent {message!r:.80}, and this node takes no such messages")
