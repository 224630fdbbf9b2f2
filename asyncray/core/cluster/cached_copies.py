"""Cached copies: values of other nodes in this node's shared memory, as far as the node may drop them again.

The owner of a large object knows which nodes have it. One of them has the *primary* copy and keeps it until the owner
says that nothing needs the object. Every other copy is a cache: a node drops the one that it has not used for the
longest time when the store is full, and reports that to the owner (UNHOLD).

A copy stays while a party pins it, while an admitted pull set wants it (``pulls``), and while the owner cannot be
reached, because the owner may just have lost the primary copy and count on this one.

The owner itself may have a cached copy, of an own object whose primary copy is on another node.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

from asyncray.cluster_messages import UNHOLD, FreeMessage, PromoteMessage
from asyncray.core.cluster.peers import Peer
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, ObjectEntry
from asyncray.core.store import Store
from asyncray.ids import NODE_SIZE
from asyncray.messages import SHARED


class CachedCopies:
    """The copies on this node.

    Args:
        peer: returns the record of another node.
        version_of: returns the version of an own object.
        elsewhere: returns True if another node keeps the primary copy of an own object.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        objects: Objects,
        peer: Callable[[bytes], Peer],
        version_of: Callable[[ObjectEntry], int],
        elsewhere: Callable[[ObjectEntry], bool],
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._objects = objects
        self._peer = peer
        self._version_of = version_of
        self._elsewhere = elsewhere
        # Copies that may be dropped. The one that was used last comes last.
        self._cached: dict[Block, None] = {}
        # Copies that no owner will free, because it is lost or did so already. Each goes with its entry.
        self._orphans: dict[Block, None] = {}
        # Object -> how many admitted pull sets want its copy to stay.
        self.wanted: dict[bytes, int] = {}
        store.evict = self.evict

    def __repr__(self) -> str:
        return f"<CachedCopies {len(self._cached)}, {len(self.wanted)} wanted>"

    # Copies that come -------------------------------------------------------------------------------------------------

    def add(self, entry: ObjectEntry, block: Block) -> None:
        """A pull is complete: the entry has its memory."""
        self._cached[block] = None
        entry.block = block
        entry.payload = _place(block)

    def find(self, entry: ObjectEntry, payload: Any) -> Any:
        """A value that may be elsewhere is about to be entered: looks for a copy that is here already.

        Returns:
            its place. Without a copy: the payload as it is.
        """
        version, _ = payload
        block = self._store.copies.get(entry.id, {}).get(version)
        if block is None:
            return payload
        if not block.in_use:
            # 1. The copy was dropped while a process had a view of it. 2. A ref to the object came back.
            block.in_use = True
            self._orphans[block] = None
        entry.block = block
        self.used(entry)
        return _place(block)

    def attach(self, entry: ObjectEntry) -> bool:
        """Gives an entry that is elsewhere the copy that is here already. Returns False if there is none."""
        entry.payload = self.find(entry, entry.payload)
        return entry.block is not None

    def used(self, entry: ObjectEntry) -> None:
        """The copy was used now: all others are dropped before it."""
        block = entry.block
        if block in self._cached:
            del self._cached[block]
            self._cached[block] = None

    def __contains__(self, entry: ObjectEntry) -> bool:
        return entry.block in self._cached

    def keep(self, entry: ObjectEntry) -> None:
        """The copy of an own object is the primary one from now on."""
        if entry.block is not None:
            self._cached.pop(entry.block, None)

    # Eviction ---------------------------------------------------------------------------------------------------------

    def has_evictable(self, size: int, besides: Container[ObjectEntry]) -> bool:
        """Returns True if so many bytes of copies can be dropped, besides those of the named objects."""
        for block in self._cached:
            if size <= 0:
                break
            if self._evictable(block) and self._objects.table.get(block.id) not in besides:
                size -= block.allocation.size
        return size <= 0

    def _evictable(self, block: Block) -> bool:
        if block.pins or block.id in self.wanted:
            return False
        if block.version is None:
            return self._elsewhere(self._objects.table[block.id])
        owner = self._peer(block.id[:NODE_SIZE])
        return owner.alive and owner.link.broken_since is None

    def evict(self) -> Block | None:
        """Drops the copy that was not used for the longest time. The caller frees its memory."""
        for block in self._cached:
            if self._evictable(block):
                break
        else:
            return None
        del self._cached[block]
        block.in_use = False
        entry = self._objects.table.get(block.id)
        if entry is not None and entry.block is block:
            self._take(entry)
        if block.version is not None:
            self._outbox.send(self._peer(block.id[:NODE_SIZE]), (UNHOLD, [(block.id, block.version)]))
        return block

    def _take(self, entry: ObjectEntry) -> None:
        """The entry is elsewhere again."""
        block = entry.block
        assert block is not None
        version = self._version_of(entry) if block.version is None else block.version
        entry.block = None
        entry.payload = [version, block.allocation.size]

    # Copies that go ---------------------------------------------------------------------------------------------------

    def released(self, entry: ObjectEntry) -> None:
        """The entry is removed. The copy of another node's object stays, unless its owner can never free it."""
        block = entry.block
        if block is None:
            return
        if entry.far is None:
            self._cached.pop(block, None)  # the table frees it
            return
        entry.block = None
        if block in self._orphans:
            self._drop(block)

    def _drop(self, block: Block) -> None:
        self._cached.pop(block, None)
        self._orphans.pop(block, None)
        if block.in_use:
            self._store.object_freed(block)

    def freed(self, peer: Peer, message: FreeMessage) -> None:
        """FREE: nothing needs these objects of another node any more."""
        for object_id, version in message[1]:
            block = self._store.copies.get(object_id, {}).get(version)
            if block is not None:
                self._end(block)

    def _end(self, block: Block) -> None:
        """Drops a copy now, or once this node has no ref to the object."""
        entry = self._objects.table.get(block.id)
        if entry is not None and entry.block is block:
            self._cached.pop(block, None)
            self._orphans[block] = None
        else:
            self._drop(block)

    def promote(self, peer: Peer, message: PromoteMessage) -> None:
        """PROMOTE: these copies must stay until FREE. If this node has dropped one, the owner will get its UNHOLD."""
        for object_id, version in message[1]:
            block = self._store.copies.get(object_id, {}).get(version)
            if block is not None:
                self._cached.pop(block, None)

    def owner_lost(self, node: bytes) -> None:
        """A node is lost: its objects stay as long as processes here have refs to them."""
        ids = [object_id for object_id in self._store.copies if object_id.startswith(node)]
        blocks = [block for object_id in ids for block in self._store.copies[object_id].values()]
        table = self._objects.table
        # First those that stay, because to free memory may serve claims, and drop cached copies for them.
        for block in sorted(blocks, key=lambda block: block.id not in table):
            self._end(block)

    def check(self) -> None:
        """Raises AssertionError if a copy is in two states, or an entry and its copy contradict each other."""
        assert not self._cached.keys() & self._orphans.keys(), "a copy is cached and has no owner"
        for block in (*self._cached, *self._orphans):
            assert block.in_use, f"{block} was dropped and is in the tables"
        for entry in self._objects.table.values():
            copy = entry.block
            assert entry.kind == SHARED or copy is None, f"{entry} has {copy}"
            if entry.far is not None and copy is not None:
                assert self._store.copies[entry.id][copy.version or 0] is copy, f"{entry} has the copy {copy}"


def _place(block: Block) -> list[Any]:
    """Returns the payload for processes. It says that the value can be read again when it was given back."""
    allocation = block.allocation
    return [allocation.segment, allocation.offset, allocation.size, True]
