"""Signals that come while the main thread sleeps, and that interrupt nothing, because another thread gets them.

A signal that comes as the main thread falls asleep does the same: it is noted, and nothing wakes.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

DEADLINE = 30.0


class Came(Exception):
    """Raised by the handler of the signal."""


class SignalInSleep:
    """As a context manager it owns the handler of SIGUSR1; its block must end by ``Came``.

    Args:
        is_waiting: true once the main thread is about to sleep where the signal shall come.
    """

    def __init__(self, is_waiting: Callable[[], bool] = lambda: True) -> None:
        self._is_waiting = is_waiting
        self._unwanted = threading.Event()
        # The handler has run.
        self._came = threading.Event()
        self._lost = False
        self._sender = threading.Thread(target=self._send)

    def __repr__(self) -> str:
        return f"<SignalInSleep {self._sender}>"

    def __enter__(self) -> SignalInSleep:
        self._before = signal.signal(signal.SIGUSR1, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        self._unwanted.set()
        self._sender.join(DEADLINE)
        signal.signal(signal.SIGUSR1, self._before)
        assert not self._lost, "the main thread slept on"

    def send(self) -> None:
        """The signal comes as soon as the main thread sleeps."""
        self._sender.start()

    def _handle(self, number: int, frame: object) -> None:
        self._came.set()
        raise Came

    def _send(self) -> None:
        while not self._unwanted.is_set():
            if self._is_waiting() and _main_thread_sleeps():
                signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
                if not self._came.wait(DEADLINE):
                    self._lost = True
                    os.kill(os.getpid(), signal.SIGUSR1)  # interrupts the main thread
                return


def _main_thread_sleeps() -> bool:
    with open(f"/proc/self/task/{threading.main_thread().native_id}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"
