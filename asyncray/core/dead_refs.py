"""Dead refs: messages that name an object which the node does not have.

A ref keeps its object, so on one node only these cases are known: the ref came from a process of another node, by a
pickle that no message carried; or a task was ended from outside (cancelled, or its actor or job has ended), its
arguments were freed, and its process runs on and names them. Any other dead ref is a defect in the counting of refs,
which would show much later as a lost object. So every miss comes here: it is counted, and some of them are logged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncray.config import LOG_WARNING, REPORTED_SINGLY
from asyncray.core.outbox import LogLine, Outbox
from asyncray.core.records import Party
from asyncray.ids import NODE_SIZE


class DeadRefs:
    """Counts the misses of one node.

    Args:
        node_id: of this node. Its objects have IDs that begin with it.
    """

    __slots__ = ("_node_id", "_outbox", "count", "describe_owner")

    def __init__(self, outbox: Outbox, node_id: bytes) -> None:
        self._outbox = outbox
        self._node_id = node_id
        # All misses so far.
        self.count = 0
        # Says of another node, which has no such object or has ended, who it is and what has become of it. A node that
        # belongs to a cluster sets it.
        self.describe_owner: Callable[[bytes], str] | None = None

    def __repr__(self) -> str:
        return f"<DeadRefs {self.count}>"

    def add(self, object_id: bytes, what: str, party: Party | None = None) -> None:
        """Counts a miss, and logs the first ten, then the 100th, the 1000th, ...

        Args:
            object_id: of the object that the node does not have.
            what: a verb for the message, with its subject if no party sent it.
            party: the sender of the message.
        """
        self.count += 1
        if self.count <= REPORTED_SINGLY or str(self.count).strip("0") == "1":
            said = what if party is None else f"{party} {what}"
            text = f"{said} the object {object_id.hex()}, which this node does not have ({self.count} dead refs so far)"
            self._outbox.do(LogLine(LOG_WARNING, text))

    def fault(self, object_id: bytes) -> list[Any]:
        """Returns the fault that is the value of an object which this node, or the owner, does not have."""
        number = object_id.hex()
        owner = object_id[:NODE_SIZE]
        if owner == self._node_id:
            name = "ObjectLostError"
            why = f"The object {number} does not exist any more: its last reference was dropped, or its job has ended."
        elif self.describe_owner is not None:
            name = "OwnerDiedError"
            why = f"The object {number} is lost with its owner: {self.describe_owner(owner)}."
        else:
            name = "OwnerDiedError"
            why = (
                f"ObjectRef({number}) belongs to another node: it came from a process that is connected to that, by "
                "pickle or multiprocessing. Refs lead nowhere outside of the node on which they were made."
            )
        return [name, {"object_id": number, "message": why}]
