"""The objects of a node, found by ID.

Each maker holds the objects that it made, so that its end concerns only them. An object is in no second table: a
hundred thousand objects would pay for it with 5 MB. The ID of an object names its maker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from asyncray.ids import CLIENT_SIZE

if TYPE_CHECKING:
    from asyncray.core.records import ObjectEntry

NOTHING_MADE: Mapping[bytes, ObjectEntry] = {}
"""Stands for the table of a process that made nothing."""


class ObjectTable(Mapping[bytes, "ObjectEntry"]):
    """All objects by ID. ``Objects`` adds and removes them, in ``Client.made``."""

    def __init__(self) -> None:
        # ID of a process -> its ``Client.made``, while that is not empty. The process may have ended. ``Objects``
        # writes it, and on the hot path finds objects here, without a call.
        self.makers: dict[bytes, dict[bytes, ObjectEntry]] = {}

    def __repr__(self) -> str:
        return f"<ObjectTable {len(self)} objects of {len(self.makers)} makers>"

    def __getitem__(self, object_id: bytes) -> ObjectEntry:
        return self.makers[object_id[:CLIENT_SIZE]][object_id]

    def __iter__(self) -> Iterator[bytes]:
        return (object_id for made in self.makers.values() for object_id in made)

    def __len__(self) -> int:
        return sum(map(len, self.makers.values()))

    def enter(self, entry: ObjectEntry) -> None:
        """Adds an object whose ID is in no table."""
        made = entry.maker.made
        if not made:
            self.makers[entry.maker.id] = made
        made[entry.id] = entry
