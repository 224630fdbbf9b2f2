"""The head: all machines of the registry behind one door.

Each node has a link with the head. The head's own node has none: the shell carries the messages over. The head is never
on the path of tasks, calls, objects or unnamed actors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from asyncray.cluster_messages import (
    ANSWER,
    ASK,
    BEAT,
    COMMITTED,
    COMPLAINT,
    HEAD_ENDS,
    INQUIRY_ANSWER,
    JOBS_OVER,
    JOIN,
    LEAVING_CLUSTER,
    PREPARED,
    UNSURE,
)
from asyncray.core.cluster.links import BROKEN_AFTER, IDLE, OPEN, Link
from asyncray.core.cluster.members import CUT_OFF_AFTER
from asyncray.core.cluster.peers import Peer
from asyncray.core.head.cluster_jobs import ClusterJobs
from asyncray.core.head.head_groups import SERVICES, HeadGroups
from asyncray.core.head.inquiries import Inquiries
from asyncray.core.head.membership import Membership
from asyncray.core.head.names import ClusterNames
from asyncray.core.key_values import KeyValues
from asyncray.core.outbox import Outbox
from asyncray.core.records import Party

COMPLAINT_AFTER = 10.0
"""Seconds that a link between two members may be broken before the head declares one of them lost."""

STANDSTILL = 2.0
"""Seconds without any event, after which the head knows that its own daemon stood still: a tick comes each half."""

Service = Callable[[bytes, Sequence[Any], Callable[..., None]], None]
"""Answers a question: the NodeID of the asker, arguments, and a function that takes (True, value) or (False, fault)."""


class HeadMachine:
    """The head of a cluster.

    Args:
        node: the ID of the node that the head is in.
        cluster: the ID of the cluster.
        epoch: counts the starts of the head.
    """

    def __init__(self, node: bytes, cluster: bytes, epoch: int, now: float) -> None:
        self.node = node
        self.outbox = Outbox()
        self.members = Membership(self.outbox, cluster, epoch, self._member_ended)
        self.inquiries = Inquiries(self.outbox, self.members.table)
        self.names = ClusterNames(self._inquire, self.members.table.__contains__)
        self.jobs = ClusterJobs()
        self.key_values = KeyValues()
        self.groups = HeadGroups(self.outbox, self.members.table)
        # Other nodes, by NodeID.
        self.peers: dict[bytes, Peer] = {}
        # The head's own node.
        self.own = Party(self.outbox.new_party_number())
        self._now = now
        # When the head's daemon went on after it had stood still.
        self._awake_since = -math.inf
        # Why the head ends. Empty while it does not.
        self._ends = ""
        self._services: dict[str, Service] = {
            "member": self._member,
            "claim_name": self.names.claim,
            "find_name": self.names.find,
            "list_names": self.names.list,
            "name_died": self.names.died,
            "free_name": self.names.free,
            "job_began": self._job_began,
            "job_ended": self._job_ended,
            "jobs": lambda node, arguments, reply: reply(ok=True, value=self.jobs.rows()),
            "key_value": self._key_value,
            "inquire": self._pass_on_inquiry,
            "gather": self._gather,
            **{method: partial(self.groups.serve, method) for method in SERVICES},
        }

    def __repr__(self) -> str:
        return f"<HeadMachine {self.members}>"

    # Links ------------------------------------------------------------------------------------------------------------

    def peer(self, node: bytes, now: float) -> Peer:
        """Returns the record of a node that has proved who it is."""
        self._passes(now)
        peer = self.peers.get(node)
        if peer is None:
            link = Link(self.outbox, self.node, node, now, dials=False)
            peer = self.peers[node] = Peer(self.outbox.new_party_number(), node, link)
            if self._ends:
                self.outbox.send(peer, (HEAD_ENDS, self._ends))
        return peer

    def disconnected(self, peer: Peer, connection: int, now: float) -> None:
        """A connection of a node was closed."""
        self._passes(now)
        peer.link.disconnected(connection, now)
        if peer.link.state != OPEN:
            self.members.disconnected(peer.id, now)

    def receive(self, party: Party, messages: Sequence[Any], now: float) -> None:
        """A batch of messages came from a node.

        Raises:
            Exception: the node sent an invalid message; the shell must close its connection.
        """
        self._passes(now)
        node = party.id if isinstance(party, Peer) else self.node
        for message in messages:
            self._handle(node, party, message)

    def _handle(self, node: bytes, party: Party, message: Any) -> None:
        kind = message[0]
        if kind == BEAT:
            _, version, changes, settled = message
            self.members.beat(node, version, changes, self._now)
            self.members.settled(node, settled)
            if changes:
                self.groups.groups.amounts_changed()
        elif kind == JOIN:
            if message[1]["node"] != node:
                raise ValueError(f"node {node.hex()} joins as another one")
            self.members.join(party, message[1], message[2], self._now)
            self.groups.groups.nodes_changed()
        elif node not in self.members.table:
            return  # the verdict was faster: it is final
        elif kind == ASK:
            self._ask(node, party, message)
        elif kind == INQUIRY_ANSWER:
            _, number, ok, value = message
            self.inquiries.answered(node, number, (True, value) if ok else (False, *value))
        elif kind in (PREPARED, COMMITTED, UNSURE):
            self.groups.receive(node, message, self._now)
        elif kind == COMPLAINT:
            self._complain(node, message[1], message[2])
        elif kind == LEAVING_CLUSTER:
            self.members.leave(node, message[1], self._now)
        else:
            raise ValueError(f"node {node.hex()} sent the head a message of kind {kind}")

    def _ask(self, node: bytes, party: Party, message: Any) -> None:
        _, number, method, arguments = message

        def reply(ok: bool, value: Any) -> None:  # noqa: FBT001 - as the message has it
            self.outbox.send(party, (ANSWER, number, ok, value))

        service = self._services.get(method)
        if service is None:
            reply(ok=False, value=["InternalError", {"message": f"The head has no service named {method!r}."}])
        else:
            service(node, arguments, reply)

    def _member(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        """The state of a node: alive, lost, left, or "unknown" if the cluster never had it."""
        (wanted,) = arguments
        ended = self.members.ended.get(wanted)
        state = "alive" if wanted in self.members.table else "unknown" if ended is None else ended.state
        reply(ok=True, value=state)

    # Names, jobs, key-value pairs, and what only nodes know -----------------------------------------------------------

    def _member_ended(self, node: bytes, how: str) -> None:
        self.names.node_ended(node)
        self.jobs.node_ended(node, how)
        self.inquiries.node_ended(node)
        self.groups.node_ended(node, self._now)

    def _inquire(
        self, node: bytes, method: str, arguments: Sequence[Any], reply: Callable[[tuple[Any, ...]], None]
    ) -> None:
        self.inquiries.ask(node, method, arguments, reply, self._now)

    def _job_began(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        (row,) = arguments
        self.jobs.began(row)
        reply(ok=True, value=None)

    def _job_ended(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        self.jobs.ended(*arguments)
        for member in self.members.table.values():
            self.outbox.send(member.party, (JOBS_OVER, [bytes.fromhex(arguments[0])]))
        reply(ok=True, value=None)

    def _key_value(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        try:
            value = self.key_values.perform(arguments[0], arguments[1:])
        except ValueError as error:
            reply(ok=False, value=["ValueError", {"message": f"{error}."}])
        else:
            reply(ok=True, value=value)

    def _pass_on_inquiry(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        """Passes the question of a node to another one."""
        wanted, method, rest = arguments
        self._inquire(wanted, method, rest, partial(_reply_with, reply))

    def _gather(self, node: bytes, arguments: Sequence[Any], reply: Callable[..., None]) -> None:
        """Passes the question of a node to all nodes."""
        self.inquiries.gather(arguments[0], arguments[1:], partial(_reply_with, reply), self._now)

    def _complain(self, node: bytes, other: bytes, seconds: float) -> None:
        """The link between two members is broken: the cluster is always fully connected, or smaller."""
        if node == other:
            raise ValueError(f"node {node.hex()} complains about itself")
        first, second = self.members.table.get(node), self.members.table.get(other)
        # 1. The head's daemon stands still. 2. The links to its node break, and the members complain. 3. It goes on and
        # reads the complaints, before any member could connect again.
        seconds = min(seconds, self._now - self._awake_since)
        if first is None or second is None or seconds < COMPLAINT_AFTER:
            return
        candidates = [member for member in (first, second) if member.facts["node"] != self.node]
        younger = max(candidates, key=lambda member: member.facts["joined"])
        hosts = f"{first.facts['host']} and {second.facts['host']}"
        why = f"the nodes {hosts} could not reach one another for {seconds:.0f} s"
        self.members.lose(younger.facts["node"], why, self._now)

    def stop(self, why: str) -> None:
        """The head ends in order, and the cluster with it: all nodes that may be in it learn why."""
        self._ends = why
        for peer in self.peers.values():
            if peer.id not in self.members.ended:
                self.outbox.send(peer, (HEAD_ENDS, why))

    @property
    def awaits_members(self) -> bool:
        """True while members have no connection. A head that ends waits ``FAREWELL_DEADLINE`` seconds for them."""
        peers = (self.peers.get(node) for node in self.members.table)
        return any(peer is not None and peer.link.state != OPEN for peer in peers)

    # Time -------------------------------------------------------------------------------------------------------------

    def flush(self, now: float) -> None:
        """All events of a batch have been handled."""
        self.groups.groups.flush(now)
        self.members.flush(now)

    def _passes(self, now: float) -> None:
        """It is so late now."""
        if now - self._now > STANDSTILL:
            self._awake_since = now
        self._now = now

    def tick(self, now: float, late: float) -> None:
        """Some time has passed."""
        self._passes(now)
        self.members.tick(now, late)
        self.inquiries.tick(now)
        self.groups.groups.tick(now)
        for peer in list(self.peers.values()):
            peer.link.tick(now, late)
            if self._is_forgotten(peer, now):
                del self.peers[peer.id]
                peer.bury("it is no member")

    def _is_forgotten(self, peer: Peer, now: float) -> bool:
        """True if no node will use a link again.

        The link of a node that has not joined stays as long as the node may come back: its last messages count.
        """
        since = peer.link.heard_at if peer.link.state == IDLE else peer.link.broken_since
        if since is None or peer.id in self.members.table:
            return False
        return peer.id in self.members.ended or now - since >= CUT_OFF_AFTER + BROKEN_AFTER

    @property
    def flush_wanted_at(self) -> float | None:
        """When ``flush`` should come at the latest. None: after the next event.

        No link of the head wants a tick: the head does not dial, and its acknowledgements wait for the usual one.
        """
        return self.members.push_wanted_at

    def check(self) -> None:
        """Raises AssertionError if an invariant of any machine is broken."""
        self.members.check()
        self.names.check()
        self.jobs.check()
        self.key_values.check()
        self.groups.check()
        for peer in self.peers.values():
            peer.link.check()


def _reply_with(reply: Callable[..., None], answer: tuple[Any, ...]) -> None:
    """Passes the answer to the node that asked."""
    if answer[0]:
        reply(ok=True, value=answer[1])
    else:
        reply(ok=False, value=list(answer[1:]))
