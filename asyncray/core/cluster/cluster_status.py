"""The status of a node, with the tasks that wait at any node of its cluster.

The head asks the nodes. Status is for people who want to know why nothing moves, so it does not wait for a head that is
out of reach: after ``PATIENCE`` it comes with what this node knows, and names the nodes that did not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from asyncray.core.clock import Clock
from asyncray.core.cluster.members import Members
from asyncray.core.questions import LATER, Answer, Question

if TYPE_CHECKING:
    from asyncray.words import ClusterStatus, FarShapeRow, NodeStatus

PATIENCE = 2.0
"""Seconds for the answers of all nodes: more than the deadline of the head, less than that of the command."""


class _Open:
    """A question about the status."""

    __slots__ = ("found", "question", "until")

    def __init__(self, question: Question, found: NodeStatus, until: float) -> None:
        self.question = question
        self.found = found
        self.until = until

    def __repr__(self) -> str:
        return f"<_Open until {self.until:.1f}>"


class ClusterStatuses:
    """Answers questions about the status of this node.

    Args:
        node: the ID of this node.
        status: returns the status of this node alone.
    """

    def __init__(self, clock: Clock, node: bytes, members: Members, status: Callable[[Question], NodeStatus]) -> None:
        self._clock = clock
        self._node = node
        self._members = members
        self._status = status
        # Questions for which the answers of the other nodes have not come, by number, the oldest first.
        self._open: dict[int, _Open] = {}
        self._asked = 0

    def __repr__(self) -> str:
        return f"<ClusterStatuses {len(self._open)} open>"

    def status(self, question: Question) -> Any:
        """A client asks for the status."""
        found = self._status(question)
        others = [member.facts["node"] for member in self._members.others()]
        if not others:
            return self._with_others(found, [], [])
        self._asked += 1
        self._open[self._asked] = _Open(question, found, self._clock.now + PATIENCE)
        self._members.ask("gather", ["waiting"], partial(self._answered, self._asked))
        return LATER

    def _answered(self, number: int, answer: Answer) -> None:
        opened = self._open.pop(number, None)
        if opened is None:
            return  # it took too long
        if not answer[0]:
            opened.question.answer(self._without_answer(opened.found))
            return
        values, silent = answer[1]
        rows = [{**row, "node_id": node.hex()} for node, rows in values if node != self._node for row in rows]
        opened.question.answer(self._with_others(opened.found, cast("list[FarShapeRow]", rows), silent))

    def _without_answer(self, found: NodeStatus) -> ClusterStatus:
        return self._with_others(found, [], [member.facts["node"] for member in self._members.others()])

    @staticmethod
    def _with_others(found: NodeStatus, rows: list[FarShapeRow], silent: list[bytes]) -> ClusterStatus:
        return {**found, "waiting_elsewhere": rows, "silent_nodes": [node.hex() for node in silent]}

    def tick(self) -> None:
        """Some time has passed: gives answers without those of other nodes."""
        for number, opened in list(self._open.items()):
            if self._clock.now >= opened.until:
                del self._open[number]
                opened.question.answer(self._without_answer(opened.found))
