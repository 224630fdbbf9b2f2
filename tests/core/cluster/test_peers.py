"""Another node as a party: it has messages that wait, as a client has, and its burial drops them."""

from __future__ import annotations

from typing import Any

from asyncray.core.cluster.commands import CloseConnection
from asyncray.core.cluster.links import BURIED, DIALLING, Link
from asyncray.core.cluster.peers import Peer
from asyncray.core.outbox import Outbox
from tests.core.cluster.nodes import done, taken

HELLO: Any = (900, 1)


def peer_of(outbox: Outbox) -> Peer:
    return Peer(outbox.new_party_number(), b"other", Link(outbox, b"me", b"other", 0.0))


def test_messages_for_a_peer_wait_as_those_for_a_client() -> None:
    outbox = Outbox()
    peer = peer_of(outbox)
    outbox.send(peer, HELLO)
    assert outbox.dirty == [peer]
    assert taken(outbox, peer) == [HELLO]


def test_nothing_is_kept_for_a_peer_that_is_buried() -> None:
    outbox = Outbox()
    peer = peer_of(outbox)
    peer.link.push([HELLO], 10, 0.0)
    peer.link.dialled(5, 0.0)
    assert peer.link.state == DIALLING
    outbox.send(peer, HELLO)
    for _ in range(2):
        peer.bury("the node is lost")
    assert (peer.alive, peer.out, list(peer.link.kept())) == (False, [], [])
    assert peer.link.state == BURIED
    assert done(outbox, CloseConnection) == [CloseConnection(5, "the node is lost")]
    outbox.dirty.clear()
    outbox.send(peer, HELLO)
    assert (outbox.dirty, peer.out) == ([], [])
