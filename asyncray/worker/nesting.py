"""A nested task: one that runs on a thread of its own, beside the main thread, which waits in ``get``.

Signals reach the main thread only, so a nested task is cancelled by an exception that the interpreter raises in its
thread, between any two instructions. Two things make that safe:

1. While the thread is inside the *shield* (it writes to the daemon), the exception is deferred until it leaves it.
2. At the end of the user's function the thread and the canceller agree under a lock that the function has finished, so
   nothing is raised in the code that replies. An exception that was not raised yet is taken back then, by another one
   that is raised at once and caught. To take it back by NULL leaves a mark in Python 3.11 and 3.12: the interpreter
   looks for an exception after each call from then on, and in 3.11 a function that is traced never begins.

A thread that sleeps in a system call notices the exception when the call returns; a thread that waits in ``get`` is
woken.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any

from asyncray.runtime.waiters import Waiter, Waiters
from asyncray.worker.running import Invocation

_raise_in_thread = ctypes.pythonapi.PyThreadState_SetAsyncExc
_EXCEPTION = ctypes.py_object(KeyboardInterrupt)


class _TakenBack(BaseException):
    """Takes the place of an interrupt that came too late."""


_REPLACEMENT = ctypes.py_object(_TakenBack)


def _take_back() -> None:
    """An interrupt of this thread that was not raised yet is not raised at all."""
    try:
        _raise_in_thread(ctypes.c_ulong(threading.get_ident()), _REPLACEMENT)
        while True:
            pass
    except _TakenBack:
        pass


class NestedTask:
    """One nested task; as a context manager, its shield.

    Args:
        waiters: where its thread is registered while it waits.
    """

    def __init__(self, invocation: Invocation, waiters: Waiters) -> None:
        self.invocation = invocation
        # The waiter that the thread waits on, or that it used last.
        self.waiter: Waiter | None = None
        invocation.context.shield = self
        self._waiters = waiters
        self._lock = threading.Lock()
        # The thread, while it runs the user's function. Changed under the lock.
        self._working: int | None = None
        # The task was cancelled.
        self._stopped = False
        # The thread is inside the shield. Written by that thread, without the lock.
        self._shielded = False
        # An exception waits until the thread leaves the shield. Set under the lock, cleared by that thread.
        self._put_off = False
        # Its thread was interrupted. The interrupt may not have been raised yet.
        self._interrupted = False

    def __repr__(self) -> str:
        return f"<NestedTask {self.invocation} {'stopped' if self._stopped else 'running'}>"

    def start(self, target: Callable[[NestedTask], None]) -> None:
        """Starts its thread, which runs ``target`` with it."""
        self.thread = threading.Thread(target=target, args=(self,), name="asyncray-nested", daemon=True)
        self.thread.start()

    def join(self) -> None:
        """Waits for its thread to end."""
        self.thread.join()

    def run(self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Runs the user's function on this thread. Raises KeyboardInterrupt if the task was cancelled."""
        try:
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                self._working = threading.get_ident()
            return function(*args, **kwargs)
        finally:
            with self._lock:
                self._working = None
            if self._interrupted:
                _take_back()

    def stop(self) -> None:
        """Cancels the task, from another thread."""
        if not self._stopped:
            self._stopped = True
            self.interrupt()

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt in the task, if it still runs."""
        with self._lock:
            if self._working is None:
                return
            thread = ctypes.c_ulong(self._working)
            # Threads switch only after calls and at jumps, and none stands between these lines. So the thread makes no
            # step before the exception is raised in it, and submits nothing that would not be cancelled with it.
            self.invocation.context.cancelled = True
            if self._shielded:
                self._put_off = True
            else:
                self._interrupted = True
                _raise_in_thread(thread, _EXCEPTION)
            waiter = self.waiter
        if waiter is not None:
            self._waiters.wake_early(waiter)

    @property
    def working(self) -> int | None:
        """The thread that runs the user's function, while it does."""
        return self._working

    def __enter__(self) -> None:
        # Other threads may have this task's context, because asyncio.to_thread copies it.
        if threading.get_ident() == self._working:
            self._shielded = True

    def __exit__(self, *exc_info: object) -> None:
        if threading.get_ident() == self._working:
            self._shielded = False
            if self._put_off:
                self._put_off = False
                raise KeyboardInterrupt
