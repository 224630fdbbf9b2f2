"""The cluster's side of a daemon: sockets and clocks around ``asyncray.core.cluster.cluster.ClusterMachine``.

It listens for other nodes, dials them, holds the connection to the head, and stands beside the daemon's own shell, with
which it shares the outbox: the daemon performs the commands by ``perform``, and hands it the messages for parties that
are no clients. A node that belongs to no cluster does not import this module.

Promises: a process that is no daemon of this cluster reaches no decoder; what a lost node wrote before its end is read
before the node is buried; a node that ends in order says farewell, and waits for the answer for a second at most.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from asyncray.cluster_messages import VIEW
from asyncray.config import JOIN_DEADLINE
from asyncray.core.cluster.cluster import ClusterMachine
from asyncray.core.cluster.commands import CloseConnection, Dial, ReadLastOutput, SendAgain, SendControl
from asyncray.core.cluster.members import JOINING, MEMBER, OUTSIDE
from asyncray.core.cluster.peers import Peer
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Party
from asyncray.io import addresses
from asyncray.io.link_connections import LinkConnections
from asyncray.io.link_streams import LinkStream
from asyncray.io.next_tick import NextTick
from asyncray.io.strangers import Strangers
from asyncray.io.tls import find_tls
from asyncray.io.tls_transport import secured
from asyncray.node.bulk_shell import BulkShell
from asyncray.node.cluster_notes import ClusterNotes
from asyncray.wire.handshake import BULK, LINK, NONCE_SIZE, AcceptorHandshake, DialerHandshake

if TYPE_CHECKING:
    from asyncray.cluster_words import MemberFacts
    from asyncray.io.tls import Tls
    from asyncray.io.websockets import WebSocketCarrier
    from asyncray.node.head_client import HeadClient
    from asyncray.node.output import Output

TICK = 0.5
QUICK_TICK = 0.01

FAREWELL_DEADLINE = 1.0
"""Seconds that a node waits for the answer to its farewell."""

_DIAL_DEADLINE = 3.0
"""Seconds until another node must have taken a connection and proved that it belongs to the cluster."""

NOT_JOINED: Final = 1
CAST_OUT: Final = 3
"""Exit codes: the node never became a member, or the cluster has ended or goes on without it."""

log = logging.getLogger("asyncray.node")


class OwnHead(Protocol):
    """The head, in the daemon of its own node."""

    cluster: bytes

    def receive_from_own_node(self, messages: Sequence[Any]) -> None: ...
    async def close(self, why: str) -> None: ...


MakeHead = Callable[[bytes, Callable[[Sequence[Any]], None]], OwnHead]
"""Makes the head for the node with this ID, with a function that takes messages for the node."""


@dataclass(frozen=True)
class ClusterPlan:
    """How a node takes part in a cluster.

    Args:
        token: the cluster's, which all daemons know and never send.
        address: of the cluster, for people: that of its head.
        host: the address of this node for other nodes.
        bind: the address that it listens at.
        head: host and port of the head that it joins. None: it makes the head itself.
        make_head: makes the head of a cluster that begins here.
        name: for people.
        labels: for placement.
        known_as: the addresses by which programs on this machine may name the cluster to connect to this node. None
            if the node is for one driver.
        tls: for all connections with other nodes. None: they are not encrypted.
    """

    token: bytes
    address: str
    host: str
    bind: str
    head: tuple[str, int] | None
    make_head: MakeHead | None
    name: str
    labels: Mapping[str, str]
    known_as: Sequence[str] | None = ()
    tls: Tls | None = None

    def shell(
        self, machine: NodeMachine, request_flush: Callable[[], None], end: Callable[[str], None]
    ) -> ClusterShell:
        """Makes the cluster's side of a daemon."""
        return ClusterShell(machine, self, request_flush, end)

    def __repr__(self) -> str:
        return f"<ClusterPlan {self.address} {'as head' if self.head is None else ''} at {self.host}>"


def plan_for_driver(token: bytes, head: tuple[str, int]) -> ClusterPlan:
    """The plan of a node that joins a cluster for the driver that has started it.

    Args:
        head: IP address and port of the head.
    """
    bound = addresses.address_towards(head[0])
    text = addresses.join_address(*head)
    return ClusterPlan(token, text, bound, bound, head, None, "", {}, known_as=None, tls=find_tls())


class ClusterShell:
    """The cluster's side of one daemon.

    Args:
        machine: the daemon's.
        request_flush: makes the daemon perform commands and write messages in this turn of the loop.
        end: ends the daemon, for a reason.
    """

    def __init__(
        self, machine: NodeMachine, plan: ClusterPlan, request_flush: Callable[[], None], end: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._machine = machine
        self._plan = plan
        self._request_flush = request_flush
        self._end = end
        # None until the head is found.
        self.part: ClusterMachine | None = None
        # The head, if this is its node, and the way to it, if it is another.
        self._own_head: OwnHead | None = None
        self._head_client: HeadClient | None = None
        self._cluster = b""
        self._connections = LinkConnections(self._loop.time, self._received, self._disconnected, request_flush)
        self._bulk = BulkShell(
            self._loop.time, partial(self._handshake_with, BULK), self._connect, self._spawn, request_flush
        )
        token = plan.token if plan.head is None else None
        self.notes = ClusterNotes(machine.facts.get("session_dir", ""), plan.known_as, token)
        self._strangers = Strangers()
        # Connections whose other sides have not proved anything yet, with the address under which each is counted.
        self._unproven: dict[LinkStream, str] = {}
        self._server: asyncio.Server | None = None
        # Dials under way, and the connection to the head.
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking = NextTick(self._loop, self._tick)
        self._ticked_at = 0.0
        # Set when this node has become a member, or cannot become one any more.
        self._decided = asyncio.Event()
        # This node has said farewell, for a reason.
        self._farewell: str | None = None
        # Reads what the workers of this node print. The daemon sets it before the node joins.
        self.output: Output | None = None
        # Exit code and reason, if the node does not end by its own wish.
        self.failure: tuple[int, str] | None = None
        self.perform: dict[type, Callable[[Any], None]] = {
            Dial: self._dial,
            SendControl: lambda command: self._connections.send_control(command.connection, command.message),
            SendAgain: lambda command: self._connections.send_again(command.connection, command.frames),
            CloseConnection: lambda command: self._connections.close(command.connection),
            ReadLastOutput: self._read_last_output,
            **self._bulk.perform,
        }

    def __repr__(self) -> str:
        return f"<ClusterShell {self.part or 'not joined'}>"

    # Joining ----------------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Returns when this node is a member, or the daemon ends."""
        try:
            await self._find_head()
            self._server = await self._loop.create_server(self._new_stream, self._plan.bind, 0)
        except OSError as error:
            self._fail(f"it could not listen at {self._plan.bind}: {error.strerror or error}")
            return
        if self.failure is None:
            self._start(self._server.sockets[0].getsockname()[1])
            try:
                async with asyncio.timeout(JOIN_DEADLINE):
                    await self._decided.wait()
            except TimeoutError:
                self._fail(f"the head did not take it within {JOIN_DEADLINE:g} s")
            else:
                assert self.part is not None
                if self.part.members.state == MEMBER:
                    self.notes.begin()

    async def _find_head(self) -> None:
        if self._plan.head is None:
            assert self._plan.make_head is not None
            self._own_head = self._plan.make_head(self._machine.node_id, self._deliver)
            self._cluster = self._own_head.cluster
            return
        # In a thread: the import takes 200 ms.
        clients = await asyncio.to_thread(importlib.import_module, "asyncray.node.head_client")
        host, port = self._plan.head
        client: HeadClient = clients.HeadClient(host, port, self._plan.token, self._machine.node_id, self._plan.tls)
        try:
            await client.find(JOIN_DEADLINE)
        except (clients.HeadSilence, clients.HeadRefusal) as error:
            self._fail(str(error))
            return
        self._head_client, self._cluster = client, client.cluster

    def _start(self, port: int) -> None:
        facts: MemberFacts = {
            "node": self._machine.node_id,
            "host": self._plan.host,
            "port": port,
            "hostname": self._machine.facts.get("hostname", ""),
            "pid": os.getpid(),
            "session": self._machine.facts.get("session", ""),
            "name": self._plan.name,
            "resources": dict(self._machine.resources.total),
            "labels": dict(self._plan.labels),
            "for_driver": self._plan.known_as is None,
            "joined": 0,
        }
        now = self._ticked_at = self._loop.time()
        head = None if self._head_client is None else self._head_client.head
        self.part = ClusterMachine(self._machine, facts, now, head)
        self._bulk.events = self.part.large
        if self.output is not None:
            self.output.join(self.part.output, self._request_flush)
        self.part.members.join()
        self._ticking.set_after(TICK)
        self._request_flush()

    def _fail(self, why: str) -> None:
        self.failure = NOT_JOINED, why
        self._end(f"it could not join the cluster: {why}")

    # Other nodes ------------------------------------------------------------------------------------------------------

    def _new_stream(self) -> asyncio.BaseProtocol:
        """Another process has connected."""
        handshake = AcceptorHandshake(self._plan.token, self._machine.node_id, self._cluster, os.urandom(NONCE_SIZE))
        stream = LinkStream(handshake, self._proven, self._connections.arrived, self._stream_ended, self._came)
        return secured(stream, self._plan.tls, is_server=True)

    def _came(self, stream: LinkStream) -> None:
        members = () if self.part is None else self.part.members.table.values()
        is_member = any(member.facts["host"] == stream.address for member in members)
        if self._strangers.came(stream.address, is_member=is_member):
            self._unproven[stream] = stream.address
        else:
            stream.abort("too many others of its address have not proved who they are")

    def _proven(self, stream: LinkStream) -> None:
        """A process that has connected is a daemon of this cluster."""
        self._strangers.went(self._unproven.pop(stream))
        part, node = self.part, stream.handshake.peer
        why = "this node is no member yet" if part is None else part.fenced(node)
        if part is None or why is not None:
            stream.abort(why)
        elif stream.handshake.role == BULK:
            self._bulk.accept(stream)
        else:
            self._connections.add(stream, part.peer(node, self._loop.time()))

    def _stream_ended(self, stream: LinkStream, why: str | None) -> None:
        address = self._unproven.pop(stream, None)
        if address is not None:
            self._strangers.went(address)
        if why is not None and not stream.handshake.done:
            self._strangers.failed(stream.address, why, self._loop.time())
        self._connections.ended(stream, why)

    def _received(self, peer: Peer, messages: Sequence[Any]) -> None:
        assert self.part is not None
        if peer is self.part.members.head:
            self._receive_from_head(messages)
        else:
            self.part.receive(peer, messages, self._loop.time())

    def _receive_from_head(self, messages: Sequence[Any]) -> None:
        assert self.part is not None
        for message in messages:
            if message[0] == VIEW:
                for node, *_ in message[3]:
                    # 1. A node sends a result and dies. 2. The head's verdict comes first. The result counts.
                    if node in self.part.peers:
                        self._connections.drain(self.part.peers[node])
            self.part.receive_from_head([message], self._loop.time())

    def _disconnected(self, peer: Peer, connection: int) -> None:
        peer.link.disconnected(connection, self._loop.time())

    # The head in this daemon ------------------------------------------------------------------------------------------

    def _deliver(self, messages: Sequence[Any]) -> None:
        """The head has messages for this node."""
        self._loop.call_soon(self._delivered, messages)

    def _delivered(self, messages: Sequence[Any]) -> None:
        self._receive_from_head(messages)
        self._request_flush()

    # Dialling ---------------------------------------------------------------------------------------------------------

    def _dial(self, command: Any) -> None:
        assert self.part is not None
        if command.to_head:
            head = self.part.members.head
            assert isinstance(head, Peer)
            self._spawn(self._dial_head(head))
        # 1. The link wants a dial. 2. The head's verdict comes in the same turn, and the node is no peer any more.
        elif command.node in self.part.peers:
            self._spawn(self._dial_node(self.part.peers[command.node]))

    def _spawn(self, dial: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(dial)
        self._tasks.add(task)
        task.add_done_callback(self._dial_task_ended)

    def _dial_task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": "a dial has failed", "exception": error})

    async def _dial_node(self, peer: Peer) -> None:
        assert self.part is not None
        stream = LinkStream(
            self._handshake_with(LINK, peer.id),
            partial(self._answered, peer),
            self._connections.arrived,
            partial(self._dialled_ended, peer),
        )
        try:
            async with asyncio.timeout(_DIAL_DEADLINE):
                await self._connect(peer.id, stream)
        except (OSError, TimeoutError) as error:
            self._dial_failed(peer, str(error) or "nobody answers")

    def _handshake_with(self, role: int, node: bytes) -> DialerHandshake:
        own = self._machine.node_id
        return DialerHandshake(self._plan.token, own, self._cluster, role, node, os.urandom(NONCE_SIZE))

    async def _connect(self, node: bytes, stream: LinkStream) -> None:
        """Connects a stream to another node. Raises OSError."""
        assert self.part is not None
        member = self.part.members.table.get(node)
        if member is None:
            raise ConnectionError("the head has not named it yet")
        await self._loop.create_connection(
            lambda: secured(stream, self._plan.tls, is_server=False), member.facts["host"], member.facts["port"]
        )

    def _answered(self, peer: Peer, stream: LinkStream) -> None:
        """The node that this one has dialled has proved who it is."""
        peer.link.dialled(self._connections.add(stream, peer), self._loop.time())
        self._request_flush()

    def _dialled_ended(self, peer: Peer, stream: LinkStream, why: str | None) -> None:
        if stream.handshake.done:
            self._connections.ended(stream, why)
        else:
            self._dial_failed(peer, why or "it has hung up")

    def _dial_failed(self, peer: Peer, why: str) -> None:
        log.info("no connection to %s: %s", peer, why)
        peer.link.dial_failed(self._loop.time())
        self._request_flush()

    async def _dial_head(self, head: Peer) -> None:
        assert self.part is not None
        assert self._head_client is not None
        from asyncray.node import head_client  # start-up cost: loaded in a thread by now

        is_connected = False

        def connected(carrier: WebSocketCarrier) -> None:
            nonlocal is_connected
            is_connected = True
            head.link.dialled(self._connections.add(carrier, head), self._loop.time())
            self._request_flush()

        try:
            await self._head_client.serve_connection(connected, self._connections.arrived, self._connections.ended)
        except head_client.HeadRefusal as refusal:
            # A member goes on until the head itself refuses it: another process may have got the head's port.
            if refusal.is_proven or self.part.members.state == JOINING:
                self.part.members.turned_away(str(refusal))
            else:
                log.warning("no connection to the head: %s", refusal)
        except head_client.ACCIDENTS as error:
            log.info("no connection to the head: %s", str(error) or "nobody answers")
        if not is_connected:
            head.link.dial_failed(self._loop.time())
        self._request_flush()

    # Commands and time ------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The daemon is about to perform commands and to write messages."""
        part = self.part
        if part is None:
            return
        now = self._loop.time()
        part.flush(now)
        state = part.members.state
        if state != JOINING:
            self._decided.set()
        if state == OUTSIDE and self._farewell is not None:
            self._end(self._farewell)
        elif state == OUTSIDE and self.failure is None:
            self.failure = (CAST_OUT if part.members.table else NOT_JOINED), part.members.why
        wanted = part.tick_wanted_at
        if wanted is not None:
            self._ticking.bring_forward(max(wanted, now + QUICK_TICK))

    def _read_last_output(self, command: Any) -> None:
        assert self.part is not None
        if self.output is not None:
            self.output.read_last_of(command.job)
        self.part.goodbyes.last_lines_read(command.job, command.node)

    def segment_retired(self, name: str) -> None:
        """The daemon has removed a segment."""
        self._bulk.retired(name)

    def write(self, party: Party) -> None:
        """Writes the messages for a party that is no client."""
        if isinstance(party, Peer):
            self._connections.write(party)
            if self._machine.outbox.commands:
                self._request_flush()
        elif self.part is not None and party is self.part.members.head and self._own_head is not None:
            messages, party.out = party.out, []
            self._loop.call_soon(self._own_head.receive_from_own_node, messages)
        else:
            party.out = []

    def _tick(self) -> None:
        assert self.part is not None
        self._ticking.set_after(TICK)
        now = self._loop.time()
        late = max(0.0, now - self._ticked_at - TICK)
        self._bulk.tick(now - self._ticked_at)
        self._ticked_at = now
        self.part.tick(now, late)
        self._request_flush()

    # The end ----------------------------------------------------------------------------------------------------------

    def leave(self, why: str) -> bool:
        """The daemon ends. Returns True if it must wait: ``end`` is called when the head knows of it."""
        if self._farewell is not None:
            return True
        if self.part is None or self._own_head is not None or self.part.members.state != MEMBER:
            return False
        self._farewell = why
        self.part.members.leave(why)
        self._loop.call_later(FAREWELL_DEADLINE, self._end, why)
        self._request_flush()
        return True

    async def close(self, why: str) -> None:
        """The daemon ends: ends all connections. The head in this daemon passes the reason on to all nodes."""
        if self._server is not None:
            self._server.close()
        self._ticking.cancel()
        for stream in list(self._unproven):
            stream.abort()
        self._connections.close_all()
        self._bulk.close()
        if self._own_head is not None:
            await self._own_head.close(why)
        # The connection to the head writes what is due, within a deadline of its own. Dials have one, too.
        tasks = list(self._tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=FAREWELL_DEADLINE)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
