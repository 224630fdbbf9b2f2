"""Liveness at rest: nothing waits that a node could run.

A task or constructor may wait only while no node that its placement allows has room for it, wherever it stands: in a
queue of its home, on the way to a node that was full, or at another node as a guest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncray.core.placements import Affinity, Bundle, Labels, Selectors, meets
from asyncray.core.records import Guest, Task
from asyncray.core.states import PENDING, QUEUED, SENT

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster
    from tests.sim.cluster_host import ClusterHost


def nothing_waits_beside_room(cluster: Cluster) -> None:
    """Raises AssertionError if a task waits although a node has room for it. The cluster is at rest."""
    for host in cluster.living:
        for task in host.machine.work.tasks.values():
            where = _where_it_waits(cluster, host, task)
            if where is not None and task.template.demand:
                free = [node for node in _allowed(cluster, task) if node.machine.resources.fits(task.template.demand)]
                assert not free, f"{task} of {host} with {task.template.where} waits at {where} and could run at {free}"


def _where_it_waits(cluster: Cluster, home: ClusterHost, task: Task) -> ClusterHost | None:
    """The node where a task of a home waits for room. None: it does not."""
    if task.is_guest or (task.actor is not None and not task.is_constructor):
        return None
    if task.state == QUEUED:
        return home
    away = home.part.away.find(task) if task.state == SENT else None
    there = None if away is None else cluster.hosts[away.peer.id]
    if away is None or there is None:
        return None
    guests: dict[int, Guest] = {}
    for peer, table in there.part.guests.table.items():
        if getattr(peer, "id", None) == home.id:
            guests = table
    guest = guests.get(away.attempt)
    if guest is None or guest.state != QUEUED:
        return None
    made = guest.constructed_actor
    return there if made is None or made.state == PENDING else None


def _allowed(cluster: Cluster, task: Task) -> Iterator[ClusterHost]:
    """Yields the nodes that may run a task by its placement."""
    where, demand = task.template.where, task.template.demand
    able = [host for host in cluster.living if host.machine.resources.feasible(demand)]
    if isinstance(where, Affinity):
        wanted = [host for host in able if host.id == where.node]
        return iter(wanted or (able if where.soft else []))
    if isinstance(where, Labels):
        return (host for host in able if meets(host.labels, where.hard))
    if isinstance(where, Selectors):
        return (host for host in able if any(meets(host.labels, one) for one in where.alternatives))
    return iter([] if isinstance(where, Bundle) else able)
