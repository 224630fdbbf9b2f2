"""Waiters for objects: threads, event loops, and functions that the io thread calls.

Owns the link between objects whose value has not arrived and those that wait for them. A waiter is registered with
every object that it misses, and fires once: when enough objects have come, when one failed and the waiter cares, or
when the session ends. Threads wait on a lock of their own; an event loop gets one ``call_soon_threadsafe`` for each
batch of values, never one for each value.

Promises:

1. One lock guards all links. The io thread takes it once for each batch of values.
2. Registering, withdrawing and firing cost the same however many others wait for the same object.
3. Waiters are woken after the lock was released, and no code of the user runs under it, with one exception: the garbage
   collector may run a finalizer wherever memory is allocated. So little is allocated under the lock: an object with a
   single waiter holds it without a container.

Loops live in helper functions, not inside ``with lock:`` blocks: see ``asyncray.io.interrupts``.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any

from asyncray.exceptions import LocalNodeDiedError
from asyncray.io import signal_checks
from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ERROR, ERRORS, FAULT, UNRESOLVED
from asyncray.runtime.references import ELSEWHERE, LocalObject, exists

if TYPE_CHECKING:
    import asyncio

LoopCalls = dict[Any, deque[Callable[[], None]]]
"""Event loop -> functions that it is to call."""


class Waiter:
    """Fires once, after ``remaining`` objects came or, if it ``fails_fast``, after one that is an error.

    Args:
        fetches: objects must come here. Otherwise they must exist, on any node.
    """

    __slots__ = ("fails_fast", "fetches", "fired", "remaining", "reported")

    def __init__(self, remaining: int, *, fails_fast: bool = False, fetches: bool = True) -> None:
        # Objects that are still missing. Changed under the lock of ``Waiters``.
        self.remaining = remaining
        self.fails_fast = fails_fast
        self.fetches = fetches
        # Set once, under the same lock; read in any thread.
        self.fired = False
        # The daemon has learned that a task waits here, and not yet of the end of the wait. Written by
        # ``BlockReporter``.
        self.reported = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'fired' if self.fired else f'misses {self.remaining}'}>"

    def wake(self, calls: LoopCalls) -> None:
        """Wakes the thread or coroutine that waits. Adds the functions that event loops must call to ``calls``."""
        raise NotImplementedError


class ThreadWaiter(Waiter):
    """A thread that waits on a lock."""

    __slots__ = ("_lock",)

    def __init__(self, remaining: int, *, fails_fast: bool = False, fetches: bool = True) -> None:
        super().__init__(remaining, fails_fast=fails_fast, fetches=fetches)
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, calls: LoopCalls) -> None:
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """False if the time is up first. A signal handler that raises ends it, too."""
        return self._lock.acquire(timeout=-1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX))

    def wait_for_signals_too(self, timeout: float | None) -> bool:
        """The same; also a signal ends it that comes as the main thread falls asleep."""
        return signal_checks.acquire(self._lock, timeout)


class IoThreadCallback(Waiter):
    """A function of ours that the thread which reads the stream calls: it must be quick."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(1)
        self._function = function

    def wake(self, calls: LoopCalls) -> None:
        self._function()


class LoopWaiter(Waiter):
    """A future of an event loop."""

    __slots__ = ("_loop", "future")

    def __init__(
        self, remaining: int, loop: asyncio.AbstractEventLoop, *, fails_fast: bool = False, fetches: bool = True
    ) -> None:
        super().__init__(remaining, fails_fast=fails_fast, fetches=fetches)
        self._loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self, calls: LoopCalls) -> None:
        _add_call(calls, self._loop, self._resolve)

    def _resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class LoopCallback(Waiter):
    """A function of the user's that an event loop calls.

    Args:
        loop: calls it.
        function: ``remove_callback`` finds the waiter by it.
        call: calls the function; runs in the loop.
        withdrawn: called instead if the function is not to be called any more.
    """

    __slots__ = ("_call", "_loop", "function", "key", "withdrawn")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: object, call: Callable[[], None], withdrawn: Callable[[], None]
    ) -> None:
        super().__init__(1)
        self.function = function
        self.withdrawn = withdrawn
        # Its place in the index of callbacks, while it is registered. Written under the lock of ``Waiters``.
        self.key: CallbackKey | None = None
        self._loop = loop
        self._call = call

    def wake(self, calls: LoopCalls) -> None:
        _add_call(calls, self._loop, self._call)


def _add_call(calls: LoopCalls, loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    queue = calls.get(loop)
    if queue is None:
        queue = calls[loop] = deque()
    queue.append(function)


CallbackKey = tuple[int, int, int]
"""The ``id`` of the local object, and two numbers that identify the function: see ``_identify``."""


class Waiters:
    """Registers waiters and fires them."""

    def __init__(self) -> None:
        # Asks for values that are on other nodes. ``Connection`` sets it.
        self.ask_for: Callable[[Sequence[LocalObject]], None] = _ask_nobody
        # The value of an object was on another node once, or can leave for one. Until then no waiter looks for such
        # values.
        self._any_away = False
        # Re-entrant: a finalizer may come here in a thread that holds it. It guards all attributes below,
        # ``LocalObject.waiters``, and ``kind`` and ``payload`` of objects at the moment when they are resolved.
        self._lock = OwnedRLock()
        # Every registered waiter that has not fired, in the order of registration.
        self._all: dict[Waiter, None] = {}
        # Callbacks by object and function, so that the removal of one needs no search among the others.
        self._callbacks: dict[CallbackKey, dict[LoopCallback, None]] = {}
        # The sentence that says why no value can arrive any more; None while the session lives.
        self.broken: str | None = None
        # This process ends the session, so the end of its stream is no death of the node. Written by the thread that
        # does so.
        self.leaving = False

    def __repr__(self) -> str:
        return f"<Waiters {len(self._all)} waiting>"

    # Any thread -------------------------------------------------------------------------------------------------------

    def held_by_this_thread(self) -> bool:
        """True in a finalizer that came up inside a critical section of this object."""
        return self._lock.held_by_this_thread()

    def has_waiters(self) -> bool:
        """True while a waiter is registered."""
        return bool(self._all)

    def check_alive(self) -> None:
        """Raises LocalNodeDiedError if no value can arrive any more."""
        if self.broken is not None:
            raise LocalNodeDiedError(self.broken)

    def satisfied(
        self, objects: Sequence[LocalObject], enough: int, *, fails_fast: bool = False, fetches: bool = True
    ) -> bool:
        """True if a waiter for these objects would not have to wait."""
        if not fetches:
            return self.broken is not None or sum(map(exists, objects)) >= enough
        kinds = [local.kind for local in objects]
        failed = fails_fast and (ERROR in kinds or FAULT in kinds)
        return failed or self.broken is not None or len(kinds) - kinds.count(UNRESOLVED) >= enough

    def register(self, waiter: Waiter, objects: Sequence[LocalObject]) -> bool:
        """Registers the waiter with those objects that have not arrived. False if it need not wait at all.

        ``waiter.remaining`` counts the objects that the waiter misses: those that have arrived are subtracted here.
        """
        try:
            with self._lock:
                waits = self.broken is None and self._register(
                    waiter, objects if waiter.fetches else self._leave_out_elsewhere(waiter, objects)
                )
            if waits and self._any_away and waiter.fetches:
                self._ask_for_away(waiter, objects)
            return waits
        # A signal handler raised, and no other code would withdraw the waiter.
        except BaseException:
            self.withdraw(waiter, objects)
            raise

    def _ask_for_away(self, waiter: Waiter, objects: Sequence[LocalObject]) -> None:
        # 1. A thread saw that a value would be pushed. 2. The value was on another node. 3. The thread waits for it.
        missing = [local for local in objects if local.kind == UNRESOLVED]
        away = [local for local in missing if not local.push_expected]
        if not away:
            return
        if waiter.remaining >= len(missing):
            self.ask_for(away)
        else:  # they are not needed together
            for local in away:
                self.ask_for((local,))

    def register_callback(self, callback: LoopCallback, local: LocalObject) -> bool:
        """The same for a callback, which ``remove_callback`` finds by its function."""
        key = (id(local), *_identify(callback.function))
        if not self.register(callback, (local,)):
            return False
        with self._lock:
            self._index(callback, key)
        return True

    def withdraw(self, waiter: Waiter, objects: Iterable[LocalObject]) -> None:
        """The waiter has fired, or gave up."""
        with self._lock:
            self._forget(waiter)
            _remove(waiter, objects)

    def remove_callback(self, local: LocalObject, function: object) -> int:
        """Withdraws the callbacks of the object that would call the function. Returns their number."""
        number, detail = _identify(function)
        count = 0
        for callback in self._callbacks_at((id(local), number, detail)):
            # Functions of a kind that defines ``==`` share a key. The user's ``==`` runs here, outside of the lock.
            if (detail != _HAS_OWN_EQUALITY or callback.function == function) and self._take_back(callback, local):
                count += 1
                callback.withdrawn()
        return count

    def wake_early(self, waiter: Waiter) -> None:
        """Wakes a waiter early (its task was cancelled); the caller finds the reason in its task context."""
        fired: list[Waiter] = []
        with self._lock:
            self._fire(waiter, fired)
        wake_all(fired)

    # In the io thread, or the thread that reads in its place ----------------------------------------------------------

    def went_away(self, local: LocalObject, *, comes: bool) -> bool:
        """The value of an object is on another node.

        Args:
            comes: it comes here without being asked for.

        Returns:
            True if it must be asked for, because something waits for it here.
        """
        fired: list[Waiter] = []
        with self._lock:
            local.payload = ELSEWHERE
            self._exists(local, fired)
            asks = not comes and local.waiters is not None
            if not comes:
                self._any_away = True
                local.push_expected = asks
        wake_all(fired)
        return asks

    def values_may_leave(self) -> None:
        """A value has come that is here only as long as it has views: see ``References``."""
        self._any_away = True

    def resolved(self, values: Sequence[tuple[LocalObject, int, Any]]) -> None:
        """A batch of values came."""
        fired: list[Waiter] = []
        with self._lock:
            self._resolve(values, fired)
        if fired:
            wake_all(fired)

    def fail(self, reason: str, details: str = "") -> None:
        """The session has ended: every waiter is woken and finds ``broken``.

        Args:
            details: text that follows the sentence with the reason.
        """
        left = "This process has left its node by shutdown(): no value arrives any more."
        fired: list[Waiter] = []
        with self._lock:
            self.broken = left if self.leaving else f"The node of this process has ended: {reason}.{details}"
            self._fire_all(fired)
        wake_all(fired)

    def end_in_child(self) -> None:
        """In a forked child: no value arrives, and the waits in whose middle a signal handler has forked end.

        Event loops are not woken: their pipe is the parent's, too.
        """
        if not self._lock.held_by_this_thread():
            self._lock.reset_in_child()  # a thread that has stayed in the parent may hold it
        fired: list[Waiter] = []
        with self._lock:
            self.broken = "The session belongs to the process that this one was forked from: no value arrives here."
            self._fire_all(fired)
        wake_all([waiter for waiter in fired if type(waiter) is ThreadWaiter])

    # Under the lock ---------------------------------------------------------------------------------------------------

    def _register(self, waiter: Waiter, objects: Sequence[LocalObject]) -> bool:
        missing = False
        for local in objects:
            if local.kind == UNRESOLVED:
                missing = True
            else:
                waiter.remaining -= 1
                if waiter.fails_fast and local.kind in (ERROR, FAULT):
                    return False
        if waiter.remaining <= 0 or not missing:
            return False
        for local in objects:
            if local.kind == UNRESOLVED:
                if local.waiters is None:  # the hot path
                    local.waiters = waiter
                else:
                    _add(waiter, local)
        self._all[waiter] = None
        # A signal handler may have forked since ``register`` looked. If so, ``end_in_child`` did not find this waiter.
        return self.broken is None

    def _leave_out_elsewhere(self, waiter: Waiter, objects: Sequence[LocalObject]) -> Sequence[LocalObject]:
        """Returns the objects that are not known to be on another node. The others count as arrived."""
        rest = [local for local in objects if local.payload is not ELSEWHERE]
        waiter.remaining -= len(objects) - len(rest)
        return rest

    def _exists(self, local: LocalObject, fired: list[Waiter]) -> None:
        """The waiters that fetch nothing wait for this object no more."""
        waiters = local.waiters
        if waiters is None:
            return
        for waiter, times in list(waiters.items()) if type(waiters) is dict else [(waiters, 1)]:
            if not waiter.fetches:
                _remove(waiter, (local,))
                self._count_down(waiter, times, UNRESOLVED, fired)

    def _index(self, callback: LoopCallback, key: CallbackKey) -> None:
        if not callback.fired:
            callback.key = key
            self._callbacks.setdefault(key, {})[callback] = None

    def _resolve(self, values: Sequence[tuple[LocalObject, int, Any]], fired: list[Waiter]) -> None:
        for local, kind, payload in values:
            local.payload = payload
            local.kind = kind
            waiters = local.waiters
            if waiters is None:
                continue
            local.waiters = None
            if type(waiters) is dict:
                for waiter, times in waiters.items():
                    self._count_down(waiter, times, kind, fired)
            elif waiters.remaining > 1 and kind not in ERRORS:  # the hot path
                waiters.remaining -= 1
            else:
                self._count_down(waiters, 1, kind, fired)

    def _count_down(self, waiter: Waiter, times: int, kind: int, fired: list[Waiter]) -> None:
        waiter.remaining -= times
        if waiter.remaining <= 0 or (waiter.fails_fast and kind in (ERROR, FAULT)):
            self._fire(waiter, fired)

    def _fire(self, waiter: Waiter, fired: list[Waiter]) -> None:
        if not waiter.fired:
            waiter.fired = True
            self._forget(waiter)
            fired.append(waiter)

    def _fire_all(self, fired: list[Waiter]) -> None:
        for waiter in tuple(self._all):
            self._fire(waiter, fired)

    def _forget(self, waiter: Waiter) -> None:
        self._all.pop(waiter, None)
        if type(waiter) is LoopCallback and waiter.key is not None:
            same = self._callbacks.get(waiter.key)
            if same is not None:
                same.pop(waiter, None)
                if not same:
                    del self._callbacks[waiter.key]
            waiter.key = None

    # Taking the lock --------------------------------------------------------------------------------------------------

    def _callbacks_at(self, key: CallbackKey) -> tuple[LoopCallback, ...]:
        with self._lock:
            return tuple(self._callbacks.get(key, ()))

    def _take_back(self, callback: LoopCallback, local: LocalObject) -> bool:
        """Withdraws the callback. False if it has fired."""
        with self._lock:
            self._forget(callback)
            _remove(callback, (local,))
            return not callback.fired


def _ask_nobody(objects: Sequence[LocalObject]) -> None:
    raise AssertionError(f"{objects} are on other nodes, and there is no connection")


_HAS_OWN_EQUALITY = -1


def _identify(function: object) -> tuple[int, int]:
    """Two numbers that are the same for functions that are equal.

    Functions, lambdas and most objects are equal if they are the same object, bound methods if they are the same method
    of the same object. Other callables may define ``==``: all of these get the same numbers.
    """
    if type(function) is MethodType:
        return id(function.__func__), id(function.__self__)
    if type(function).__eq__ is object.__eq__:
        return id(function), 0
    return 0, _HAS_OWN_EQUALITY


def _add(waiter: Waiter, local: LocalObject) -> None:
    """``LocalObject.waiters``: None, a single waiter, or waiter -> how often it waits for this object."""
    waiters = local.waiters
    if type(waiters) is not dict:
        waiters = local.waiters = {waiters: 1}
    waiters[waiter] = waiters.get(waiter, 0) + 1


def _remove(waiter: Waiter, objects: Iterable[LocalObject]) -> None:
    for local in objects:
        waiters = local.waiters
        if waiters is waiter:
            local.waiters = None
        elif type(waiters) is dict:
            waiters.pop(waiter, None)
            if not waiters:
                local.waiters = None


def wake_all(fired: Sequence[Waiter]) -> None:
    """Wakes the waiters, with one call into each event loop."""
    calls: LoopCalls = {}
    for waiter in fired:
        waiter.wake(calls)
    for loop, functions in calls.items():
        try:
            loop.call_soon_threadsafe(_call_all, loop, functions)
        except RuntimeError:
            pass  # the loop was closed, and its waiters went with it


# In the loop's thread -------------------------------------------------------------------------------------------------


def _call_all(loop: asyncio.AbstractEventLoop, functions: deque[Callable[[], None]]) -> None:
    """Calls all of them, whatever a signal handler raises: a waiter that is not woken would wait for ever."""
    try:
        with_signals_deferred(functools.partial(_call_each, functions))
    finally:
        if functions:  # an exception came before signals were deferred
            loop.call_soon(_call_all, loop, functions)


def _call_each(functions: deque[Callable[[], None]]) -> None:
    while functions:
        functions.popleft()()
