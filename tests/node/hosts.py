"""Nodes of a cluster in one process and one loop: real machines, shells, sockets and HTTP, without drivers.

``Host`` does what the daemon does: it performs commands and writes messages once per turn of the loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from asyncray.core.cluster.members import MEMBER
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import LogLine, StopNode
from asyncray.head.head_shell import HeadShell
from asyncray.head.stream import NodeStream
from asyncray.io import addresses
from asyncray.io.tls import Tls
from asyncray.node.cluster_shell import ClusterPlan, ClusterShell
from asyncray.wire.head_proofs import HeadProofs

TOKEN = b"t" * 32
CLUSTER = b"c" * 16
HELLO = 900
"""A message between nodes that only these tests know."""
DEADLINE = 20.0


class Host:
    """One node. Without the address of a head it has the head itself."""

    def __init__(
        self, head: tuple[str, int] | None = None, token: bytes = TOKEN, number: int = 0, tls: Tls | None = None
    ) -> None:
        self.id = os.urandom(7) + bytes([number])
        self.machine = NodeMachine(self.id, {"CPU": 1.0}, "asyncray-test-", 1 << 20, {})
        self.head: HeadShell | None = None
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self._flush_requested = False
        self._token = token
        make = None if head is not None else self._make_head
        self._tls = tls
        plan = ClusterPlan(token, "", "127.0.0.1", "127.0.0.1", head, make, "", {}, tls=tls)
        self.shell: ClusterShell = plan.shell(self.machine, self.request_flush, self._end)
        self.address = ("127.0.0.1", 0)
        self._runner: web.AppRunner | None = None

    def _make_head(self, node: bytes, to_own_node: Callable[[Any], None]) -> HeadShell:
        proofs = HeadProofs(self._token, node, os.urandom(32))
        self.head = HeadShell(node, CLUSTER, proofs, to_own_node)
        return self.head

    async def start(self) -> None:
        await self.shell.join()
        if self.shell.part is not None:
            self.shell.part.handlers[HELLO] = lambda peer, message: self.heard.put_nowait((peer.id, *message[1:]))
        if self.head is not None:
            application = web.Application()
            application.add_routes(NodeStream(self.head).routes())
            self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
            await self._runner.setup()
            listener = addresses.listen_at("127.0.0.1", 0)
            self.address = listener.getsockname()
            context = None if self._tls is None else self._tls.server
            await web.SockSite(self._runner, listener, ssl_context=context).start()

    def _end(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_result(why)

    def request_flush(self) -> None:
        if not self._flush_requested:
            self._flush_requested = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_requested = False
        outbox = self.machine.outbox
        self.shell.flush()
        while outbox.commands:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                if isinstance(command, StopNode):
                    if not self.shell.leave(command.reason):
                        self._end(command.reason)
                elif not isinstance(command, LogLine):
                    self.shell.perform[type(command)](command)
        dirty, outbox.dirty = outbox.dirty, []
        for party in dirty:
            self.shell.write(party)

    def say(self, node: bytes, *words: Any) -> None:
        assert self.shell.part is not None
        peer = self.shell.part.peer(node, asyncio.get_running_loop().time())
        self.machine.outbox.send(peer, (HELLO, *words))
        self.request_flush()

    def others(self) -> set[bytes]:
        """The other members that this node knows."""
        return set() if self.shell.part is None else self.shell.part.members.table.keys() - {self.id}

    def is_member(self) -> bool:
        return self.shell.part is not None and self.shell.part.members.state == MEMBER

    async def close(self) -> None:
        await self.shell.close("the test ends it")
        if self._runner is not None:
            await self._runner.cleanup()


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that other tasks of this loop do. The test has a deadline."""
    while not condition():
        await asyncio.sleep(0.001)


@asynccontextmanager
async def cluster(nodes: int = 3, tls: Tls | None = None) -> AsyncIterator[list[Host]]:
    """Nodes that know one another; the first has the head."""
    async with asyncio.timeout(DEADLINE):
        hosts = [Host(tls=tls)]
        await hosts[0].start()
        for number in range(1, nodes):
            hosts.append(Host(hosts[0].address, number=number, tls=tls))
            await hosts[-1].start()
        try:
            await until(lambda: all(len(host.others()) == nodes - 1 for host in hosts))
            yield hosts
        finally:
            for host in hosts[1:]:
                await host.close()
            await hosts[0].close()
