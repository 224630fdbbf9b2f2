"""Pull sets: objects that are needed together on this node. ``pulls`` decides about them."""

from __future__ import annotations

from typing import Final

from asyncray.core.records import Client, ObjectEntry, Party, Task

READS: Final = 0
"""The class of pull sets that processes wait for."""
ARGUMENTS: Final = 1


class PullSet(Party):
    """Objects that are needed together. ``Pulls`` writes it.

    Args:
        client: the process that reads them. None: they are the arguments of ``task``.
    """

    __slots__ = ("absent", "admitted", "client", "entries", "located", "task", "unresolved")

    is_node = True

    def __init__(self, number: int, client: Client | None, task: Task | None) -> None:
        super().__init__(number)
        self.client = client
        self.task = task
        # Of a read: objects that the process has not got yet. Of a task: all arguments from other nodes.
        self.entries: dict[ObjectEntry, None] = {}
        # How many of these have no value yet.
        self.unresolved = 0
        # All objects were added and are resolved.
        self.located = False
        # There is room for all objects.
        self.admitted = False
        # Objects that are not here yet. Empty unless the pull set is admitted.
        self.absent: dict[ObjectEntry, None] = {}

    def __repr__(self) -> str:
        state = f"waits for {len(self.absent)}" if self.admitted else "located" if self.located else "not located"
        return f"<PullSet {self.number} of {self.client or self.task}, {len(self.entries)} objects, {state}>"

    @property
    def place(self) -> int:
        """READS or ARGUMENTS."""
        return READS if self.task is None else ARGUMENTS
