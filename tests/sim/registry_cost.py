"""The cost of a head at 100, 1,000 and 5,000 nodes: ``python -m tests.sim.registry_cost [NODES ...]``.

The real head and the real code for frames work through some seconds of a cluster in which every row changes all the
time. Only the WebSockets are left out; what aiohttp takes for a message is measured with real ones, between two
processes, and added. The program prints a row for each size, for `docs/scaling.md`. It is no test.
"""

from __future__ import annotations

import asyncio
import heapq
import sys
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from asyncray.cluster_messages import BEAT, JOIN, RESUME
from asyncray.core.cluster.members import EARLIEST_BEAT, SLOW_BEAT
from asyncray.core.head.head import HeadMachine
from asyncray.core.outbox import LogLine
from asyncray.io.link_connections import LinkConnections
from asyncray.io.websockets import WebSocketCarrier
from asyncray.wire.frames import pack
from asyncray.wire.link_frames import frame_of, header
from tests.core.cluster.nodes import facts, row

SECONDS = 10.0
"""Of the cluster's time."""

SOCKETS = 200
ROUNDS = 50
"""Real WebSockets, and the messages over each of them in each direction."""


class Wire:
    """A connection to a node: counts what the head writes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.written = 0
        self.frames = 0

    def write(self, body: bytes, number: int, acknowledged: int) -> None:
        self.written += len(header(body, number, acknowledged) + body)
        self.frames += 1
        self.node.heard = max(self.node.heard, number)

    def close(self) -> None:
        raise AssertionError("the head has closed a connection")

    def abort(self, why: str | None = None) -> None:
        raise AssertionError(f"the head has ended a connection: {why}")

    def drain_input(self) -> None: ...


class Node:
    """A node, as the head sees it: its messages."""

    def __init__(self, number: int) -> None:
        self.id = b"%08d" % number
        self.sent = 0
        self.heard = 0
        self.version = 0
        self.beats = 0
        self.wire = Wire(self)

    def frame(self, message: Any, *, numbered: bool = True) -> bytes:
        if numbered:
            self.sent += 1
        body = pack([message])
        return header(body, self.sent if numbered else 0, self.heard) + body

    def beat(self, *, busy: bool) -> bytes:
        """The node lives; if it is busy, another task runs, and another one waits."""
        self.beats += 1
        if not busy:
            return self.frame((BEAT, self.version, {}, ()))
        self.version += 1
        free = {"CPU": 10_000 * (self.version % 16), "memory": 10**15 + self.version, "node:10.0.0.1": 10_000}
        return self.frame((BEAT, self.version, {"available": free, "queued": [[[["CPU", 10_000]], self.version]]}, ()))


class Head:
    """The head with its connections, and clocks for what it does."""

    def __init__(self) -> None:
        self.now = 0.0
        self.machine = HeadMachine(b"headnode", bytes(16), 1, 0.0)
        self.machine.receive(self.machine.own, [(JOIN, facts(b"headnode"), row())], 0.0)
        self.connections = LinkConnections(
            lambda: self.now,
            lambda peer, messages: self.machine.receive(peer, messages, self.now),
            lambda peer, connection: None,
            lambda: None,
        )
        self.spent: dict[str, float] = dict.fromkeys(("beats", "views", "ticks"), 0.0)

    def arrives(self, node: Node, data: bytes) -> None:
        self.connections.arrived(node.wire, *frame_of(data))

    def flush(self) -> None:
        machine, outbox = self.machine, self.machine.outbox
        machine.flush(self.now)
        while outbox.commands or outbox.dirty:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                if not isinstance(command, LogLine):
                    name = type(command).__name__
                    if name == "SendControl":
                        self.connections.send_control(command.connection, command.message)  # type: ignore[union-attr]
                    elif name == "SendAgain":
                        self.connections.send_again(command.connection, command.frames)  # type: ignore[union-attr]
            dirty, outbox.dirty = outbox.dirty, []
            for party in dirty:
                if party is machine.own:
                    party.out = []
                else:
                    self.connections.write(party)  # type: ignore[arg-type]

    def timed(self, what: str, function: Any, *arguments: Any) -> None:
        start = time.process_time()
        function(*arguments)
        self.spent[what] += time.process_time() - start


def join(head: Head, count: int) -> tuple[list[Node], float]:
    """All nodes join within a second, and get the list of members. Returns them, and the CPU seconds of the head."""
    start = time.process_time()
    nodes = [Node(number) for number in range(1, count)]
    for number, node in enumerate(nodes):
        head.now = 1.0 + number / count
        head.connections.add(node.wire, head.machine.peer(node.id, head.now))
        head.arrives(node, node.frame((RESUME, 1, 0), numbered=False))
        head.arrives(node, node.frame((JOIN, facts(node.id), row())))
        head.flush()
    head.now += 1.0
    head.flush()
    spent = time.process_time() - start
    assert len(head.machine.members.table) == count
    return nodes, spent


def run(head: Head, nodes: Sequence[Node], *, busy: bool) -> None:
    """Some seconds in which each node beats.

    Args:
        busy: the row of each node changes all the time. Otherwise none does.
    """
    for _ in range(200):  # what is left of the time before is not measured
        head.now += 1.0
        for node in nodes:
            head.machine.members.heard(node.id, head.now)
            head.machine.peers[node.id].link.heard_at = head.now
        head.machine.members.heard(b"headnode", head.now)
        head.flush()
        if head.machine.flush_wanted_at is None:
            break
    pause = beat_pause(head, busy=busy)
    begin = head.now
    for node in nodes:
        node.wire.written = node.wire.frames = node.beats = 0
    head.spent = dict.fromkeys(head.spent, 0.0)
    beats = [(begin + pause * number / len(nodes), number) for number in range(len(nodes))]
    heapq.heapify(beats)
    tick_at = begin
    while head.now < begin + SECONDS:
        wanted = head.machine.flush_wanted_at
        if wanted is not None and wanted <= min(tick_at, beats[0][0]):
            head.now = max(head.now, wanted)
        elif tick_at <= beats[0][0]:
            head.now = tick_at
            tick_at += 0.5
            head.timed("ticks", head.machine.tick, head.now, 0.0)
            head.machine.receive(head.machine.own, [(BEAT, 0, {}, ())], head.now)
        else:
            at, number = beats[0]
            head.now = max(head.now, at)
            data = nodes[number].beat(busy=busy)
            heapq.heapreplace(beats, (at + pause, number))
            head.timed("beats", head.arrives, nodes[number], data)
        head.timed("views", head.flush)
    assert len(head.machine.members.table) == len(nodes) + 1


def beat_pause(head: Head, *, busy: bool) -> float:
    """Seconds between two beats of a node whose row changes all the time, or never."""
    beat_every = head.machine.members.beat_every
    return EARLIEST_BEAT if busy and beat_every < SLOW_BEAT else beat_every


# The share of aiohttp -------------------------------------------------------------------------------------------------


class SocketCosts:
    """A head's end of many WebSockets, whose other ends are in another process."""

    def __init__(self) -> None:
        self._carriers: list[WebSocketCarrier] = []
        self._came = 0
        self._all_came = asyncio.Event()

    async def _serve(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        carrier = WebSocketCarrier(socket, self._received, lambda carrier, why: None)
        self._carriers.append(carrier)
        await carrier.run()
        return socket

    def _received(self, *frame: Any) -> None:
        self._came += 1
        if self._came in (SOCKETS, 2 * SOCKETS, (ROUNDS + 1) * SOCKETS):
            self._all_came.set()

    async def measure(self) -> tuple[float, float]:
        """CPU seconds for a message that comes, and for one that goes."""
        application = web.Application()
        application.router.add_get("/", self._serve)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = str(runner.addresses[0][1])
        other = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.sim.registry_cost", "--nodes", port)
        await self._all_came.wait()  # each node has said that it is connected
        body = pack([(BEAT, 1, {"available": {"CPU": 10_000, "memory": 10**15}}, ())])
        start = time.process_time()
        for _ in range(ROUNDS):
            for carrier in self._carriers:
                carrier.write(body, 1, 1)
            await asyncio.sleep(0.01)
        sent = time.process_time()
        self._all_came.clear()
        self._carriers[0].write(body, 2, 1)
        await self._all_came.wait()
        self._all_came.clear()
        begin = time.process_time()
        await self._all_came.wait()
        received = time.process_time()
        for carrier in self._carriers:
            carrier.close()
        await other.wait()
        await runner.cleanup()
        return (received - begin) / (SOCKETS * (ROUNDS - 1)), (sent - start) / (SOCKETS * ROUNDS)


async def play_nodes(port: str) -> None:
    """The other ends of the WebSockets, in a process of their own. In each round every one sends one message."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        sockets = [await session.ws_connect(f"http://127.0.0.1:{port}/") for _ in range(SOCKETS)]
        body = pack([(BEAT, 1, {"available": {"CPU": 10_000, "memory": 10**15}}, ())])
        frame = header(body, 1, 1) + body
        for socket in sockets:
            await socket.send_bytes(frame)
        for socket in sockets:
            for _ in range(ROUNDS):
                await socket.receive()
        await sockets[0].receive()
        for _ in range(ROUNDS):
            for socket in sockets:
                await socket.send_bytes(frame)
            await asyncio.sleep(0.02)
        for socket in sockets:
            await socket.close()


def main() -> None:
    if sys.argv[1:2] == ["--nodes"]:
        uvloop.run(play_nodes(sys.argv[2]))
        return
    comes, goes = uvloop.run(SocketCosts().measure())
    print(f"aiohttp: {comes * 1e6:.1f} us for a message that comes, {goes * 1e6:.1f} us for one that goes")
    print(
        "nodes | rows | join, s | MB | beats/s | us each | messages/s | us each | ticks, % | in all, % of a core | MB/s"
    )
    for count in map(int, sys.argv[1:] or ("100", "1000", "5000")):
        head = Head()
        nodes, joining = join(head, count)
        joined = f"{joining:.1f} | {sum(node.wire.written for node in nodes) / 1e6:,.0f}"
        for busy in (True, False):
            run(head, nodes, busy=busy)
            print(
                f"{count:,} | {'change' if busy else 'rest'} | {joined} | {cells(head, nodes, comes, goes)}",
                flush=True,
            )


def cells(head: Head, nodes: Sequence[Node], comes: float, goes: float) -> str:
    """The measured part of a row."""
    beats = sum(node.beats for node in nodes)
    frames = sum(node.wire.frames for node in nodes)
    written = sum(node.wire.written for node in nodes)
    spent = head.spent
    total = sum(spent.values()) + beats * comes + frames * goes
    found = (
        f"{beats / SECONDS:,.0f}",
        f"{(spent['beats'] / beats + comes) * 1e6:.0f}",
        f"{frames / SECONDS:,.0f}",
        f"{(spent['views'] / max(1, frames) + goes) * 1e6:.0f}",
        f"{100 * spent['ticks'] / SECONDS:.1f}",
        f"{100 * total / SECONDS:.0f}",
        f"{written / SECONDS / 1e6:.1f}",
    )
    return " | ".join(found)


if __name__ == "__main__":
    main()
