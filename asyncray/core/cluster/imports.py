"""Imports: objects of other nodes, and who keeps them alive while refs to them travel.

The owner of an object keeps the set of *nodes* that have refs to it, and no counters. A hand-over is covered: the node
that sends a ref keeps the object until the receiver has given the cover up (``covers``). The rules:

1. While a cover lives, the refs that came under it cost no message. Most refs end with their task.
2. When *any* cover ends, each object that was learned under it, is still needed and is not registered gets registered.
   Not only at the last cover: two nodes that cover each other would lose the object (scenario H9).
3. If the owner is the giver of the cover, BORROW goes before the message that gives the cover up, on the same link:
   that is enough. Otherwise that message waits until the owner has answered; the result does not wait, and says
   ``later``.
4. An import that nothing needs and no cover names is removed. If the owner knows of it, UNBORROW follows. A BORROW
   whose answer is still under way needs no care: messages on a link keep their order.
5. Refs inside a value are covered by the covers of the value, and, if this node is registered for the value, by the
   value itself: it is given up (UNBORROW) as any other cover is.

6. When a node X is lost, the covers that it gave end without a message: each node registers what it learned under them
   and still needs (``giver_lost``). The values of X's own objects count as such covers of the refs inside, also if
   another node gave the objects: it may not know their values, and then keeps nothing inside them alive. Everything
   that ends by the loss of X ends only when *all* members have done that: its borrows, the uses of tasks that it had,
   the claims that were kept for it. That time is X's grace. Otherwise an object is lost that only X kept alive for
   others (H10 and H11). No clock could bound how late a member learns of it.

What a node needs: refs of its processes, and uses by its own unfinished tasks and by values that it keeps.
``tests/sim/references.py`` checks the rules against an oracle. *Moreau, Dickman, Jones: Birrell's Distributed Reference
Listing Revisited, TOPLAS 27(6), 2005* proves the idea.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from asyncray.cluster_messages import BORROW, BORROWED, UNBORROW
from asyncray.core.cluster.covers import Cover, Import
from asyncray.core.cluster.peers import Peer
from asyncray.core.objects import Objects
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client, ObjectEntry, Party
from asyncray.ids import CLIENT_SIZE, NODE_SIZE
from asyncray.messages import FAULT


class Losses(Protocol):
    """Learns of objects of other nodes that do not exist any more: ``FarValues``."""

    def becomes_error(self, entry: ObjectEntry, kind: int, payload: Any) -> None:
        """The object has this error in place of its value, unless the value is here."""


class Imports:
    """The objects of other nodes that this node knows.

    Args:
        node: the ID of this node.
        peer: returns the record of another node.
    """

    def __init__(
        self,
        outbox: Outbox,
        objects: Objects,
        node: bytes,
        peer: Callable[[bytes], Peer],
    ) -> None:
        self._outbox = outbox
        self._objects = objects
        self._node = node
        self._peer = peer
        # ClientID -> a record that stands for a process of another node: the maker of the entries.
        self._makers: dict[bytes, Client] = {}
        # Number of a BORROW -> the imports that it named, until the answer.
        self._asked: dict[int, list[tuple[bytes, Import]]] = {}
        self._batches = 0
        # Removed entries whose owners do not know yet.
        self._freed: list[ObjectEntry] = []
        self._settling = False
        # Giver -> its covers that live here.
        self._living: dict[Party, dict[Cover, None]] = {}
        # Learns that objects are lost. ``FarValues`` enters itself.
        self.losses: Losses
        # Lost node -> its grace, as long as registrations are under way here for which it waits.
        self._graces: dict[Party, _Grace] = {}

    def __repr__(self) -> str:
        return f"<Imports of {len(self._makers)} processes, {len(self._asked)} batches under way>"

    # Opening ----------------------------------------------------------------------------------------------------------

    def open(self, object_id: bytes) -> ObjectEntry | None:
        """Makes an entry for an object of another node that came under no cover: it is registered at once."""
        entry = self._enter(object_id)
        if entry is not None:
            self._borrow(entry)
        return entry

    def _enter(self, object_id: bytes) -> ObjectEntry | None:
        if object_id[:NODE_SIZE] == self._node:
            return None
        maker_id = object_id[:CLIENT_SIZE]
        maker = self._makers.get(maker_id)
        if maker is None:
            maker = self._makers[maker_id] = Client(0, maker_id, "elsewhere", 0)
            maker.alive = False
        entry = ObjectEntry(object_id, maker, None)
        entry.held = False
        entry.far = Import(self._peer(object_id[:NODE_SIZE]))
        if not entry.far.owner.alive:
            entry.far.registered = True  # nobody is left to register with
            entry.kind, entry.payload = FAULT, self._objects.dead_refs.fault(object_id)
        self._objects.table.enter(entry)
        return entry

    def learn(self, cover: Cover, object_ids: Iterable[bytes]) -> None:
        """Refs came under a cover. Own objects need none."""
        for object_id in object_ids:
            entry = self._objects.table.get(object_id) or self._enter(object_id)
            if entry is not None and entry.far is not None:
                cover.learned[entry] = None
                entry.far.covers[cover] = None
                self._living.setdefault(cover.giver, {})[cover] = None

    # Ending -----------------------------------------------------------------------------------------------------------

    def end(self, cover: Cover) -> bool:
        """The reason for a cover has ended, and with it the uses that this node had for that reason.

        Returns:
            False if the cover is given up with the message that the caller sends now; True if that follows later.
        """
        assert not cover.ended, f"{cover} ends twice"
        cover.ended = True
        living = self._living.get(cover.giver)
        if living is not None:
            living.pop(cover, None)
            if not living:
                del self._living[cover.giver]
        entries, cover.learned = cover.learned, {}
        for entry in entries:
            assert entry.far is not None
            entry.far.covers.pop(cover, None)
        # Only now: what nothing needs is removed, and with a container the need of what is inside.
        for entry in entries:
            if not _needed(entry):
                self._objects.release(entry)
        for entry in entries:
            if _needed(entry):
                self._register(entry, cover)
        return cover.waiting > 0

    def _register(self, entry: ObjectEntry, cover: Cover) -> None:
        """The owner has to know of this node before the cover is given up."""
        far = entry.far
        assert far is not None
        if far.registered:
            return
        self._borrow(entry)
        if far.owner is cover.giver:
            far.registered = True  # the message that ends the cover follows on this link
        elif not far.registered:
            far.late.append(cover)
            cover.waiting += 1

    def keeps(self, entry: ObjectEntry) -> bool:
        return entry.far is not None and bool(entry.far.covers)

    def freed(self, entry: ObjectEntry) -> None:
        self._freed.append(entry)

    def settle(self) -> None:
        """Reports removed entries. Not recursive, because the end of a container may remove other entries."""
        if self._settling:
            return
        self._settling = True
        try:
            while self._freed:
                self._forget(self._freed.pop())
        finally:
            self._settling = False

    def _forget(self, entry: ObjectEntry) -> None:
        far = entry.far
        assert far is not None
        maker = entry.maker
        if not maker.made:
            self._makers.pop(maker.id, None)
        known = far.registered or far.batch
        far.registered = False
        far.batch = -1  # an answer that is under way concerns nobody
        later = far.container is not None and not far.container.ended and self.end(far.container)
        if known and not later:
            self._unborrow(far.owner, entry.id)
        late, far.late = far.late, []
        for cover in late:
            cover.registered()

    def _unborrow(self, owner: Party, object_id: bytes) -> None:
        self._outbox.send(owner, (UNBORROW, [object_id]))

    def _unborrow_late(self, owner: Party, object_id: bytes) -> None:
        """The objects inside a removed object are registered. The object itself may have come again."""
        entry = self._objects.table.get(object_id)
        far = None if entry is None else entry.far
        if far is None or not (far.registered or far.batch > 0):
            self._unborrow(owner, object_id)

    # Registration -----------------------------------------------------------------------------------------------------

    def _borrow(self, entry: ObjectEntry) -> None:
        far = entry.far
        assert far is not None
        if far.batch > 0 or far.registered:
            return
        assert far.owner.alive, f"{entry} {far} would be asked of a lost node"
        self._batches += 1
        far.batch = self._batches
        self._asked[far.batch] = [(entry.id, far)]
        self._outbox.send(far.owner, (BORROW, far.batch, [entry.id]))

    def borrowed(self, peer: Peer, message: Any) -> None:
        """BORROWED: the owner has registered this node."""
        _, batch, lost = message
        for object_id, far in self._asked.pop(batch, ()):
            if far.batch != batch:
                continue  # the import was removed meanwhile, and is perhaps known again
            far.batch = 0
            far.registered = True
            if object_id in lost:
                self._lose(object_id)
            late, far.late = far.late, []
            for cover in late:
                cover.registered()

    # Losses -----------------------------------------------------------------------------------------------------------

    def giver_lost(self, peer: Peer, settled: Callable[[], None]) -> None:
        """A node is lost: registers the needed objects that came from it, and gives up those that belonged to it.

        Args:
            settled: called when the owners of all these objects know of this node. The node's grace may end then.
        """
        grace = self._graces[peer] = _Grace(peer, partial(self._settled, peer, settled))
        covers = dict.fromkeys(self._living.get(peer, ()))
        for batch in self._asked.values():
            covers.update({cover: None for _, far in batch for cover in far.late if cover.giver is peer})
        for cover in covers:
            cover.replace_give_up(grace.cover_settled)
        owned = [entry for entry in self._objects.table.values() if entry.far and entry.far.owner is peer]
        inside = Cover(peer, grace.cover_settled)
        covers[inside] = None
        self.learn(inside, _unregistered_inside(owned))
        grace.covers += len(covers)
        for entry in owned:
            assert entry.far is not None
            entry.far.registered = True  # nobody is left to register with
        self._end_registrations(peer)
        for entry in owned:
            self._lose(entry.id)
        for cover in covers:
            if not cover.ended:
                self.end(cover)
            if not cover.waiting and not cover.given_up:
                cover.give_up()
        # The errors may have ended or moved code that names more objects of the node.
        self._end_registrations(peer)
        grace.cover_settled()

    def _end_registrations(self, owner: Peer) -> None:
        """No answer of a lost owner will come: the objects that it was asked for are lost."""
        for number in [number for number, batch in self._asked.items() if batch[0][1].owner is owner]:
            self.borrowed(owner, (BORROWED, number, [object_id for object_id, _ in self._asked[number]]))

    def _settled(self, peer: Peer, settled: Callable[[], None]) -> None:
        del self._graces[peer]
        settled()

    def grace_over(self, peer: Peer) -> None:
        """All members have registered what they had from a lost node: its borrows end."""
        self._objects.drop(peer, list(peer.borrowed))

    # Values -----------------------------------------------------------------------------------------------------------

    def contain(self, entry: ObjectEntry, contained: Sequence[bytes]) -> None:
        """The value of an import is known: refs inside it are covered as the import is."""
        far = entry.far
        assert far is not None
        if far.registered or far.batch:
            far.container = Cover(far.owner, lambda: self._unborrow_late(far.owner, entry.id))
            self.learn(far.container, contained)
        for cover in far.covers:
            self.learn(cover, contained)

    def _lose(self, object_id: bytes) -> None:
        entry = self._objects.table.get(object_id)
        if entry is not None:
            self.losses.becomes_error(entry, FAULT, self._objects.dead_refs.fault(object_id))

    def check(self) -> None:
        """Raises AssertionError if an import is kept by nothing, or a need is not secured."""
        for entry in self._objects.table.values():
            far = entry.far
            if far is None:
                continue
            assert _needed(entry) or far.covers, f"{entry} {far} is kept by nothing"
            secure = far.registered or far.batch > 0 or far.covers
            assert secure, f"{entry} {far} is needed and nothing secures it"
            assert not any(cover.ended for cover in far.covers), f"{far} has an ended cover"


def _needed(entry: ObjectEntry) -> bool:
    return bool(entry.uses or entry.borrowers)


def _unregistered_inside(entries: Iterable[ObjectEntry]) -> list[bytes]:
    """Returns the objects that refs inside values name, if their owners do not know of this node."""
    found: dict[ObjectEntry, None] = {}
    values = list(entries)
    while values:
        for inner in values.pop().contained:
            if inner.far is not None and not inner.far.registered and inner not in found:
                found[inner] = None
                values.append(inner)
    return [entry.id for entry in found]


class _Grace:
    """The grace of a lost node, as far as it depends on this node."""

    __slots__ = ("_settled", "covers", "peer")

    def __init__(self, peer: Peer, settled: Callable[[], None]) -> None:
        self.peer = peer
        self._settled = settled
        # Covers of that node with registrations under way, and one until all of them are counted.
        self.covers = 1

    def __repr__(self) -> str:
        return f"<_Grace of {self.peer} waits for {self.covers}>"

    def cover_settled(self) -> None:
        self.covers -= 1
        if not self.covers:
            self._settled()
