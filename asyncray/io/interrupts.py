"""Keeping exceptions of signal handlers out of the middle of things.

Signal handlers run in the main thread, and some raise: that of SIGINT does, those of time limits (SIGALRM) and batch
systems (SIGUSR1) do. Where that would leave half a message on a stream, or room in shared memory that nobody gives
back, the handler is put off until the work is done.

Two ways: a handler of ours asks (``Deferrable``); any other is replaced for the moment. To replace one costs two system
calls, so it is only done for signals that have a handler from Python.

The interpreter looks for signals after calls, at the beginning of functions and at jumps back, and nowhere else. So
before a handler can raise in ``undisturbed`` all is noted that is to be undone. What is not undone because another one
raised just then is undone the next time.

From Python 3.12 on a handler that raises at the jump back of a loop whose body ends in a condition passes by the
``finally`` and ``with`` around that loop (python/cpython#130279), and a lock stays taken for ever. So such loops stand
in functions of their own, here and wherever the main thread holds something; ``tests/test_rules.py`` looks for them.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal.signal without conversions to enums: 0.3 us instead of 3.2, twice for each request
import os
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

Handler = Callable[[int, FrameType | None], Any]

_NUMBERS = tuple(
    getattr(_signal, name)
    for name in (
        "SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGVTALRM", "SIGPROF", "SIGXCPU",
    )
)  # fmt: skip
"""Whose handlers raise in practice."""

_getsignal = _signal.getsignal
_get_ident = threading.get_ident
_main_thread = threading.main_thread().ident
_depth = 0
"""How many pieces of work are under way that are not to be disturbed. Only the main thread counts."""

_replaced: list[tuple[int, Any, Deferrable]] = []
"""Signals, the handlers that are to be put back, and what stands in for them."""

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


def undisturbed(work: Callable[[], T]) -> T:
    """Does the work; signal handlers that are due meanwhile run after it. Costs 2 us, or 1 if all of them are ours.

    Other threads are never disturbed, and just do it.

    Example::

        undisturbed(write_a_whole_message)
    """
    global _depth
    if _depth or _get_ident() != _main_thread:
        return work()
    _depth = 1
    try:
        _stand_in()
        return work()
    finally:
        _depth = 0
        _step_back()


def _stand_in() -> None:
    for number, handler in zip(_NUMBERS, map(_getsignal, _NUMBERS), strict=True):
        if callable(handler) and type(handler) is not Deferrable:
            stand_in = Deferrable(handler)
            _replaced.append((number, handler, stand_in))  # before it is done: another one may raise in between
            _signal.signal(number, stand_in)


def _step_back() -> None:
    # A handler that comes here may do undisturbed work, and so all of this, before it returns. So what there is is
    # looked at once more where no handler can come before it is taken off.
    while last := _replaced[-1:]:
        number, handler, stand_in = last[0]
        if _getsignal(number) is stand_in:  # else it was not replaced yet, or the program has set a new one
            _signal.signal(number, handler)
        if _replaced and _replaced[-1] is last[0]:
            _replaced.pop()
    while first := _came[:1]:
        if _came and _came[0] is first[0]:
            del _came[0]
            late, number, frame = first[0]
            late(number, frame)


def _forget_in_child() -> None:
    """Another thread may have forked while this one's parent was at work."""
    global _depth, _main_thread
    _main_thread = threading.get_ident()
    _depth = 0
    _came.clear()
    while _replaced:
        number, handler, _ = _replaced.pop()
        _signal.signal(number, handler)


os.register_at_fork(after_in_child=_forget_in_child)
