"""The yardstick: what the shape itself allows. Driver -> daemon -> worker -> daemon -> driver, and nothing else.

Msgpack in batches over Unix sockets under uvloop, two workers, pickled arguments and results; no scheduling, no
references, no resources, no failures. A task rate that is a share of this one can be compared between machines.
``relay.py driver SCALE`` prints, as JSON, round trips a second in batches of 1,000 (for each repetition) and the median
time of one alone; ``daemon PATH`` and ``worker PATH`` are the processes that it starts.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import math
import os
import pickle
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any, cast

import msgpack
import uvloop

_TASK, _RESULT, _WORKER = 1, 2, 0
_WORKERS = 2
_AT_A_WORKER = 64
_BATCH = 1_000
_BATCHES = 20
_ALONE = 2_000
_REPETITIONS = 4

RelayHandler = Callable[["RelayStream", list[Any]], None]


class RelayStream(asyncio.Protocol):
    """A stream of msgpack lists; messages of one turn of the loop are written at once."""

    def __init__(self, received: RelayHandler, lost: Callable[[], None] = lambda: None) -> None:
        self._received = received
        self._lost = lost
        self._out: list[Any] = []
        self._pack = msgpack.Packer(autoreset=True).pack
        self._unpacker = msgpack.Unpacker(use_list=True)
        self._armed = False
        self._transport: asyncio.WriteTransport | None = None
        self.loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<RelayStream {len(self._out)} unsent>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Of asyncio."""
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Of asyncio."""
        self._unpacker.feed(data)
        for message in self._unpacker:
            self._received(self, message)

    def send(self, message: list[Any]) -> None:
        """Sends a message with this turn's batch."""
        self._out.append(message)
        if not self._armed:
            self._armed = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._armed, out, self._out = False, self._out, []
        assert self._transport is not None
        self._transport.write(b"".join(map(self._pack, out)))


def _daemon(path: str) -> None:
    pending: collections.deque[list[Any]] = collections.deque()
    clients: dict[bytes, RelayStream] = {}
    load: dict[RelayStream, int] = {}

    def hand_out() -> None:
        while pending:
            worker = min(load, key=load.__getitem__)
            if load[worker] >= _AT_A_WORKER:
                return
            load[worker] += 1
            worker.send(pending.popleft())

    def received(stream: RelayStream, message: list[Any]) -> None:
        if message[0] == _TASK:
            clients[message[1]] = stream
            pending.append(message)
        elif message[0] == _RESULT:
            load[stream] -= 1
            clients.pop(message[1]).send(message)
        else:
            load[stream] = 0
            if len(load) == _WORKERS:
                _say_ready()
        if load:
            hand_out()

    async def serve() -> None:
        lost = asyncio.Event()  # a worker or the driver: that is the end
        make = lambda: RelayStream(received, lost.set)  # noqa: E731
        await asyncio.get_running_loop().create_unix_server(make, path)
        _say_ready()
        await lost.wait()

    uvloop.run(serve())


def _say_ready() -> None:
    print("ready", flush=True)


def _worker(path: str) -> None:
    calls: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    results: collections.deque[list[Any]] = collections.deque()
    made: queue.SimpleQueue[RelayStream] = queue.SimpleQueue()

    async def connect() -> None:
        _, stream = await asyncio.get_running_loop().create_unix_connection(
            lambda: RelayStream(lambda _, message: calls.put(message)), path
        )
        stream.send([_WORKER])
        made.put(stream)
        await asyncio.Event().wait()

    threading.Thread(target=lambda: uvloop.run(connect()), daemon=True).start()
    stream = made.get()
    armed = False

    def send_results() -> None:
        nonlocal armed
        armed = False
        while results:
            stream.send(results.popleft())

    while True:
        _, key, arguments = calls.get()
        pickle.loads(arguments)
        results.append([_RESULT, key, pickle.dumps(b"ok", 5)])
        if not armed:
            armed = True
            stream.loop.call_soon_threadsafe(send_results)


@contextlib.contextmanager
def _relay_processes(path: str) -> Iterator[None]:
    def start(role: str) -> subprocess.Popen[str]:
        command = [sys.executable, __file__, role, path]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with contextlib.ExitStack() as stack:

        def run(role: str) -> subprocess.Popen[str]:
            process = stack.enter_context(start(role))
            stack.callback(process.kill)
            return process

        daemon = run("daemon")
        assert daemon.stdout is not None
        daemon.stdout.readline()  # it listens
        for _ in range(_WORKERS):
            run("worker")
        if not daemon.stdout.readline():  # it writes a line once both workers are connected
            raise RuntimeError("the relay did not start")
        yield


async def _drive(path: str, scale: float) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    futures: dict[bytes, asyncio.Future[bytes]] = {}
    count = 0

    def received(_: RelayStream, message: list[Any]) -> None:
        futures.pop(message[1]).set_result(pickle.loads(message[2]))

    def lost() -> None:
        for future in futures.values():
            future.set_exception(ConnectionError("the relay has ended"))

    transport, stream = await loop.create_unix_connection(lambda: RelayStream(received, lost), path)

    def submit() -> asyncio.Future[bytes]:
        nonlocal count
        count += 1
        key = count.to_bytes(16, "little")
        future = futures[key] = loop.create_future()
        stream.send([_TASK, key, pickle.dumps((), 5)])
        return future

    async def run(size: int, batches: int) -> float:
        began = perf_counter()
        for _ in range(batches):
            results = [await future for future in [submit() for _ in range(size)]]
            if results.count(b"ok") != size:
                raise RuntimeError("the relay gave wrong results")
        return (perf_counter() - began) / (size * batches)

    batches = math.ceil(_BATCHES * scale)
    await run(_BATCH, batches)
    values = [1 / await run(_BATCH, batches) for _ in range(_REPETITIONS)]
    alone = [await run(1, 1) for _ in range(math.ceil(_ALONE * scale))]
    transport.close()
    return {"values": values, "p50": statistics.median(alone)}


def _driver(scale: str) -> None:
    with tempfile.TemporaryDirectory(prefix="relay-") as directory:
        path = os.path.join(directory, "socket")
        with _relay_processes(path):
            print(json.dumps(uvloop.run(_drive(path, float(scale)))))


if __name__ == "__main__":
    {"driver": _driver, "daemon": _daemon, "worker": _worker}[sys.argv[1]](sys.argv[2])
