"""Checks of references over all nodes: an object that a living node needs exists at its owner, and is secured.

A node alone cannot check this: it knows that it is registered, or which covers it has, and not whether the owner and
the givers of the covers know the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncray.cluster_messages import RESULT, TASK
from asyncray.core.records import ObjectEntry
from asyncray.ids import NODE_SIZE
from asyncray.messages import ERRORS
from tests.sim.cluster import Cluster
from tests.sim.cluster_host import ClusterHost


def check_references(cluster: Cluster) -> None:
    """Checks all imports, and all refs under way."""
    for host in cluster.living:
        if cluster.oracle.has_ended(host.id):
            continue  # it is fenced, and does not know it
        for entry in host.machine.objects.table.values():
            counts = entry.far is not None and entry.id not in cluster.oracle.uncounted
            if counts and entry.kind not in ERRORS and not _is_of_an_orphan(cluster, host, entry):
                _exists(cluster, entry.id, f"{host} needs {entry} {entry.far}")
                if entry.uses or entry.borrowers:
                    assert _is_secure(cluster, host, entry.id, frozenset()), f"nothing secures {entry} {entry.far}"
    for sender, receiver, message in _under_way(cluster):
        for object_id in _refs_in(message):
            known = sender.machine.objects.table.get(object_id)
            if known is not None and known.far is not None and _is_of_an_orphan(cluster, sender, known):
                continue
            _exists(cluster, object_id, f"{object_id.hex()} is under way from {sender} to {receiver}")


def _exists(cluster: Cluster, object_id: bytes, what: str) -> None:
    owner = cluster.hosts[object_id[:NODE_SIZE]]
    if not cluster.oracle.has_ended(owner.id):
        assert object_id in owner.machine.objects.table, f"{what}, which is freed"


def _is_of_an_orphan(cluster: Cluster, host: ClusterHost, entry: ObjectEntry) -> bool:
    """True if it may be that only a task needs the object whose node has ended the task: then its arguments are freed.

    Such a ref is asked for at its owner when the process names it, and may turn out to be lost.
    """
    far = entry.far
    assert far is not None
    return bool(far.batch) and not far.covers and not far.late and bool(cluster.oracle.orphans)


def _is_secure(cluster: Cluster, host: ClusterHost, object_id: bytes, seen: frozenset[bytes]) -> bool:
    """Walks from covers to their givers, until one is registered or is the owner."""
    entry = host.machine.objects.table.get(object_id)
    if entry is None or host.id in seen:
        return False
    far = entry.far
    if far is None or far.registered or far.late or (far.batch > 0 and not far.covers):
        return True
    for cover in far.covers:
        giver: Any = cover.giver
        other = cluster.hosts[giver.id]
        # The giver keeps the object, or one with a value that contains it.
        kept = [object_id, *(found.id for found in cover.learned if entry in found.contained)]
        if cluster.oracle.has_ended(other.id) or any(_is_secure(cluster, other, i, seen | {host.id}) for i in kept):
            return True
    return False


def _under_way(cluster: Cluster) -> Iterator[tuple[ClusterHost, ClusterHost, Any]]:
    """Messages that a living node has not taken from another one yet, and will."""
    alive = [host for host in cluster.living if not cluster.oracle.has_ended(host.id)]
    for sender in alive:
        for receiver in alive:
            peer, other = sender.part.peers.get(receiver.id), receiver.part.peers.get(sender.id)
            if peer is not None:
                taken = 0 if other is None else other.link.received
                for number, batch, _ in peer.link._kept:
                    for message in batch if number > taken else ():
                        yield sender, receiver, message


def _refs_in(message: Any) -> Iterator[bytes]:
    if message[0] == TASK:
        _, _, _, _, _, _, values, nested, *_ = message
        yield from nested or ()
        for object_id, _, _, contained in values or ():
            yield object_id
            yield from contained or ()
    elif message[0] == RESULT:
        for _, _, contained in message[3]:
            yield from contained or ()
