"""The shell of the head: connections and clocks around ``asyncray.core.head.head.HeadMachine``.

It runs in the daemon of the head's own node, in the same loop. Other nodes come over WebSockets (``head/stream.py``);
the own node has no connection, and exchanges messages through two functions. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.core.cluster.commands import CloseConnection, Probe, SendAgain, SendControl
from asyncray.core.cluster.peers import Peer
from asyncray.core.head.head import HeadMachine
from asyncray.core.outbox import LogLine
from asyncray.io.link_connections import Carrier, LinkConnections
from asyncray.io.next_tick import NextTick
from asyncray.io.strangers import Strangers
from asyncray.io.unproven import UnprovenConnections
from asyncray.wire.head_proofs import HeadProofs

TICK = 0.5
QUICK_TICK = 0.01

FAREWELL_DEADLINE = 1.5
"""Seconds that a head which ends waits for members without a connection: they dial again each second."""

_PROBE_DEADLINE = 1.0
"""Seconds after which a probe without any answer has failed."""

log = logging.getLogger("asyncray.node")


class HeadShell:
    """The head of a cluster.

    Args:
        node: the ID of the node that the head is in.
        cluster: the ID of the cluster.
        proofs: looks at the proofs of nodes that want to connect.
        to_own_node: takes messages for the own node.
    """

    def __init__(
        self, node: bytes, cluster: bytes, proofs: HeadProofs, to_own_node: Callable[[Sequence[Any]], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.machine = HeadMachine(node, cluster, 1, self._loop.time())
        self.cluster = cluster
        self.proofs = proofs
        self._to_own_node = to_own_node
        self.connections = LinkConnections(self._loop.time, self._received, self._disconnected, self._request_flush)
        # Logs those that failed to prove who they are.
        self.strangers = Strangers()
        self.unproven = UnprovenConnections(self.strangers, self._is_address_of_member)
        # Probes under way.
        self._probes: set[asyncio.Task[None]] = set()
        self._flush_requested = False
        # Set by each ``_flush``.
        self._flushed = asyncio.Event()
        self._ticked_at = self._loop.time()
        self._ticking = NextTick(self._loop, self._tick)
        # The next flush without an event, and its time: a view is due then.
        self._flushing = NextTick(self._loop, self._flush_due)
        self._flush_at: float | None = None
        self._ticking.set_after(TICK)
        self._closed = False
        self._perform: dict[type, Callable[[Any], None]] = {
            SendControl: lambda command: self.connections.send_control(command.connection, command.message),
            SendAgain: lambda command: self.connections.send_again(command.connection, command.frames),
            CloseConnection: lambda command: self.connections.close(command.connection),
            Probe: self._probe,
            LogLine: lambda command: log.log(command.level, command.text),
        }

    def __repr__(self) -> str:
        return f"<HeadShell {self.machine}>"

    # Events -----------------------------------------------------------------------------------------------------------

    def receive_from_own_node(self, messages: Sequence[Any]) -> None:
        """A batch of messages came from the node that the head is in."""
        if not self._closed:
            self.machine.receive(self.machine.own, messages, self._loop.time())
            self._request_flush()

    def connected(self, node: bytes, carrier: Carrier) -> None:
        """A node has proved who it is. Its first message resumes its link."""
        self.connections.add(carrier, self.machine.peer(node, self._loop.time()))

    def _is_address_of_member(self, address: str) -> bool:
        return any(member.facts["host"] == address for member in self.machine.members.table.values())

    def _received(self, peer: Peer, messages: Sequence[Any]) -> None:
        self.machine.receive(peer, messages, self._loop.time())

    def _disconnected(self, peer: Peer, connection: int) -> None:
        self.machine.disconnected(peer, connection, self._loop.time())

    # Probes -----------------------------------------------------------------------------------------------------------

    def _probe(self, command: Any) -> None:
        task = self._loop.create_task(self._connect(command.node, command.host, command.port))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _connect(self, node: bytes, host: str, port: int) -> None:
        refused = False
        try:
            async with asyncio.timeout(_PROBE_DEADLINE):
                transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
            transport.abort()
        except ConnectionRefusedError:
            refused = True
        except (OSError, TimeoutError):
            # The network may be at fault, so the failure proves nothing about the daemon.
            pass
        self.machine.members.probed(node, refused=refused, now=self._loop.time())
        self._request_flush()

    # Time and commands ------------------------------------------------------------------------------------------------

    def _request_flush(self) -> None:
        if not self._flush_requested and not self._closed:
            self._flush_requested = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Once per turn: performs commands, and writes each node's messages as one batch."""
        self._flush_requested = False
        if self._closed:
            return
        machine = self.machine
        outbox = machine.outbox
        machine.flush(self._loop.time())
        while outbox.commands or outbox.dirty:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                self._perform[type(command)](command)
            dirty, outbox.dirty = outbox.dirty, []
            for party in dirty:
                if isinstance(party, Peer):
                    self.connections.write(party)
                else:
                    messages, party.out = party.out, []
                    self._to_own_node(messages)
        self._flushed.set()
        wanted = machine.flush_wanted_at
        if wanted is not None and wanted != self._flush_at:
            self._flush_at = wanted
            self._flushing.set_after(max(QUICK_TICK, wanted - self._loop.time()))

    def _flush_due(self) -> None:
        self._flush_at = None
        self._flush()

    def _tick(self) -> None:
        self._ticking.set_after(TICK)
        now = self._loop.time()
        late = max(0.0, now - self._ticked_at - TICK)
        self._ticked_at = now
        self.machine.tick(now, late)
        self._flush()

    async def close(self, why: str) -> None:
        """Sends all nodes why the head ends, and ends all connections and probes."""
        self.machine.stop(why)
        self._flush()
        try:
            async with asyncio.timeout(FAREWELL_DEADLINE):
                while self.machine.awaits_members:
                    self._flushed.clear()
                    await self._flushed.wait()
        except TimeoutError:
            log.info("some nodes have no connection and do not learn that the head ends")
        self._closed = True
        self._ticking.cancel()
        self._flushing.cancel()
        self.connections.close_all()
        probes = list(self._probes)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
