"""Garbage at other nodes: refs in cycles that no process has collected yet keep objects alive here.

While the store is full, a node asks its own processes to collect garbage. A process of another node may hold the last
ref to a large object here, and may itself wait for room, so that it never collects. So the node asks the nodes as well
to which it has links: each with a ref to an object here is among them. It asks again while the store stays full, but
not too often, because a collection stops all processes of a node for milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncray.cluster_messages import COLLECT
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from asyncray.core.records import Client
from asyncray.core.store import Store
from asyncray.messages import RUN_GC

ASK_AGAIN = 10.0
"""Seconds between two requests to other nodes: as long as Ray's nodes leave between two collections."""


class Garbage:
    """Asks other nodes to collect garbage, and does so for them.

    Args:
        clients: the processes of this node.
        peers: the nodes to which this one has links.
    """

    def __init__(
        self, outbox: Outbox, store: Store, clients: Mapping[int, Client], peers: Mapping[bytes, Peer]
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._clients = clients
        self._peers = peers
        # When the other nodes may be asked again.
        self._ask_at = 0.0

    def __repr__(self) -> str:
        return f"<Garbage, asks at {self._ask_at:.1f}>"

    def tick(self, now: float) -> None:
        """Some time has passed."""
        if self._store.is_full and now >= self._ask_at:
            self._ask_at = now + ASK_AGAIN
            for peer in self._peers.values():
                self._outbox.send(peer, (COLLECT,))

    def collect(self, peer: Peer, message: Any) -> None:
        """COLLECT: the store of another node is full."""
        for client in self._clients.values():
            if client.alive:
                self._outbox.send(client, (RUN_GC,))
