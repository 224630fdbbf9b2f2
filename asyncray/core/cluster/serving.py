"""Serving: sends large objects, or the rest of them, to the nodes that order them.

A node orders a transfer by FETCH and ends it by FETCHED, with all bytes or without. Meanwhile it pins the memory as a
process does. The pin ends with FETCHED and not when the socket has taken the bytes: the system may read the pages
later. It stays also while the shell still has chunks to write, so memory under a chunk never changes.

Transfers to one node take turns, chunk by chunk, and at most ``WINDOW`` bytes wait in the shell for one node.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from asyncray.cluster_messages import GONE, FetchedMessage, FetchMessage
from asyncray.core.cluster.commands import CloseBulk, SendRange
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.records import Block
from asyncray.core.store import Store

CHUNK = 1 << 20
"""Bytes of a chunk, at most."""

WINDOW = 8 << 20
"""Bytes that the shell has at most for one node."""


class OwnObjects(Protocol):
    """Finds own objects: ``Holders``."""

    def own_block(self, object_id: bytes, version: int) -> Block | None:
        """Returns the memory of an own object if it has this version and is here."""


class _Transfer:
    __slots__ = ("block", "ended", "number", "position", "unsent")

    def __init__(self, number: int, block: Block, position: int) -> None:
        self.number = number
        self.block = block
        # The next byte that the shell gets.
        self.position = position
        # Bytes that the shell has and has not written.
        self.unsent = 0
        # The receiver has sent FETCHED.
        self.ended = False

    def __repr__(self) -> str:
        size = self.block.allocation.size
        return f"<_Transfer {self.number} {self.position} of {size} bytes{', ended' if self.ended else ''}>"


class _Receiver:
    """A node that fetches."""

    __slots__ = ("transfers", "turns", "unsent")

    def __init__(self) -> None:
        # By the numbers that the receiver gave them.
        self.transfers: dict[int, _Transfer] = {}
        # Those with bytes that the shell has not got.
        self.turns: deque[_Transfer] = deque()
        # Bytes that the shell has and has not written.
        self.unsent = 0

    def __repr__(self) -> str:
        return f"<_Receiver {len(self.transfers)} transfers, {self.unsent} bytes unsent>"


class Serving:
    """Transfers to other nodes.

    Args:
        own: finds own objects.
    """

    def __init__(self, outbox: Outbox, store: Store, own: OwnObjects) -> None:
        self._outbox = outbox
        self._store = store
        self._own = own
        self._receivers: dict[Peer, _Receiver] = {}

    def __repr__(self) -> str:
        return f"<Serving {len(self._receivers)} nodes>"

    def fetch(self, peer: Peer, message: FetchMessage) -> None:
        """FETCH: another node orders an object, or the rest of it.

        Raises:
            ValueError: the rest begins outside of the object, or the number is in use.
        """
        _, number, object_id, version, position = message
        block = self._own.own_block(object_id, version)
        if block is None:
            block = self._store.copies.get(object_id, {}).get(version)
        if block is None or not block.in_use:
            self._outbox.send(peer, (GONE, number, False))
            return
        receiver = self._receivers.get(peer)
        if receiver is None:
            receiver = self._receivers[peer] = _Receiver()
        if not 0 <= position < block.allocation.size or number in receiver.transfers:
            raise ValueError(f"{peer} fetches {block} from {position} with the number {number}")
        self._store.pin(block, peer)
        transfer = receiver.transfers[number] = _Transfer(number, block, position)
        receiver.turns.append(transfer)
        self._pump(peer, receiver)

    def _pump(self, peer: Peer, receiver: _Receiver) -> None:
        turns = receiver.turns
        while turns and receiver.unsent < WINDOW:
            transfer = turns.popleft()
            allocation = transfer.block.allocation
            length = min(CHUNK, allocation.size - transfer.position)
            place = allocation.segment, allocation.offset + transfer.position, length
            self._outbox.do(SendRange(peer.id, transfer.number, transfer.position, *place))
            transfer.position += length
            transfer.unsent += length
            receiver.unsent += length
            if transfer.position < allocation.size:
                turns.append(transfer)

    def range_sent(self, peer: Peer, number: int, length: int) -> None:
        """The socket has taken a chunk."""
        receiver = self._receivers.get(peer)
        transfer = None if receiver is None else receiver.transfers.get(number)
        if receiver is None or transfer is None:
            return  # the node was lost, or the connection broke
        transfer.unsent -= length
        receiver.unsent -= length
        if transfer.ended:
            self._close(peer, receiver, transfer)
        self._pump(peer, receiver)

    def fetched(self, peer: Peer, message: FetchedMessage) -> None:
        """FETCHED: the receiver reads no more of a transfer."""
        receiver = self._receivers.get(peer)
        transfer = None if receiver is None else receiver.transfers.get(message[1])
        if receiver is None or transfer is None:
            return  # the object had no memory here: GONE was sent
        transfer.ended = True
        if transfer in receiver.turns:
            receiver.turns.remove(transfer)
        self._close(peer, receiver, transfer)

    def _close(self, peer: Peer, receiver: _Receiver, transfer: _Transfer) -> None:
        if transfer.unsent:
            return
        del receiver.transfers[transfer.number]
        if not receiver.transfers:
            del self._receivers[peer]
        self._store.unpin(peer, transfer.block.id, 1)

    def sending_failed(self, peer: Peer) -> None:
        """The bulk connection to a node broke, with everything that was under way."""
        receiver = self._receivers.get(peer)
        if receiver is None:
            return
        receiver.turns.clear()
        receiver.unsent = 0
        for transfer in list(receiver.transfers.values()):
            transfer.unsent = 0
            if transfer.ended:
                self._close(peer, receiver, transfer)
            else:
                self._outbox.send(peer, (GONE, transfer.number, True))

    def receiver_lost(self, peer: Peer) -> None:
        """A node is lost: its transfers end, and its pins."""
        self._outbox.do(CloseBulk(peer.id))
        if self._receivers.pop(peer, None) is not None:
            self._store.unpin_all(peer)

    def check(self) -> None:
        """Raises AssertionError if transfers and pins contradict each other."""
        for peer, receiver in self._receivers.items():
            assert peer.alive and receiver.transfers, f"{receiver} of {peer}"
            transfers = receiver.transfers.values()
            assert receiver.unsent == sum(transfer.unsent for transfer in transfers) < WINDOW + CHUNK, f"{receiver}"
            for transfer in transfers:
                assert peer in transfer.block.pins, f"{transfer} does not pin {transfer.block}"
            assert all(transfer in transfers and not transfer.ended for transfer in receiver.turns), f"{receiver}"
            rest = [transfer for transfer in receiver.turns if transfer.position < transfer.block.allocation.size]
            assert len(rest) == len(receiver.turns), f"{receiver} has turns without bytes"
