"""Receiving: brings one large object at a time from another node into this node's store. ``pulls`` decides which.

An object takes these steps, and room comes before everything else, so that no node waits for the room of another:

1. A claim gets room for the whole object.
2. The node seeks a source at the owner (SEEK), which names one node with a complete copy (SOURCE), at any time.
3. The node orders the bytes there (FETCH), and the shell writes them into the room as they come. A transfer that breaks
   goes on where it was, from the same node or from another, because a version has the same bytes everywhere.
4. With the last byte the memory becomes a copy, or the memory of an own object. The node reports that to the source
   (FETCHED), which may move the bytes from then on, and to the owner (HOLDING).

Each SEEK has a number, and each FETCH. Both are never used again, so an answer to an earlier one is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from asyncray.cluster_messages import FETCH, FETCHED, HOLDING, SEEK, SOURCE_FAILED, UNHOLD, GoneMessage, ObjectMessage
from asyncray.core.allocator import Allocation
from asyncray.core.claims import Claim
from asyncray.core.clock import Clock
from asyncray.core.cluster.commands import ReceiveRange, StopReceiving
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block, ObjectEntry
from asyncray.core.store import Store


class Arrivals(Protocol):
    """Learns how each pull ends: ``Pulls``."""

    def arrived(self, entry: ObjectEntry, block: Block) -> None:
        """All bytes are here."""

    def no_room(self, entry: ObjectEntry, why: str) -> None:
        """The store has refused the claim, or the system has no memory. The pull is cancelled."""

    crowded: dict[ObjectEntry, None]
    """Objects whose claims would wait in the store: these pulls are to be cancelled at the end of this batch."""


class Pull:
    """One object on its way here. ``Receiving`` writes it."""

    __slots__ = ("allocation", "claim", "entry", "patient", "received", "seek", "size", "source", "transfer", "version")

    def __init__(self, entry: ObjectEntry, *, patient: bool) -> None:
        self.entry = entry
        self.version, self.size = entry.payload
        # Its claim may wait in the store until others free memory.
        self.patient = patient
        # The claim, until it has ended.
        self.claim: Claim | None = None
        # The room for the object.
        self.allocation: Allocation | None = None
        # Bytes that are here: those before this place.
        self.received = 0
        # The number of its SEEK. 0: none was sent yet.
        self.seek = 0
        # The node that sends it, and the number of the transfer. 0: none is under way.
        self.source: Peer | None = None
        self.transfer = 0

    def __repr__(self) -> str:
        state = "claims room" if self.allocation is None else f"from {self.source}" if self.source else "seeks"
        return f"<Pull {self.entry.id.hex()} version {self.version} {self.received} of {self.size} bytes, {state}>"


class Receiving:
    """The objects on their way to this node.

    Args:
        peer: returns the record of another node.
        own_message: takes messages of this node about its own objects, as if another node had sent them.
        arrivals: learns how each pull ends.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        store: Store,
        peer: Callable[[bytes], Peer],
        own_message: Callable[[ObjectMessage], None],
        arrivals: Arrivals,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._store = store
        self._peer = peer
        self._own_message = own_message
        self._arrivals = arrivals
        # By object.
        self.pulls: dict[bytes, Pull] = {}
        # By number of the transfer.
        self._transfers: dict[int, Pull] = {}
        # The last numbers of a SEEK and of a transfer.
        self._seeks = 0
        self._fetches = 0

    def __repr__(self) -> str:
        return f"<Receiving {len(self.pulls)} objects, {len(self._transfers)} transfers>"

    @property
    def unclaimed(self) -> int:
        """Bytes of pulls whose claims wait for room."""
        return sum(pull.size for pull in self.pulls.values() if pull.allocation is None)

    # Room -------------------------------------------------------------------------------------------------------------

    def begin(self, entry: ObjectEntry, *, patient: bool) -> None:
        """Brings an object that is elsewhere."""
        assert entry.id not in self.pulls, f"{self.pulls[entry.id]} is under way"
        pull = self.pulls[entry.id] = Pull(entry, patient=patient)
        claim = Claim(pull.size, partial(self._granted, pull), partial(self._refused, pull), partial(self._waits, pull))
        if not self._store.request(claim, self._clock.now):
            pull.claim = claim

    def _granted(self, pull: Pull, allocation: Allocation) -> None:
        pull.claim = None
        pull.allocation = allocation
        if pull.size:
            self._seek(pull)
        else:
            self._complete(pull)

    def _refused(self, pull: Pull, why: str) -> None:
        pull.claim = None
        self.cancel(pull.entry)
        self._arrivals.no_room(pull.entry, why)

    def _waits(self, pull: Pull, begins: bool) -> None:  # noqa: FBT001 - a callback
        if begins and not pull.patient:
            self._arrivals.crowded[pull.entry] = None

    def cancel(self, entry: ObjectEntry) -> None:
        """Nothing needs the object here any more, or its owner is lost: ends the pull and frees its room."""
        pull = self.pulls.pop(entry.id)
        self._end_transfer(pull)
        if pull.seek:
            self._say(entry, (UNHOLD, [(entry.id, pull.version)]))
        if pull.allocation is not None:
            self._store.free(pull.allocation)
        if pull.claim is not None:
            self._store.withdraw([pull.claim])

    def begin_anew(self, entry: ObjectEntry, version: int, size: int) -> None:
        """The owner has another version of an object that is elsewhere (R46)."""
        pull = self.pulls.get(entry.id)
        if pull is not None:
            self.cancel(entry)
        entry.payload = [version, size]
        if pull is not None:
            self.begin(entry, patient=pull.patient)

    # Sources ----------------------------------------------------------------------------------------------------------

    def _seek(self, pull: Pull) -> None:
        self._seeks += 1
        pull.seek = self._seeks
        self._say(pull.entry, (SEEK, pull.entry.id, pull.version, pull.seek))

    def _say(self, entry: ObjectEntry, message: ObjectMessage) -> None:
        """Sends a message to the owner of an object."""
        if entry.far is None:
            self._own_message(message)
        else:
            self._outbox.send(entry.far.owner, message)

    def source(self, object_id: bytes, number: int, node: bytes) -> None:
        """The owner has named a node with a complete copy."""
        pull = self.pulls.get(object_id)
        if pull is None or pull.seek != number or pull.source is not None:
            return  # the pull was cancelled. UNHOLD has ended the assignment
        self._fetch(pull, self._peer(node))

    def _fetch(self, pull: Pull, source: Peer) -> None:
        allocation = pull.allocation
        assert allocation is not None and pull.source is None, f"{pull} has no room, or a source"
        if not source.alive:
            self._source_failed(pull, source.id)
            return
        self._fetches += 1
        pull.source, pull.transfer = source, self._fetches
        self._transfers[pull.transfer] = pull
        place = allocation.segment, allocation.offset, pull.size, pull.received, allocation.warm
        self._outbox.do(ReceiveRange(source.id, pull.transfer, *place))
        self._outbox.send(source, (FETCH, pull.transfer, pull.entry.id, pull.version, pull.received))

    def _source_failed(self, pull: Pull, node: bytes) -> None:
        self._say(pull.entry, (SOURCE_FAILED, pull.entry.id, pull.version, pull.seek, node))

    def _end_transfer(self, pull: Pull) -> None:
        source = pull.source
        if source is None:
            return
        del self._transfers[pull.transfer]
        if pull.received < pull.size:
            self._outbox.do(StopReceiving(source.id, pull.transfer))
        self._outbox.send(source, (FETCHED, pull.transfer))
        pull.source, pull.transfer = None, 0

    # Bytes ------------------------------------------------------------------------------------------------------------

    def range_received(self, transfer: int, position: int) -> None:
        """All bytes of the object before this place are here."""
        pull = self._transfers.get(transfer)
        if pull is None:
            return  # the transfer was cancelled in this batch of events
        pull.received = position
        if position >= pull.size:
            self._end_transfer(pull)
            self._complete(pull)

    def _complete(self, pull: Pull) -> None:
        entry, allocation = pull.entry, pull.allocation
        assert allocation is not None
        del self.pulls[entry.id]
        self._store.allocator.written(allocation)
        if entry.far is None:
            block = self._store.seal(entry.id, allocation)
        else:
            block = self._store.seal_copy(entry.id, pull.version, allocation)
        self._arrivals.arrived(entry, block)
        self._say(entry, (HOLDING, [(entry.id, pull.version)]))

    def range_failed(self, transfer: int, why: str) -> None:
        """The system has no memory for the bytes."""
        pull = self._transfers.get(transfer)
        if pull is not None:
            self.cancel(pull.entry)
            self._arrivals.no_room(pull.entry, f"The object store cannot grow by {pull.size} bytes: {why}")

    def gone(self, peer: Peer, message: GoneMessage) -> None:
        """GONE: the source sends nothing more of a transfer."""
        _, transfer, again = message
        pull = self._transfers.get(transfer)
        if pull is None:
            return  # the transfer was cancelled, and FETCHED is under way
        self._end_transfer(pull)
        if again:
            self._fetch(pull, peer)
        else:
            self._source_failed(pull, peer.id)

    def receiving_failed(self, peer: Peer) -> None:
        """The bulk connection to a node broke: what was under way is lost, and is ordered again."""
        for pull in self._from(peer):
            self._end_transfer(pull)
            self._fetch(pull, peer)

    def _from(self, peer: Peer) -> list[Pull]:
        return [pull for pull in self._transfers.values() if pull.source is peer]

    def source_lost(self, peer: Peer) -> None:
        """A node is lost: goes on from other nodes. ``pulls`` has cancelled the pulls of its own objects."""
        for pull in self._from(peer):
            self._end_transfer(pull)
            self._source_failed(pull, peer.id)

    def check(self) -> None:
        """Raises AssertionError if pulls and transfers contradict each other."""
        for object_id, pull in self.pulls.items():
            assert pull.entry.id == object_id and pull.entry.block is None, f"{pull} and {pull.entry}"
            assert list(pull.entry.payload) == [pull.version, pull.size], f"{pull} and {pull.entry.payload}"
            assert (pull.source is None) == (not pull.transfer), f"{pull} and transfer {pull.transfer}"
            assert pull.source is None or self._transfers[pull.transfer] is pull, f"{pull} is not in the table"
            assert (pull.allocation is None) or pull.seek, f"{pull} has room and seeks nothing"
        for transfer, pull in self._transfers.items():
            assert pull.transfer == transfer and self.pulls[pull.entry.id] is pull, f"{pull} has ended"
            assert pull.source is not None and pull.source.alive, f"{pull} comes from a lost node"
