"""Inquiries: the head asks nodes what only they know. Each ends within ``INQUIRY_DEADLINE``.

An inquiry ends with the node's answer, with its loss, or at the deadline. The first of these counts: an answer that
comes later is dropped, because its number is unknown by then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asyncray.cluster_messages import INQUIRY
from asyncray.core.head.membership import Member
from asyncray.core.outbox import Outbox
from asyncray.core.questions import Answer

INQUIRY_DEADLINE = 1.5
"""Seconds for the answer of a node. The next tick comes half a second later at most."""

MOST_INQUIRIES = 100_000
"""The most inquiries under way. Beyond that nodes do not answer, so a further one fails at once."""


class Inquiry:
    """One question to one node."""

    __slots__ = ("asked_at", "node", "reply")

    def __init__(self, node: bytes, reply: Callable[[Answer], None], asked_at: float) -> None:
        self.node = node
        self.reply = reply
        self.asked_at = asked_at

    def __repr__(self) -> str:
        return f"<Inquiry to {self.node.hex()} since {self.asked_at:.1f}>"


class Inquiries:
    """All inquiries of the head.

    Args:
        members: the members of the cluster by NodeID.
    """

    def __init__(self, outbox: Outbox, members: Mapping[bytes, Member]) -> None:
        self._outbox = outbox
        self._members = members
        # Number -> inquiry, the oldest first.
        self._open: dict[int, Inquiry] = {}
        self._asked = 0

    def __repr__(self) -> str:
        return f"<Inquiries {len(self._open)} open>"

    def ask(
        self, node: bytes, method: str, arguments: Sequence[Any], reply: Callable[[Answer], None], now: float
    ) -> None:
        """Asks a node. ``reply`` gets one answer, at once if the node is no member."""
        member = self._members.get(node)
        if member is None:
            reply(_failed(node, "it is no member of the cluster (any more)"))
        elif len(self._open) >= MOST_INQUIRIES:
            reply(_failed(node, "too many others wait for answers"))
        else:
            self._asked += 1
            self._open[self._asked] = Inquiry(node, reply, now)
            self._outbox.send(member.party, (INQUIRY, self._asked, method, arguments))

    def answered(self, node: bytes, number: int, answer: Answer) -> None:
        """The answer of a node came."""
        found = self._open.get(number)
        if found is not None and found.node == node:
            del self._open[number]
            found.reply(answer)

    def gather(self, method: str, arguments: Sequence[Any], reply: Callable[[Answer], None], now: float) -> None:
        """Asks all members. ``reply`` gets the values of those that answered (NodeID, value), and the other NodeIDs."""
        wanted = list(self._members)
        values: list[tuple[bytes, Any]] = []
        silent: list[bytes] = []

        def answered(node: bytes, answer: Answer) -> None:
            if answer[0]:
                values.append((node, answer[1]))
            else:
                silent.append(node)
            if len(values) + len(silent) == len(wanted):
                reply((True, [values, silent]))

        for node in wanted:
            self.ask(node, method, arguments, lambda answer, node=node: answered(node, answer), now)  # type: ignore[misc]  # the default binds it

    def node_ended(self, node: bytes) -> None:
        """A node is LOST or has LEFT."""
        for number in [number for number, found in self._open.items() if found.node == node]:
            self._open.pop(number).reply(_failed(node, "it has ended"))

    def tick(self, now: float) -> None:
        """Some time has passed: ends inquiries that took too long."""
        while self._open:
            number, oldest = next(iter(self._open.items()))
            if now - oldest.asked_at < INQUIRY_DEADLINE:
                return
            del self._open[number]
            oldest.reply(_failed(oldest.node, f"it has not answered for {INQUIRY_DEADLINE:g} s"))


def _failed(node: bytes, why: str) -> Answer:
    return (False, "NodeDiedError", {"node_id": node.hex(), "message": f"Node {node.hex()} gave no answer: {why}."})
