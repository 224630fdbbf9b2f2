"""A node's side of the placement groups of its cluster: carries out the orders of the head, and asks it.

Only the head decides about groups (``head_groups``). Its messages about a bundle come in their order,
because the link keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncray.cluster_messages import (
    ABORT,
    COMMIT,
    COMMITTED,
    GROUP,
    PREPARE,
    PREPARED,
    RELEASE_BUNDLES,
    UNSURE,
)
from asyncray.core.cluster.members import Members
from asyncray.core.machine import NodeMachine


class MemberGroups:
    """The placement groups of a node of a cluster."""

    def __init__(self, machine: NodeMachine, members: Members) -> None:
        self._outbox = machine.outbox
        self._members = members
        self._bundles = machine.bundles
        self._views = machine.group_views
        members.take_group_word = self.receive
        machine.group_views.ask = members.ask
        machine.bundles.unsure = self._unsure

    def __repr__(self) -> str:
        return f"<MemberGroups {self._bundles}>"

    def receive(self, message: Any) -> None:
        """A message of the head about groups."""
        kind = message[0]
        if kind == GROUP:
            self._views.changed(message[1])
        elif kind == PREPARE:
            self._prepare(message)
        elif kind == COMMIT:
            _, group, pairs = message
            self._bundles.commit(group, pairs)
            self._outbox.send(self._members.head, (COMMITTED, group, pairs))
        elif kind == ABORT:
            self._bundles.abort(message[1], message[2])
        else:
            assert kind == RELEASE_BUNDLES
            self._bundles.release(message[1], message[2])

    def _prepare(self, message: Any) -> None:
        _, group, bundles, patient = message
        # The name of the group is for messages, and its end for the error of its tasks.
        self._views.find(group)
        read = [
            (index, attempt, tuple((name, amount) for name, amount in demand)) for index, attempt, demand in bundles
        ]
        pairs = [(index, attempt) for index, attempt, _ in read]

        def reply(ready: bool) -> None:  # noqa: FBT001 - a callback
            self._outbox.send(self._members.head, (PREPARED, group, pairs, ready))

        self._bundles.prepare(group, read, reply, patient=patient)

    def _unsure(self, group: bytes, pairs: Sequence[tuple[int, int]]) -> None:
        self._outbox.send(self._members.head, (UNSURE, group, pairs))
