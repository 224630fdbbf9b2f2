"""Waiting for objects, in threads and in event loops.

A waiter is registered with every object that it still misses, under one lock that the io thread takes once for each
batch of values. It fires once: when enough objects are there, when one failed and it cares, or when the session
ends. Threads wait on a lock of their own; loops get one ``call_soon_threadsafe`` per batch, never one per result.

What loops stands outside of what takes the lock: see ``asyncray.io.interrupts``.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ERROR, FAULT, UNRESOLVED
from asyncray.runtime.references import LocalObject

if TYPE_CHECKING:
    import asyncio


class Waiter:
    """Fires once, after ``remaining`` objects came or, if it ``fails_fast``, after one that is an error."""

    __slots__ = ("fails_fast", "fired", "remaining")

    def __init__(self, remaining: int, fails_fast: bool) -> None:
        self.remaining = remaining
        self.fails_fast = fails_fast
        self.fired = False

    def wake(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        """Tells whoever waits. Calls into event loops are gathered in ``loops``."""
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread that waits on a lock."""

    __slots__ = ("_lock",)

    def __init__(self, remaining: int, fails_fast: bool) -> None:
        super().__init__(remaining, fails_fast)
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """False if the time is over first. A signal handler that raises ends it, too."""
        return self._lock.acquire(True, -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))


class IoThreadCallback(Waiter):
    """A function that is called in the io thread: it must be quick."""

    __slots__ = ("_function",)

    def __init__(self, remaining: int, function: Callable[[], None]) -> None:
        super().__init__(remaining, False)
        self._function = function

    def wake(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        self._function()


class LoopWaiter(Waiter):
    """A future of an event loop."""

    __slots__ = ("_loop", "future")

    def __init__(self, remaining: int, fails_fast: bool, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(remaining, fails_fast)
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        loops.setdefault(self._loop, []).append(self._resolve)

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class LoopCallback(Waiter):
    """A function that an event loop calls.

    Args:
        function: what the waiter is found by.
        call: calls it; called in the loop.
        withdrawn: called if it is not to be called any more.
    """

    __slots__ = ("_call", "_loop", "function", "withdrawn")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: object, call: Callable[[], None], withdrawn: Callable[[], None]
    ) -> None:
        super().__init__(1, False)
        self.function = function
        self.withdrawn = withdrawn
        self._loop = loop
        self._call = call

    def wake(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        loops.setdefault(self._loop, []).append(self._call)


class Waiters:
    """Registers waiters and fires them."""

    def __init__(self) -> None:
        self._lock = OwnedRLock()  # re-entrant: a finalizer may come here in a thread that holds it
        self._all: set[Waiter] = set()
        self.broken: str | None = None

    def __repr__(self) -> str:
        return f"<Waiters {len(self._all)} waiting>"

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up inside a critical section of this object."""
        return self._lock.held_by_this_thread()

    def has_waiters(self) -> bool:
        """True while somebody waits."""
        return bool(self._all)

    def satisfied(self, objects: Sequence[LocalObject], enough: int, fails_fast: bool) -> bool:
        """True if whoever waits for these would not wait now."""
        kinds = [local.kind for local in objects]
        failed = fails_fast and (ERROR in kinds or FAULT in kinds)
        return failed or self.broken is not None or len(kinds) - kinds.count(UNRESOLVED) >= enough

    def register(self, waiter: Waiter, objects: Iterable[LocalObject]) -> bool:
        """Registers the waiter with those objects that are not there. False if it need not wait at all.

        ``waiter.remaining`` counts what is missing for it; objects that came meanwhile are taken off here.
        """
        try:
            with self._lock:
                return self.broken is None and self._register(waiter, objects)
        except BaseException:  # a signal handler that raised: nobody else would withdraw it
            self.withdraw(waiter, objects)
            raise

    def _register(self, waiter: Waiter, objects: Iterable[LocalObject]) -> bool:
        missing = []
        for local in objects:
            if local.kind == UNRESOLVED:
                missing.append(local)
            else:
                waiter.remaining -= 1
                if waiter.fails_fast and local.kind in (ERROR, FAULT):
                    return False
        if waiter.remaining <= 0 or not missing:
            return False
        for local in missing:
            if local.waiters is None:
                local.waiters = [waiter]
            else:
                local.waiters.append(waiter)
        self._all.add(waiter)
        return True

    def withdraw(self, waiter: Waiter, objects: Iterable[LocalObject]) -> None:
        """The waiter has what it wants, or gave up."""
        with self._lock:
            self._all.discard(waiter)
            _remove(waiter, objects)

    def remove_callback(self, local: LocalObject, function: object) -> int:
        """Withdraws the ``LoopCallback``s that would call the function. Returns how many."""
        count = 0
        for waiter in tuple(local.waiters or ()):
            if type(waiter) is LoopCallback and waiter.function == function:
                self.withdraw(waiter, (local,))
                if not waiter.fired:
                    count += 1
                    waiter.withdrawn()
        return count

    def wake_early(self, waiter: Waiter) -> None:
        """Wakes somebody whose objects are not there: what he is to do instead he learns elsewhere."""
        loops: dict[Any, list[Callable[[], None]]] = {}
        with self._lock:
            self._fire(waiter, loops)
        call(loops)

    def resolved(self, values: Sequence[tuple[LocalObject, int, Any]]) -> None:
        """A batch of values came (in the io thread)."""
        loops: dict[Any, list[Callable[[], None]]] = {}
        with self._lock:
            self._resolve(values, loops)
        call(loops)

    def _resolve(
        self, values: Sequence[tuple[LocalObject, int, Any]], loops: dict[Any, list[Callable[[], None]]]
    ) -> None:
        for local, kind, payload in values:
            local.payload = payload
            local.kind = kind
            waiters = local.waiters
            if waiters is None:
                continue
            local.waiters = None
            for waiter in waiters:
                waiter.remaining -= 1
                if waiter.remaining <= 0 or (waiter.fails_fast and kind in (ERROR, FAULT)):
                    self._fire(waiter, loops)

    def _fire(self, waiter: Waiter, loops: dict[Any, list[Callable[[], None]]]) -> None:
        if not waiter.fired:
            waiter.fired = True
            self._all.discard(waiter)
            waiter.wake(loops)

    def fail(self, reason: str) -> None:
        """The session is over: everybody is woken and finds ``broken``."""
        loops: dict[Any, list[Callable[[], None]]] = {}
        with self._lock:
            self.broken = reason
            self._fire_all(loops)
        call(loops)

    def _fire_all(self, loops: dict[Any, list[Callable[[], None]]]) -> None:
        for waiter in tuple(self._all):
            self._fire(waiter, loops)


def _remove(waiter: Waiter, objects: Iterable[LocalObject]) -> None:
    for local in objects:
        if local.waiters is not None:
            try:
                local.waiters.remove(waiter)
            except ValueError:
                continue
            if not local.waiters:
                local.waiters = None


def call(loops: dict[Any, list[Callable[[], None]]]) -> None:
    """One call into each loop."""
    for loop, functions in loops.items():
        try:
            loop.call_soon_threadsafe(_call_all, loop, deque(functions))
        except RuntimeError:
            pass  # the loop was closed, and with it went everybody who waited


def _call_all(loop: asyncio.AbstractEventLoop, functions: deque[Callable[[], None]]) -> None:
    """All, whatever a signal handler raises: whoever is not told would wait for ever."""
    try:
        with_signals_deferred(functools.partial(_call_each, functions))
    finally:
        if functions:  # an exception came before signals were deferred
            loop.call_soon(_call_all, loop, functions)


def _call_each(functions: deque[Callable[[], None]]) -> None:
    while functions:
        functions.popleft()()
