"""Membership: which nodes belong to the cluster, and which do not any more. Only the head decides that.

::

    ALIVE --silent, or its connection closed--> SUSPECT --heard again--> ALIVE
      |                                            |
      | leaves                                     | silent too long, or a probe is refused
      v                                            v
    LEFT                                         LOST

LOST and LEFT are final. A node that was declared lost is fenced: its messages change nothing, and it ends when it
learns of the verdict. The machine may join again only as a new node, with another NodeID.

A node is SUSPECT when its connection closes without a farewell, or when it is silent for ``SILENCE`` seconds. A closed
connection may be an accident of the network, so the verdict waits as long as silence does; but a probe that is
*refused* shows that the daemon is dead, and then it comes at once. Deadlines count only time in which the head's own
loop ran.

Every member gets a view: the facts about all members once, and then what changed. The view has a number, so a member
sees that none is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from asyncray.cluster_messages import FENCED, JOINED, LEFT_CLUSTER, PACE, TURNED_AWAY, VIEW
from asyncray.cluster_words import HOW_ENDED
from asyncray.core.cluster.commands import Probe
from asyncray.core.cluster.members import MOST_ENDED
from asyncray.core.outbox import LogLine, Outbox
from asyncray.core.records import Party

if TYPE_CHECKING:
    from asyncray.cluster_messages import MemberEntry, ViewMessage
    from asyncray.cluster_words import ClusterRow, MemberFacts

MEMBER_ALIVE: Final = "alive"
SUSPECT: Final = "suspect"
LOST: Final = "lost"
LEFT: Final = "left"

BEAT_EVERY = 0.5
"""Seconds between two beats of a node."""

SILENCE = 5.0
"""Seconds without a beat after which a node is lost: ten beats."""

PUSH_EVERY = 0.2
"""Seconds between two views, unless a member joined or ended: that is sent at once."""

FULL_VIEWS = 256
"""Up to this number of members, views hold all rows that changed, and news of members go out at once.

A node that joins more members gets the list of them with the next view: one list for all nodes that have joined since
the last. Otherwise the head would make and pack a list for each. See ``docs/scaling.md``.
"""

ROWS_IN_VIEW = 64
"""The most rows in a view for more members. The others follow in later views, those that wait longest first."""

NEWS_EVERY = 0.2
"""Seconds between two views with news of more members."""

SLOW_FROM = 1000
"""With more members, beats and views are rarer, and silence is longer, by this factor."""
SLOWER = 4.0

JOB_BLOCK = 4096
"""The number of job numbers that each node gets."""

_LOG_INFO = 20


class Member:
    """One node of the cluster. ``Membership`` writes it."""

    __slots__ = (
        "changed", "facts", "heard_at", "how", "party", "probing", "row", "state", "suspect_since", "version",
    )  # fmt: skip

    def __init__(self, facts: MemberFacts, row: ClusterRow, party: Party, now: float) -> None:
        self.facts = facts
        self.row = row
        # How often the row has changed.
        self.version = 0
        # Takes the messages for it.
        self.party = party
        self.state = MEMBER_ALIVE
        self.heard_at = now
        # When its connection closed, if it is not back yet.
        self.suspect_since: float | None = None
        # A probe is under way.
        self.probing = False
        # Fields of the row that changed since the last view.
        self.changed: dict[str, Any] = {}
        # How it ended, for people.
        self.how = ""

    def __repr__(self) -> str:
        return f"<Member {self.facts['node'].hex()} {self.facts['host']}:{self.facts['port']} {self.state}>"


class Membership:
    """All members of a cluster.

    Args:
        cluster: the ID of the cluster.
        epoch: counts the starts of the head.
        member_ended: learns that a node is LOST or has LEFT, and how.
    """

    def __init__(
        self,
        outbox: Outbox,
        cluster: bytes,
        epoch: int,
        member_ended: Callable[[bytes, str], None],
    ) -> None:
        self._outbox = outbox
        self._member_ended = member_ended
        self.cluster = cluster
        self.epoch = epoch
        # Members that are ALIVE or SUSPECT, by NodeID.
        self.table: dict[bytes, Member] = {}
        # NodeID -> how the member ended: at most MOST_ENDED, the oldest first.
        self.ended: dict[bytes, Member] = {}
        # Members that joined or ended since the last view.
        self._joined: list[Member] = []
        self._gone: list[Member] = []
        # The members of ``_joined`` that get the list of members with the next view.
        self._unlisted: dict[Member, None] = {}
        # Members whose rows changed since the last view.
        self._changed: dict[Member, None] = {}
        # Ended node -> members that may still need what only it kept alive.
        self._graces: dict[bytes, dict[bytes, None]] = {}
        # Ended nodes from which no member needs anything any more, since the last view.
        self._over: list[bytes] = []
        # The number of the last view, and when it was sent.
        self._view = 0
        self._pushed_at = 0.0
        # How much rarer beats and views are than in a small cluster.
        self._pace = 1.0
        # How many members there have been.
        self._count = 0

    def __repr__(self) -> str:
        return f"<Membership {len(self.table)} members>"

    @property
    def beat_every(self) -> float:
        """Seconds between two beats of each node."""
        return BEAT_EVERY * self._pace

    # Joining and leaving ----------------------------------------------------------------------------------------------

    def fenced(self, node: bytes) -> str | None:
        """Returns why a node can be no member any more, or None."""
        ended = self.ended.get(node)
        return None if ended is None else f"the cluster has declared this node {ended.state}: {ended.how}"

    def join(self, party: Party, facts: MemberFacts, row: ClusterRow, now: float) -> Member | None:
        """JOIN: a node wants to be a member. Returns it, or None if it cannot be one."""
        node = facts["node"]
        why = self.fenced(node)
        if why is None and node in self.table:
            why = "another node has the same ID and is a member: was this machine cloned while the node ran?"
        if why is not None:
            self._outbox.send(party, (TURNED_AWAY, why))
            return None
        self._set_pace(len(self.table) + 1)
        self._count += 1
        facts = {**facts, "joined": self._count}
        member = Member(facts, row, party, now)
        others = None
        if len(self.table) < FULL_VIEWS:
            others = [_entry(other) for other in self.table.values()]
        else:
            self._unlisted[member] = None
        self.table[node] = member
        self._joined.append(member)
        first = self._count * JOB_BLOCK
        self._outbox.send(
            party,
            (
                JOINED,
                self.cluster,
                self.epoch,
                self.beat_every,
                first,
                JOB_BLOCK,
                self._view,
                facts["joined"],
                others,
            ),
        )
        self._outbox.do(LogLine(_LOG_INFO, f"node {node.hex()} at {facts['host']}:{facts['port']} has joined"))
        return member

    def _set_pace(self, count: int) -> None:
        """Sets the time between beats for a cluster of ``count`` members."""
        pace = SLOWER if count > SLOW_FROM else 1.0
        # Back only well below the limit: each change is a message to every member.
        if pace == self._pace or (pace == 1.0 and count > SLOW_FROM * 0.8):
            return
        self._pace = pace
        for member in self.table.values():
            self._outbox.send(member.party, (PACE, self.beat_every))

    def beat(self, node: bytes, version: int, changes: Mapping[str, Any], now: float) -> None:
        """BEAT: a node lives, and some fields of its row have changed."""
        member = self.table.get(node)
        if member is None:
            return  # the verdict was faster: it is final
        self.heard(node, now)
        if version > member.version:
            member.version = version
            member.row = {**member.row, **changes}  # type: ignore[typeddict-item]  # fields of a row
            member.changed.update(changes)
            self._changed[member] = None

    def settled(self, node: bytes, ended: Sequence[bytes]) -> None:
        """A member needs nothing any more that only these ended nodes kept alive."""
        for other in ended:
            awaited = self._graces.get(other, {})
            if node in awaited:
                del awaited[node]
                if not awaited:
                    del self._graces[other]
                    self._over.append(other)

    def heard(self, node: bytes, now: float) -> None:
        """Something came from a node."""
        member = self.table.get(node)
        if member is not None:
            member.heard_at = now
            if member.state == SUSPECT:
                member.state = MEMBER_ALIVE
                member.suspect_since = None

    def leave(self, node: bytes, reason: str, now: float) -> None:
        """LEAVING_CLUSTER: a node ends in order."""
        member = self.table.get(node)
        if member is not None:
            self._outbox.send(member.party, (LEFT_CLUSTER,))
            self._end(member, LEFT, reason, now)

    # Losing -----------------------------------------------------------------------------------------------------------

    def disconnected(self, node: bytes, now: float) -> None:
        """The connection of a node has closed without a farewell."""
        member = self.table.get(node)
        if member is not None and member.suspect_since is None:
            member.state = SUSPECT
            member.suspect_since = now
            self._probe(member)

    def _probe(self, member: Member) -> None:
        if not member.probing:
            member.probing = True
            self._outbox.do(Probe(member.facts["node"], member.facts["host"], member.facts["port"]))

    def probed(self, node: bytes, *, refused: bool, now: float) -> None:
        """A probe has ended. A host that refuses the connection has no daemon there any more."""
        member = self.table.get(node)
        if member is not None:
            member.probing = False
        if member is not None and member.state == SUSPECT and refused:
            self.lose(node, "its daemon has ended: its port refuses connections", now)

    def lose(self, node: bytes, how: str, now: float) -> None:
        """Declares a node lost."""
        member = self.table.get(node)
        if member is not None:
            self._outbox.send(member.party, (FENCED, how))
            self._end(member, LOST, how, now)

    def _end(self, member: Member, state: str, how: str, now: float) -> None:
        node = member.facts["node"]
        member.state = state
        member.how = how
        del self.table[node]
        self._changed.pop(member, None)
        self._unlisted.pop(member, None)
        self._set_pace(len(self.table))
        self.ended[node] = member
        if len(self.ended) > MOST_ENDED:
            del self.ended[next(iter(self.ended))]
        if member in self._joined:
            self._push(now)  # members learn of it first, then of its end
        self._gone.append(member)
        self._member_ended(node, f"it {HOW_ENDED[state]}: {how}")
        self.settled(node, list(self._graces))
        if self.table:
            self._graces[node] = dict.fromkeys(self.table)
        self._outbox.do(LogLine(_LOG_INFO, f"node {node.hex()} at {member.facts['host']} {HOW_ENDED[state]}: {how}"))

    # Views ------------------------------------------------------------------------------------------------------------

    @property
    def push_wanted_at(self) -> float | None:
        """When the next view is due. None: nothing changed since the last one."""
        if self._joined or self._gone or self._over:
            return self._pushed_at + (0.0 if len(self.table) <= FULL_VIEWS else NEWS_EVERY)
        return self._pushed_at + PUSH_EVERY * self._pace if self._changed else None

    def flush(self, now: float) -> None:
        """Sends a view, if one is due."""
        wanted = self.push_wanted_at
        if wanted is not None and now >= wanted:
            self._push(now)

    def _push(self, now: float) -> None:
        self._pushed_at = now
        self._view += 1
        joined = [_entry(member) for member in self._joined]
        for member in self._joined:
            member.changed.clear()  # its row is in its entry
            self._changed.pop(member, None)
        gone = [(member.facts["node"], member.state, member.how) for member in self._gone]
        most = len(self.table) if len(self.table) <= FULL_VIEWS else ROWS_IN_VIEW
        rows: list[tuple[bytes, int, Mapping[str, Any]]] = []
        for member in list(islice(self._changed, most)):
            rows.append((member.facts["node"], member.version, member.changed))
            member.changed = {}
            del self._changed[member]
        unlisted, self._unlisted = self._unlisted, {}
        if unlisted:
            members = [_entry(member) for member in self.table.values()]
            whole: ViewMessage = (VIEW, self._view, members, gone, [], self._over)
            for member in unlisted:
                self._outbox.send(member.party, whole)
        view: ViewMessage = (VIEW, self._view, joined, gone, rows, self._over)
        for member in self.table.values():
            if member not in unlisted:
                self._outbox.send(member.party, view)
        self._joined, self._gone, self._over = [], [], []

    def tick(self, now: float, late: float) -> None:
        """Some time has passed.

        Args:
            late: seconds by which this tick comes too late, because the head's own loop did not run.
        """
        silence = SILENCE * self._pace
        for member in list(self.table.values()):
            member.heard_at += late
            if member.suspect_since is not None:
                member.suspect_since += late
            silent = now - member.heard_at
            if member.suspect_since is not None and now - member.suspect_since >= SILENCE:
                self.lose(member.facts["node"], f"its connection broke {SILENCE:g} s ago and did not come back", now)
            elif silent >= silence:
                self.lose(member.facts["node"], f"it was silent for {silent:.1f} s", now)
            elif member.suspect_since is not None:
                # 1. A daemon dies, and the system closes its connections. 2. The first probe gets through, because the
                # system has not closed the port yet. 3. The next one is refused.
                self._probe(member)
            elif silent >= silence / 2 and member.state == MEMBER_ALIVE:
                member.state = SUSPECT

    def check(self) -> None:
        """Raises AssertionError if the tables contradict each other."""
        for node, member in self.table.items():
            assert node == member.facts["node"], f"{member} is under the wrong ID"
            assert member.state in (MEMBER_ALIVE, SUSPECT), f"{member} has ended and is in the table"
            assert node not in self.ended, f"{member} has ended before"
            assert not member.changed or member in self._changed, f"the changes of {member} will not be sent"
        assert all(member.state in (LOST, LEFT) for member in self.ended.values()), "an ended member lives"


def _entry(member: Member) -> MemberEntry:
    return member.facts, member.version, member.row
