"""A TCP proxy for tests: it delays bytes, holds them back, and cuts connections in the middle of a frame.

A node that joins through it has its connection to the head there. The proxy runs in a thread with a loop of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK = 1 << 16


class Proxy:
    """One proxy. Its methods may be called from any thread; use ``proxied`` to make it.

    Args:
        target: host and port that it connects to.
        delay: seconds that each byte takes in each direction.
    """

    def __init__(self, target: tuple[str, int], delay: float) -> None:
        self._target = target
        self._delay = delay
        # HOST:PORT at which it listens.
        self.address = ""
        # Connections that it has carried.
        self.carried = 0
        # Both ends of the connections that live.
        self._writers: set[asyncio.StreamWriter] = set()
        # Bytes after which a connection is cut; None: never.
        self._cut_after: int | None = None
        self._pumps: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        # Cleared while bytes are held back.
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Proxy {self.address} to {self._target}, {self.carried} connections>"

    def cut(self) -> None:
        """Resets all connections. New ones are carried as before."""
        self._call(self._cut_now)

    def cut_each_after(self, count: int | None) -> None:
        """Resets each new connection once so many bytes have come from the side that connects; None: never."""

        def change() -> None:
            self._cut_after = count

        self._call(change)

    def hold(self) -> None:
        """Bytes are held back from now on, in both directions, and no connection closes."""
        self._call(self._flowing.clear)

    def flow(self) -> None:
        """The opposite: the bytes that were held back go first."""
        self._call(self._flowing.set)

    def _call(self, function: Callable[[], object]) -> None:
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the loop of the proxy stands still"

    def _cut_now(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    # In the thread of the proxy ---------------------------------------------------------------------------------------

    def run(self, ready: threading.Event) -> None:
        """Serves until ``stop``."""
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve(ready))
        finally:
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        ready.set()
        await self._ended.wait()
        server.close()
        self._cut_now()
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def stop(self) -> None:
        """Ends the proxy and all its connections. Called in another thread."""
        self._loop.call_soon_threadsafe(self._ended.set)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        ends = [writer]
        try:
            there, back = await asyncio.open_connection(*self._target)
            ends.append(back)
            self._writers.update(ends)
            self.carried += 1
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, back, self._cut_after))
                pumps.create_task(self._pump(there, writer, None))
        except* OSError:
            pass  # a side has closed, or was cut
        finally:
            for end in ends:
                self._writers.discard(end)
                end.transport.abort()
            self._pumps.discard(task)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, left: int | None) -> None:
        """Carries one direction until it ends, or until so many bytes have passed."""
        # The time at which they arrive, and the bytes; None cuts the connection.
        on_the_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(maxsize=1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(on_the_way, sink))
            data: bytes | None = b"some"
            while data:
                data = await source.read(_CHUNK if left is None else min(left, _CHUNK))
                left = None if left is None else left - len(data)
                await on_the_way.put((self._loop.time() + self._delay, data))
                if left == 0:
                    data = None
                    await on_the_way.put((self._loop.time() + self._delay, data))

    async def _deliver(self, on_the_way: asyncio.Queue[tuple[float, bytes | None]], sink: asyncio.StreamWriter) -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - self._loop.time())
            await self._flowing.wait()
            if data is None:
                raise ConnectionResetError("cut by the proxy")
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()


@contextmanager
def proxied(address: str, delay: float = 0.0) -> Iterator[Proxy]:
    """Runs a proxy in front of HOST:PORT."""
    host, _, port = address.rpartition(":")
    proxy = Proxy((host, int(port)), delay)
    ready = threading.Event()
    thread = threading.Thread(target=proxy.run, args=(ready,), name="proxy")
    thread.start()
    assert ready.wait(10), "the proxy does not start"
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()
