"""Keeping exceptions of signal handlers out of the middle of things.

Signal handlers run in the main thread between any two instructions, and some raise: that of SIGINT does, those of
time limits (SIGALRM) and batch systems (SIGUSR1) do. Where that would leave half a message on a stream, or room in
shared memory that nobody gives back, the handler is put off until the work is done.

Two ways: a handler of ours asks (``Deferrable``); any other is replaced for the moment. To replace one costs two system
calls, so it is only done for signals that have a handler from Python.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.signal without conversions to enums: 0.3 us instead of 3.2, twice for each request
import contextlib
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

_NUMBERS = (_signal.SIGINT, _signal.SIGALRM, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)
"""Whose handlers raise in practice."""

_getsignal = _signal.getsignal
_depth = 0
"""How many deferrals are entered. Only the main thread defers, and only there handlers run."""

_came: list[tuple[Handler, int, FrameType | None]] = []
"""Handlers that are put off."""


class Deferrable:
    """A signal handler that lets itself be put off.

    Example::

        signal.signal(signal.SIGTERM, Deferrable(leave))
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def __repr__(self) -> str:
        return f"<Deferrable {self._handler!r}>"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _depth:
            if all(other != number for _, other, _ in _came):  # as the system does with a signal that is pending
                _came.append((self._handler, number, frame))
        else:
            self._handler(number, frame)


class DeferredInterrupt:
    """Puts signal handlers off while it is entered. For the main thread; costs 1 us.

    Example::

        with DeferredInterrupt():
            write_a_whole_message()
    """

    __slots__ = ("_replaced",)

    def __init__(self) -> None:
        self._replaced: list[tuple[int, Any]] = []

    def __enter__(self) -> None:
        global _depth
        _depth += 1  # from here on ours are put off; the interpreter looks for signals at calls and jumps only
        if _depth > 1:
            return
        try:
            for number in _NUMBERS:
                if callable(handler := _getsignal(number)) and type(handler) is not Deferrable:
                    # Noted before it is done: should another handler raise in between, it is undone all the same.
                    self._replaced.append((number, handler))
                    _signal.signal(number, Deferrable(handler))
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        global _depth
        try:
            _restore(self._replaced)
        finally:
            _depth -= 1  # last: until here what comes is put off

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._leave()
        finally:
            if not _depth:
                _catch_up()


def _catch_up() -> None:
    """Runs what was put off. All of it, though one raises."""
    if _came:
        handler, number, frame = _came.pop(0)
        try:
            handler(number, frame)
        finally:
            _catch_up()


def _restore(replaced: list[tuple[int, Any]]) -> None:
    """To put one back may raise what another one, which is back already, has waited for."""
    if replaced:
        try:
            _signal.signal(*replaced[-1])
        finally:
            replaced.pop()
            _restore(replaced)


def uninterrupted() -> contextlib.AbstractContextManager[None]:
    """``DeferredInterrupt`` in the main thread; nothing in others, where no handler runs.

    Example::

        with uninterrupted():
            fill_and_announce()
    """
    if threading.current_thread() is threading.main_thread():
        return DeferredInterrupt()
    return contextlib.nullcontext()
