"""Daemons' bulk shells in one process, with real sockets and real shared memory between them.

As a program it measures: ``python -m tests.node.bulk_hosts`` sends 800 MB between two processes.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvloop

from asyncray.core.cluster.commands import ReceiveRange, SendRange
from asyncray.io.link_streams import LinkStream
from asyncray.io.segments import Segment
from asyncray.node.bulk_shell import BulkShell
from asyncray.wire.handshake import BULK, AcceptorHandshake, DialerHandshake

TOKEN = b"t" * 32
CLUSTER = b"c" * 16
CHUNK = 1 << 20
DEADLINE = 20.0

_numbers = itertools.count()


class BulkHost:
    """One node: it records the events."""

    def __init__(self, name: str, ports: dict[bytes, int]) -> None:
        self.id = name.encode().ljust(8)
        self.ports = ports
        self.events: list[tuple[Any, ...]] = []
        self.shaken: list[LinkStream] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.flushes = 0
        self.segments: list[Segment] = []
        loop = asyncio.get_running_loop()
        self.shell = BulkShell(loop.time, self._handshake, self._connect, self._spawn, self._flush)
        self.shell.events = self

    async def start(self) -> None:
        self.server = await asyncio.get_running_loop().create_server(self._new_stream, "127.0.0.1", 0)
        self.port = self.ports[self.id] = self.server.sockets[0].getsockname()[1]

    def _new_stream(self) -> LinkStream:
        handshake = AcceptorHandshake(TOKEN, self.id, CLUSTER, os.urandom(32))
        return LinkStream(handshake, self.shell.accept, lambda *frame: None, lambda stream, why: None)

    def _handshake(self, node: bytes) -> DialerHandshake:
        return DialerHandshake(TOKEN, self.id, CLUSTER, BULK, node, os.urandom(32))

    async def _connect(self, node: bytes, stream: LinkStream) -> None:
        await asyncio.get_running_loop().create_connection(lambda: stream, "127.0.0.1", self.ports[node])

    def _spawn(self, dial: Any) -> None:
        task = asyncio.get_running_loop().create_task(dial)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def _flush(self) -> None:
        self.flushes += 1

    # The events -------------------------------------------------------------------------------------------------------

    def range_sent(self, node: bytes, transfer: int, length: int, now: float) -> None:
        self.events.append(("sent", node, transfer, length))

    def sending_failed(self, node: bytes, now: float) -> None:
        self.events.append(("sending failed", node))

    def range_received(self, node: bytes, transfer: int, position: int, now: float) -> None:
        self.events.append(("received", node, transfer, position))

    def range_failed(self, node: bytes, transfer: int, why: str, now: float) -> None:
        self.events.append(("range failed", node, transfer, why))

    def receiving_failed(self, node: bytes, now: float) -> None:
        self.events.append(("receiving failed", node))

    # Memory and commands ----------------------------------------------------------------------------------------------

    def segment(self, size: int, directory: str = "") -> Segment:
        """Makes shared memory, or a file in the directory."""
        name = f"asyncray-test-{os.getpid()}-{next(_numbers)}"
        self.segments.append(Segment.create(f"{directory}/{name}" if directory else name, size))
        return self.segments[-1]

    def do(self, command: Any) -> None:
        self.shell.perform[type(command)](command)

    def send(self, to: BulkHost, transfer: int, segment: Segment, size: int, position: int = 0) -> None:
        """Orders all chunks at once."""
        for start in range(position, size, CHUNK):
            self.do(SendRange(to.id, transfer, start, segment.name, start, min(CHUNK, size - start)))

    def receive(
        self, node: BulkHost, transfer: int, segment: Segment, size: int, position: int = 0, *, warm: bool = False
    ) -> None:
        self.do(ReceiveRange(node.id, transfer, segment.name, 0, size, position, warm))

    async def until(self, *event: Any) -> None:
        """Waits until an event has come."""
        while event not in self.events:
            await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.server.close()
        self.shell.close()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports end
        for segment in self.segments:
            segment.unlink()
            segment.close()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[BulkHost, BulkHost]]:
    """Two nodes that can reach one another."""
    async with asyncio.timeout(DEADLINE):
        ports: dict[bytes, int] = {}
        hosts = BulkHost("one", ports), BulkHost("two", ports)
        try:
            for host in hosts:
                await host.start()
            yield hosts
        finally:
            for host in hosts:
                await host.close()


# The measurement ------------------------------------------------------------------------------------------------------

TOTAL = 800_000_000
WINDOW = 8


class Pump(BulkHost):
    """A sender that orders as ``serving`` does: at most 8 chunks that the socket has not taken."""

    position = TOTAL
    chunks = 0
    receiver = b"receiver"
    transfer = 0
    source: Segment

    def range_sent(self, node: bytes, transfer: int, length: int, now: float) -> None:
        self.chunks -= 1
        # As the daemon does: in the next turn of the loop.
        asyncio.get_running_loop().call_soon(self.pump)

    def pump(self) -> None:
        while self.chunks < WINDOW and self.position < TOTAL:
            length = min(CHUNK, TOTAL - self.position)
            place = self.position, self.source.name, self.position, length
            self.do(SendRange(self.receiver, self.transfer, *place))
            self.position += length
            self.chunks += 1


async def _send_all(pipe: Any) -> None:
    loop = asyncio.get_running_loop()
    host = Pump("sender", {b"receiver": pipe.recv()})
    await host.start()
    host.source = host.segment(TOTAL)
    for start in range(0, TOTAL, CHUNK):
        host.source.buf[start : start + CHUNK] = bytes(min(CHUNK, TOTAL - start))
    pipe.send("ready")
    while True:
        ready = loop.create_future()
        loop.add_reader(pipe.fileno(), ready.set_result, None)
        await ready
        loop.remove_reader(pipe.fileno())
        host.transfer = pipe.recv()
        if not host.transfer:
            break
        host.position = 0
        host.pump()
    await host.close()


class Meter(BulkHost):
    """A receiver that knows when everything is here, and how long its loop stood still."""

    longest = 0.0

    def range_received(self, node: bytes, transfer: int, position: int, now: float) -> None:
        if position == TOTAL:
            self.done.set_result(None)

    async def _beat(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - before - 0.001)

    async def measure(self, pipe: Any, transfer: int, segment: Segment, *, warm: bool) -> str:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.longest = 0.0
        self.do(ReceiveRange(b"sender  ", transfer, segment.name, 0, TOTAL, 0, warm))
        beat = asyncio.create_task(self._beat())
        begin, busy = time.perf_counter(), time.process_time()
        pipe.send(transfer)
        await self.done
        took, busy = time.perf_counter() - begin, time.process_time() - busy
        beat.cancel()
        return (
            f"{TOTAL / took / 1e9:.2f} GB/s, loop busy {busy / took:.0%}, stood still for {self.longest * 1e3:.0f} ms"
        )


async def _receive_all(pipe: Any) -> None:
    host = Meter("receiver", {})
    await host.start()
    pipe.send(host.port)
    pipe.recv()
    segment = host.segment(TOTAL)
    print("fresh pages:            ", await host.measure(pipe, 1, segment, warm=False))
    print("warm, mapped:           ", await host.measure(pipe, 2, segment, warm=True))
    host.shell.retired(segment.name)
    print("warm, mapped only now:  ", await host.measure(pipe, 3, segment, warm=True))
    pipe.send(0)
    await host.close()


def main() -> None:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=lambda: uvloop.run(_send_all(there)))
    process.start()
    uvloop.run(_receive_all(here))
    process.join()


if __name__ == "__main__":
    main()
