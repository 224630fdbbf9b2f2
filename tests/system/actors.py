"""Actors and tasks that tests use, and gates at which they wait instead of sleeping.

They are not in the modules of the tests, because workers load the modules of their tasks, and pytest is large.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import asyncray.sync as ray

DEADLINE = 30.0


@ray.remote
class Log:
    """Keeps the entries that its callers add, in order."""

    kept = "a class attribute"

    def __init__(self, *first: Any, **named: Any) -> None:
        self.entries: list[Any] = [*first, *named.items()]

    def add(self, entry: Any) -> int:
        self.entries.append(entry)
        return len(self.entries)

    def all(self) -> list[Any]:
        return self.entries

    def fail(self, error: BaseException) -> None:
        raise error

    def give(self, value: Any) -> Any:
        return value

    def get(self, refs: list[Any]) -> Any:
        return ray.get(refs)

    @ray.method(num_returns=2)
    def pair(self) -> tuple[str, str]:
        return "left", "right"

    def pid(self) -> int:
        return os.getpid()

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    @classmethod
    def plain(cls, *args: Any) -> Any:
        return cls(*args)


class _Mortal:
    def __init__(self, *args: Any, **named: Any) -> None:
        self.argument = (*args, *named.values())
        self.entries: list[Any] = []

    def pid(self) -> int:
        return os.getpid()

    def add(self, entry: Any) -> list[Any]:
        self.entries.append(entry)
        return self.entries

    def look(self) -> tuple[int, tuple[Any, ...], list[Any], bool]:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        return os.getpid(), self.argument, self.entries, again

    def add_at(self, gate: Any, entry: Any) -> list[Any]:
        ray.get(gate.wait.remote())
        return self.add(entry)

    def block(self) -> None:
        threading.Event().wait()

    def start_child(self) -> int:
        return subprocess.Popen(["sleep", "1000"]).pid

    def end(self, how: str) -> None:
        if how == "os._exit":
            os._exit(3)
        elif how.startswith("sys.exit"):
            sys.exit("a last word" if how.endswith("text") else 3)
        elif how == "kill -9":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)


class _MortalLoop(_Mortal):
    async def block(self) -> None:  # type: ignore[override]
        await asyncio.Event().wait()

    async def end(self, how: str) -> None:  # type: ignore[override]
        super().end(how)


class Loop:
    """An async actor that tells where and how its methods run."""

    def __init__(self) -> None:
        self.loop_at_start = asyncio.get_running_loop()
        self.thread = threading.get_ident()
        self.entries: list[Any] = []
        self.event = asyncio.Event()

    async def wait(self, gate: Any, entry: Any = None) -> Any:
        self.entries.append(("begin", entry))
        await gate.wait.remote()
        self.entries.append(("end", entry))
        return entry

    async def switch(self, entry: Any) -> None:
        self.entries.append(("begin", entry))
        await asyncio.sleep(0)
        self.entries.append(("end", entry))

    def plain(self) -> Any:
        return self.entries

    async def until_set(self) -> str:
        await self.event.wait()
        return "set"

    def set(self) -> None:
        self.event.set()

    async def where(self) -> tuple[str, bool, bool]:
        loop = asyncio.get_running_loop()
        return type(loop).__module__, loop is self.loop_at_start, threading.get_ident() == self.thread

    def plain_where(self) -> tuple[str, bool, bool]:
        loop = asyncio.get_running_loop()
        return type(loop).__module__, loop is self.loop_at_start, threading.get_ident() == self.thread

    async def stubborn(self) -> str:
        self.entries.append("stubborn")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.entries.append(("cancelled", ray.get_runtime_context().is_canceled()))
        return "anyway"

    async def gentle(self) -> None:
        self.entries.append("gentle")
        try:
            await asyncio.Event().wait()
        finally:
            self.entries.append("cleaned up")


class Threads:
    """Tells how many of its calls overlap, and where they run."""

    def __init__(self) -> None:
        self.local = threading.local()
        self.lock = threading.Lock()
        self.inside = self.most = 0

    def wait(self, gate: Any) -> int:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        ray.get(gate.wait.remote())
        with self.lock:
            self.inside -= 1
        return threading.get_ident()

    def peak(self) -> int:
        return self.most

    def keep(self, value: Any = None) -> tuple[int, Any, str | None]:
        kept = getattr(self.local, "kept", None)
        self.local.kept = value
        return threading.get_ident(), kept, ray.get_runtime_context().get_task_id()

    def count(self) -> int:
        return threading.active_count()


class Quick:
    """Does nothing, at once."""

    def switch(self, number: int) -> int:
        return number


Mortal = ray.remote(_Mortal)
"""Keeps the entries that its callers add, and ends in many ways."""

MortalLoop = ray.remote(_MortalLoop)
"""The same with an event loop."""


@ray.remote
def identity(value: Any) -> Any:
    return value


@ray.remote
def add_to(log: Any, entry: Any) -> Any:
    return ray.get(log.add.remote(entry))


@ray.remote(num_cpus=0)
class Gate:
    """Calls of ``wait`` end when it is opened. An actor, so that any process may wait at it."""

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self._changed = asyncio.Condition()
        self._waiting = 0

    async def wait(self, value: object = None) -> object:
        """Returns the value once the gate is open."""
        self._waiting += 1
        async with self._changed:
            self._changed.notify_all()
        await self._opened.wait()
        return value

    async def open(self) -> None:
        """Ends all calls of ``wait``, also later ones."""
        self._opened.set()

    def size(self) -> int:
        """The number of calls that have come."""
        return self._waiting

    async def crowd(self, number: int) -> None:
        """Returns when so many calls have come."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting >= number)


def until(condition: Callable[[], object]) -> None:
    """Waits for an event that nothing announces, like the end of a process."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)
