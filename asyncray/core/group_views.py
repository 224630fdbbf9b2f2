"""What a node knows of placement groups: their rows, each of which it asks for once and then gets at each change.

The machine that decides about groups (``groups``) is in this daemon if the node is alone, and at the head otherwise.
A machine that needs the place of a bundle calls ``find``, and learns of changes by a listener.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.core.group_records import MOST_REMOVED, REMOVED
from asyncray.core.questions import Answer

if TYPE_CHECKING:
    from asyncray.words import GroupRow

Ask = Callable[[str, Sequence[Any], Callable[[Answer], None]], None]
"""Puts a question to the machine that decides about groups. The answer comes at once, or after a later event."""


class GroupViews:
    """The placement groups whose rows this node needs.

    Args:
        ask: the way to the machine that decides. Joining a cluster replaces it.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        # Rows by ID of the group. Those of removed groups are the last MOST_REMOVED.
        self.rows: dict[bytes, GroupRow] = {}
        self._removed: dict[bytes, None] = {}
        # Groups whose rows are on their way here.
        self._asked: dict[bytes, None] = {}
        # Called with each row that has come or changed.
        self.listeners: list[Callable[[GroupRow], None]] = []

    def __repr__(self) -> str:
        return f"<GroupViews {len(self.rows)} groups>"

    def find(self, group: bytes) -> GroupRow | None:
        """Returns the row of a group. None: it is not known yet, and listeners get it as soon as it is.

        A group that the machine did not know may have been registered since: it is asked for again.
        """
        row = self.rows.get(group)
        if (row is None or not row["bundles"]) and group not in self._asked:
            self._asked[group] = None
            self.ask("watch_group", (group,), lambda answer: self._answered(group, answer))
            row = self.rows.get(group)
        return row

    def _answered(self, group: bytes, answer: Answer) -> None:
        found = answer[1] if answer[0] else None
        # A change that came before the answer is newer.
        if self._asked.pop(group, group) is None:
            self.changed(found if found is not None else _unknown(group))

    def changed(self, row: GroupRow) -> None:
        """A row has come or changed."""
        group = row["group_id"]
        before = self.rows.get(group)
        if before == row or (before is not None and before["state"] == REMOVED and before["bundles"]):
            return
        self._asked.pop(group, None)
        self._removed.pop(group, None)
        self.rows[group] = row
        if row["state"] == REMOVED:
            self._removed[group] = None
            if len(self._removed) > MOST_REMOVED:
                oldest = next(iter(self._removed))
                del self._removed[oldest], self.rows[oldest]
        for listener in self.listeners:
            listener(row)


def _unknown(group: bytes) -> GroupRow:
    """Returns the row of a group that the machine does not know: it ended long ago, or never existed."""
    return {
        "group_id": group,
        "namespace": "",
        "name": "",
        "strategy": "",
        "state": REMOVED,
        "bundles": [],
        "nodes": [],
        "attempts": 0,
        "detached": False,
        "why": "",
    }
