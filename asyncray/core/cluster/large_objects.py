"""Large objects between nodes: the machines that find, bring and send them, behind one door.

``Holders`` is the owner's side: it knows the nodes that have copies of an object. ``Pulls`` chooses the objects to
bring here, and the moment; ``Receiving`` brings each of them, ``CachedCopies`` keeps and drops the copies, and
``Serving`` sends memory of this node to others. ``FarValues`` carries values, small ones too, between the object table
and other nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from asyncray.cluster_messages import (
    FETCH,
    FETCHED,
    FREE,
    GONE,
    HOLDING,
    LOCATED,
    PROMOTE,
    SEEK,
    SOURCE,
    SOURCE_FAILED,
    UNHOLD,
    VALUE_OF,
    ObjectMessage,
    SourceMessage,
)
from asyncray.core.clock import Clock
from asyncray.core.cluster.cached_copies import CachedCopies
from asyncray.core.cluster.far_values import Dependents, FarValues
from asyncray.core.cluster.holders import Holders
from asyncray.core.cluster.imports import Imports
from asyncray.core.cluster.peers import Peer
from asyncray.core.cluster.pulls import Arguments, Pulls
from asyncray.core.cluster.receiving import Receiving
from asyncray.core.cluster.serving import Serving
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import ObjectEntry
from asyncray.core.store import Store


class StoringMachines(Protocol):
    """The machines of a node that store large objects: ``NodeMachine``."""

    node_id: bytes
    outbox: Outbox
    clock: Clock
    store: Store
    objects: Objects

    @property
    def work(self) -> Dependents:
        """The tasks of the node."""


class LargeObjects:
    """The large objects of a node that belongs to a cluster.

    Args:
        peer: returns the record of another node, also of one that has ended.
        describe: returns how a node ended, for people.
    """

    def __init__(
        self,
        machine: StoringMachines,
        imports: Imports,
        arguments: Arguments,
        peer: Callable[[bytes], Peer],
        describe: Callable[[bytes], str],
    ) -> None:
        outbox, store, objects, node = machine.outbox, machine.store, machine.objects, machine.node_id
        self.holders = holders = Holders(outbox, objects, node, peer, describe)
        self.copies = CachedCopies(outbox, store, objects, peer, holders.version_of, holders.elsewhere)
        self.pulls = pulls = Pulls(outbox, store, objects, self.copies, arguments)
        own_message = partial(holders.receive, node)
        self.receiving = pulls.receiving = Receiving(outbox, machine.clock, store, peer, own_message, pulls)
        self.serving = Serving(outbox, store, holders)
        self.values = values = FarValues(outbox, objects, imports, holders, pulls, self.copies, machine.work)
        self._clock = machine.clock
        self._peer = peer
        holders.locals = self
        self.handlers: dict[int, Callable[[Peer, Any], None]] = {
            VALUE_OF: values.value_of,
            LOCATED: values.located,
            SEEK: self._of_owner,
            SOURCE: self._source,
            SOURCE_FAILED: self._of_owner,
            HOLDING: self._of_owner,
            UNHOLD: self._of_owner,
            FREE: self.copies.freed,
            PROMOTE: self.copies.promote,
            FETCH: self.serving.fetch,
            FETCHED: self.serving.fetched,
            GONE: self.receiving.gone,
        }

    def __repr__(self) -> str:
        return f"<LargeObjects {self.holders} {self.pulls} {self.receiving} {self.serving}>"

    def _of_owner(self, peer: Peer, message: ObjectMessage) -> None:
        self.holders.receive(peer.id, message)

    def _source(self, peer: Peer, message: SourceMessage) -> None:
        _, object_id, _, number, node = message
        self.receiving.source(object_id, number, node)

    # Messages of the owner's side to this node itself -----------------------------------------------------------------

    def sourced(self, object_id: bytes, number: int, node: bytes) -> None:
        self.receiving.source(object_id, number, node)

    def keep(self, entry: ObjectEntry) -> None:
        self.copies.keep(entry)

    def lost(self, entry: ObjectEntry) -> None:
        self.pulls.lost(entry)

    # From the shell ---------------------------------------------------------------------------------------------------

    def range_sent(self, node: bytes, transfer: int, length: int, now: float) -> None:
        """The socket has taken all bytes of a ``SendRange``."""
        self._clock.now = now
        self.serving.range_sent(self._peer(node), transfer, length)

    def sending_failed(self, node: bytes, now: float) -> None:
        """The bulk connection on which this node sends to another one has ended, or could not be made."""
        self._clock.now = now
        self.serving.sending_failed(self._peer(node))

    def range_received(self, node: bytes, transfer: int, position: int, now: float) -> None:
        """All bytes of a transfer's object before this place are in memory."""
        self._clock.now = now
        self.receiving.range_received(transfer, position)

    def range_failed(self, node: bytes, transfer: int, why: str, now: float) -> None:
        """The system has no memory for bytes of a transfer."""
        self._clock.now = now
        self.receiving.range_failed(transfer, why)

    def receiving_failed(self, node: bytes, now: float) -> None:
        """The bulk connection on which another node sends to this one has ended."""
        self._clock.now = now
        self.receiving.receiving_failed(self._peer(node))

    # Events -----------------------------------------------------------------------------------------------------------

    def node_lost(self, peer: Peer) -> None:
        """A node is lost or has left. ``Imports.giver_lost`` follows: it ends the pulls of that node's objects."""
        self.serving.receiver_lost(peer)
        self.copies.owner_lost(peer.id)
        self.holders.node_lost(peer.id)
        self.receiving.source_lost(peer)

    def flush(self) -> bool:
        """All events of a batch have been handled. Returns True if tasks have become ready."""
        return self.pulls.flush()

    def check(self) -> None:
        """Raises AssertionError if an invariant is broken."""
        for machine in (self.holders, self.copies, self.pulls, self.receiving, self.serving):
            machine.check()
