"""Lending: the owner's side of references between nodes. ``imports`` is the other side.

The owner keeps, for each of its objects, the set of nodes that have refs to it: they are borrowers as its own processes
are. Messages are not counted: their order on a link is enough.
"""

from __future__ import annotations

from typing import Any

from asyncray.cluster_messages import BORROWED, VALUE_OF
from asyncray.core.cluster.peers import Peer
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.messages import FAULT


class Lending:
    """Answers other nodes about the objects of this one."""

    def __init__(self, outbox: Outbox, objects: Objects) -> None:
        self._outbox = outbox
        self._objects = objects

    def __repr__(self) -> str:
        return f"<Lending of {self._objects}>"

    def borrow(self, peer: Peer, message: Any) -> None:
        """BORROW: another node has refs to objects of this one."""
        _, batch, object_ids = message
        lost = [object_id for object_id in object_ids if object_id not in self._objects.table]
        self._objects.hold(peer, [object_id for object_id in object_ids if object_id not in lost])
        self._outbox.send(peer, (BORROWED, batch, lost))

    def unborrow(self, peer: Peer, message: Any) -> None:
        """UNBORROW: another node has no refs to these objects any more."""
        known = [object_id for object_id in message[1] if object_id in peer.borrowed]
        self._objects.drop(peer, known)

    def resolve(self, peer: Peer, message: Any) -> None:
        """RESOLVE: another node wants values of this one."""
        for object_id in message[1]:
            if object_id in self._objects.table:
                self._objects.subscribe(peer, [object_id])
            else:
                fault = self._objects.dead_refs.fault(object_id)
                self._outbox.send(peer, (VALUE_OF, object_id, FAULT, fault, None))
