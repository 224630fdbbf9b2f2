"""Locality: the node that has most of a task's large arguments already.

Only arguments in shared memory count, and only if moving them would cost more than a moment. Of an object of another
node this node knows one place without asking: its owner.
"""

from __future__ import annotations

from asyncray.core.cluster.holders import Holders
from asyncray.core.records import Task
from asyncray.messages import SHARED

LEAST = 1 << 20
"""Bytes that a node must have before a task goes to it for that reason."""


class Locality:
    """Where the arguments of tasks are.

    Args:
        node: the ID of this node.
        holders: knows the copies of own objects.
    """

    def __init__(self, node: bytes, holders: Holders) -> None:
        self._node = node
        self._holders = holders

    def __repr__(self) -> str:
        return f"<Locality of {self._holders}>"

    def best(self, task: Task) -> bytes | None:
        """Returns the node with more than half of the large arguments, or None."""
        total = 0
        there: dict[bytes, int] = {}
        for entry in task.dependencies:
            if entry.kind != SHARED:
                continue
            size = entry.payload[1] if entry.block is None else entry.block.allocation.size
            total += size
            nodes = [*self._holders.nodes(entry)] if entry.far is None else [entry.maker.id[: len(self._node)]]
            if entry.block is not None:
                nodes.append(self._node)
            for node in dict.fromkeys(nodes):
                there[node] = there.get(node, 0) + size
        # This node wins a tie, because nothing has to move then.
        most = max(there, key=lambda node: (there[node], node == self._node), default=None)
        return most if most is not None and there[most] >= LEAST and 2 * there[most] > total else None
