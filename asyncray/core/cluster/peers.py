"""Peers: the other nodes that this node speaks to.

A peer is a party, as a client is: messages for it wait in ``out``, and it may hold objects. Its link numbers what the
shell takes out. A peer exists from the first need, or from the first connection of the other node, until the head says
that the node is lost or has left.
"""

from __future__ import annotations

from asyncray.core.cluster.links import BURIED, Link
from asyncray.core.records import Party


class Peer(Party):
    """Another node of the cluster."""

    __slots__ = ("id", "link")

    is_node = True

    def __init__(self, number: int, node: bytes, link: Link) -> None:
        super().__init__(number)
        # Its NodeID.
        self.id = node
        self.link = link

    def __repr__(self) -> str:
        return f"<Peer {self.number} {self.id.hex()} {self.link.state}>"

    @classmethod
    def ended(cls, number: int, node: bytes, link: Link, why: str) -> Peer:
        """Stands for a node that has ended, or that the cluster never had."""
        peer = cls(number, node, link)
        peer.bury(why)
        return peer

    def bury(self, why: str) -> None:
        """The node is lost or has left."""
        self.alive = False
        self.out.clear()
        if self.link.state != BURIED:
            self.link.bury(why)
