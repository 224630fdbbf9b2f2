"""The main thread of a driver looks for signals while it waits, so that none of them is lost.

1. **Goal.** SIGTERM, Ctrl-C and the signals of the program end a wait, whenever they come.
2. **Why one would not.** Python's handler in C only notes a signal. The main thread looks for that note between two
   instructions, and where the signal has interrupted its system call. A signal that comes between the last look and the
   beginning of that call, or to another thread, interrupts nothing: the main thread sleeps until something else wakes
   it. On a busy machine that happened to 10 of 40,000 signals that came as a thread began to wait for a lock.
3. **Things that do not work.**

   * *A wake-up descriptor* (``signal.set_wakeup_fd``): there is one for each process, which asyncio and uvloop use, and
     it wakes no thread that waits for a lock.
   * *Unblocking signals in the system call itself* (``ppoll``, ``pselect``): Python has neither.
   * *Sending the signal again*: only the main thread knows that a handler has not run.
4. **Solution.** The main thread sleeps for at most ``LONGEST_SLEEP``, and then looks. An event loop that has something
   of ours to wait for has a timer that wakes it as often. Workers do without: thousands may wait, and the signal of a
   cancelled task is sent again until its handler has run.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from asyncray.io.interrupts import in_main_thread

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

LONGEST_SLEEP = 0.5
"""Seconds. A look takes 20 us, so a driver that waits uses 0.004 % of a CPU for it."""


def acquire(lock: threading.Lock, timeout: float | None) -> bool:
    """Acquires a lock, and looks for signals meanwhile. False if so many seconds have passed first."""
    until = threading.TIMEOUT_MAX if timeout is None else time.monotonic() + timeout
    if not in_main_thread():
        return lock.acquire(timeout=min(max(0.0, until - time.monotonic()), threading.TIMEOUT_MAX))
    while not lock.acquire(timeout=min(max(0.0, until - time.monotonic()), LONGEST_SLEEP)):
        if time.monotonic() >= until:
            return False
    return True


def longest_poll() -> int | None:
    """Milliseconds that this thread may sleep in one call; None: any time."""
    return int(LONGEST_SLEEP * 1000) if in_main_thread() else None


class LoopChecks:
    """Wakes the event loop of the main thread now and then, as long as something is waited for.

    Args:
        anyone_waiting: true while a thread or loop waits for messages.
    """

    def __init__(self, anyone_waiting: Callable[[], bool]) -> None:
        self._anyone_waiting = anyone_waiting
        # The loop that has a timer, and the timer. Main thread only.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<LoopChecks {self._loop}>"

    def begin(self, loop: asyncio.AbstractEventLoop) -> None:
        """Something of ours is waited for in this loop, whose thread calls. Does nothing off the main thread."""
        if loop is self._loop or not in_main_thread():
            return
        # The timer of a closed loop never runs.
        if self._timer is not None and self._loop is not None and not self._loop.is_closed():
            self._timer.cancel()
        self._timer = loop.call_later(LONGEST_SLEEP, self._look, loop)
        # Last, because a signal handler may raise before: then the next wait makes the timer.
        self._loop = loop

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop has woken, and the interpreter has looked for signals."""
        if loop is not self._loop:
            return
        if self._anyone_waiting():
            self._timer = loop.call_later(LONGEST_SLEEP, self._look, loop)
        else:
            self._loop = self._timer = None
