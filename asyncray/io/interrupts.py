"""Defers signal handlers that may raise until a piece of work is done.

Goal: an exception that a signal handler raises (Ctrl-C, a time limit by SIGALRM, a batch system's SIGUSR1) never leaves
half a message on a stream, or memory in the store that nobody releases.

1. **Why handlers raise in the middle of things.** Python runs signal handlers in the main thread, after any call, at
   the beginning of any function and at any jump back. Other threads are never interrupted.
2. **Things that do not work.**

   * *Catching the exception and repeating the work.* How much of a message was written is then unknown.
   * *Blocking signals with a mask.* The kernel delivers a signal to any thread that does not block it, and the io
     thread does not; Python runs the handler in the main thread all the same.
   * *A handler of our own that is installed for good.* Programs look at their handlers, and ``asyncio.run`` only
     handles Ctrl-C where it finds Python's own.
3. **Solution.** While the work runs, each handler is replaced by one that notes that the signal came; afterwards the
   handlers are restored and called for the signals that were noted. Replacing a handler costs two system calls, so it
   is only done for signals that have a handler in Python. A handler of ours (``Deferrable``) asks ``_deferring``
   itself.
4. **Handlers that run during the replacing and restoring.** Everything that must be undone is recorded before a handler
   can run. If a handler raises during the undo, the undo is done again. If a second one raises during that, the next
   call undoes the rest.
5. **System calls that are restarted.** ``signal.siginterrupt(n, False)``, which asyncio uses, sets SA_RESTART;
   ``signal.signal`` clears it. So the flag is read before and set again after (1 us; not for Python's own handler of
   SIGINT, for which no program sets the flag).
6. **Loops.** From Python 3.12 on a handler that raises at the jump back of a loop whose body ends in a condition passes
   by the ``finally`` and ``with`` around that loop (python/cpython#130279), and a lock stays taken for ever. So such
   loops stand in functions of their own, here and wherever the main thread holds something; ``tests/test_rules.py``
   looks for them.

Other threads that ask for a handler while the main thread does such work may get the replacement.
"""

from __future__ import annotations

# signal.signal without conversions to enums: 0.3 us instead of 3.2, twice for each request
import _signal  # type: ignore[import-not-found]
import _thread
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

SignalHandler = Callable[[int, FrameType | None], Any]

_NUMBERS = tuple(
    getattr(_signal, name)
    for name in (
        "SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGVTALRM", "SIGPROF", "SIGXCPU",
    )
)  # fmt: skip
"""Signals whose handlers raise in practice."""

_SA_RESTART = 0x10000000

_IMPORTER = "<frozen importlib._bootstrap>"
"""The code of the interpreter that imports modules, and that holds locks meanwhile."""

_MOST_WAITS = 100
"""Milliseconds that a signal handler in the middle of an import waits for another import, which takes 20."""

_getsignal = _signal.getsignal
_get_ident = threading.get_ident

# Read in any thread; changed in a forked child, whose only thread is its main thread.
_main_thread = threading.main_thread().ident

# 1 while the main thread does work with signals deferred, otherwise 0. Only the main thread writes it.
_deferring = 0

# Signal, the handler to restore, the one in its place, and whether system calls are restarted. Main thread only.
_replaced: list[tuple[int, Any, Deferrable, bool]] = []

# Handlers that were deferred, with their arguments. Main thread only.
_pending: list[tuple[SignalHandler, int, FrameType | None]] = []

_read_restarts: Callable[[int], bool] | None = None

# Held by the thread that makes it. None: none was started. Written by the main thread.
_loading: _thread.LockType | None = None


class Deferrable:
    """A signal handler that asks whether signals are deferred, so that nothing has to replace it.

    Example::

        signal.signal(signal.SIGTERM, Deferrable(leave))
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: SignalHandler) -> None:
        self._handler = handler

    def __repr__(self) -> str:
        return f"<Deferrable {self._handler!r}>"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _deferring:
            if all(other != number for _, other, _ in _pending):  # as the system does with a signal that is pending
                _pending.append((self._handler, number, frame))
        else:
            self._handler(number, frame)


def in_main_thread() -> bool:
    """True in the thread that runs signal handlers."""
    return _get_ident() == _main_thread


def with_signals_deferred(work: Callable[[], T]) -> T:
    """Does the work; signal handlers that are due meanwhile run after it. Costs 2 us, or 1 if all of them are ours.

    Signal handlers run in the main thread only, so other threads just do the work.

    Example::

        with_signals_deferred(write_a_whole_message)
    """
    global _deferring
    if _deferring or _get_ident() != _main_thread:
        return work()
    _deferring = 1
    try:
        _install_deferring_handlers()
        return work()
    finally:
        _deferring = 0
        try:
            _restore_handlers_and_replay()
        except BaseException:  # of a handler; the next line does what it has prevented
            _restore_handlers_and_replay()
            raise


def begin_deferring(numbers: Sequence[int] = _NUMBERS) -> bool:
    """Defers signal handlers from here to ``end_deferring``: for work that has its end in another function.

    Args:
        numbers: the signals. Inside of work that defers signals already, their handlers wait for the end of that.

    Returns:
        True if ``end_deferring`` must be called. False if that is not for this caller to do: off the main thread, and
        inside of work that defers signals already.

    Example::

        if begin_deferring():
            end_deferring()
    """
    global _deferring
    if _get_ident() != _main_thread:
        return False
    if _deferring:
        if numbers is not _NUMBERS:
            _install_deferring_handlers(numbers)
        return False
    _deferring = 1
    try:
        _install_deferring_handlers(numbers)
    except BaseException:  # a handler raised before it was replaced
        end_deferring()
        raise
    return True


def end_deferring() -> None:
    """Restores the handlers, and runs those that were due. See ``begin_deferring``."""
    global _deferring
    _deferring = 0
    try:
        _restore_handlers_and_replay()
    except BaseException:
        _restore_handlers_and_replay()
        raise


def _restarts(number: int) -> bool:
    """True if the flag is set. False also as long as that cannot be found out."""
    if _read_restarts is None:
        _load_reader_of_restarts()
    return _read_restarts is not None and _read_restarts(number)


def _load_reader_of_restarts() -> None:
    """Loads it in another thread, where no signal handler interrupts the import.

    In the main thread a handler that raises more often than the import takes time would break it off again and again.
    """
    global _loading
    if getattr(getattr(sys.modules.get("ctypes"), "__spec__", None), "_initializing", False):
        return  # it is being imported, perhaps by this very thread
    if _loading is None:
        loading = _thread.allocate_lock()
        loading.acquire()
        try:
            # Not a threading.Thread: a handler that raises in the middle of its ``start`` makes the new thread fail.
            _thread.start_new_thread(_set_reader_of_restarts, (loading,))
        except RuntimeError:
            return  # the system gives no thread
        _loading = loading
    if _is_importing():
        _wait_a_little()
        return
    with _loading:
        pass


def _is_importing() -> bool:
    """True if this thread is in the middle of an import, so that it may hold a lock that other imports wait for."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code.co_filename != _IMPORTER:
        frame = frame.f_back
    return frame is not None


def _wait_a_little() -> None:
    """Waits for the import in the other thread, but not for ever: it may wait for a lock of this thread."""
    for _ in range(_MOST_WAITS):
        if _read_restarts is not None:
            return
        time.sleep(0.001)


def _set_reader_of_restarts(loading: _thread.LockType) -> None:
    global _read_restarts
    try:
        _read_restarts = _reader_of_restarts()
    except ImportError:  # a Python that was built without libffi
        _read_restarts = _restarts_never
    finally:
        loading.release()


def _restarts_never(number: int) -> bool:
    return False


def _install_deferring_handlers(numbers: Sequence[int] = _NUMBERS) -> None:
    for number, handler in zip(numbers, map(_getsignal, numbers), strict=True):
        if callable(handler) and type(handler) is not Deferrable:
            restarts = handler is not _signal.default_int_handler and _restarts(number)
            deferring = Deferrable(handler)
            # Record before replacing, because another handler may raise in between.
            _replaced.append((number, handler, deferring, restarts))
            _install(number, deferring, restarts=restarts)


def _install(number: int, handler: Any, *, restarts: bool) -> None:
    _signal.signal(number, handler)
    if restarts:
        _signal.siginterrupt(number, False)


def _reader_of_restarts() -> Callable[[int], bool]:
    """A function that returns whether the kernel restarts system calls which a signal has interrupted.

    Python offers no way to ask, so the C library is asked: ``struct sigaction`` is the handler, a mask of 128 bytes,
    and the flags.
    """
    import ctypes  # start-up cost: few programs have handlers of their own

    action = ctypes.create_string_buffer(256)
    flags = ctypes.c_int.from_buffer(action, ctypes.sizeof(ctypes.c_void_p) + 128)
    sigaction = ctypes.PyDLL(None).sigaction  # keeps the interpreter's lock: other threads share ``action``

    def restarts(number: int) -> bool:
        sigaction(number, None, action)
        return bool(flags.value & _SA_RESTART)

    return restarts


def _restore_handlers_and_replay() -> None:
    # A handler that runs here may re-enter this function. So re-check the entry right before removing it.
    while last := _replaced[-1:]:
        number, handler, deferring, restarts = last[0]
        if _getsignal(number) is deferring:  # otherwise not replaced yet, or the program has set a new one
            _install(number, handler, restarts=restarts)
        if _replaced and _replaced[-1] is last[0]:
            _replaced.pop()
    while first := _pending[:1]:
        if _pending and _pending[0] is first[0]:
            del _pending[0]
            late, number, frame = first[0]
            late(number, frame)


def restore_in_child() -> None:
    """Another thread may have forked while the main thread had replaced handlers."""
    global _deferring, _loading, _main_thread
    _main_thread = threading.get_ident()
    _deferring = 0
    _loading = None
    _pending.clear()
    while _replaced:
        number, handler, deferring, restarts = _replaced.pop()
        if _getsignal(number) is deferring:  # otherwise not replaced yet, or the program has set a new one
            _install(number, handler, restarts=restarts)


def raised_by_handler(error: BaseException) -> bool:
    """True if a signal handler of the program raised the error, in the middle of whatever ran.

    Where other errors of user code are wrapped, this one goes on as it is: a time limit may be any exception.
    """
    codes = {_code_of(_getsignal(number)) for number in _signal.valid_signals()} - {None}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in codes:
        trace = trace.tb_next
    return trace is not None


def _code_of(handler: Any) -> object:
    """The code of a function, a method, a ``functools.partial`` or an object that is called; None for code in C."""
    function = getattr(handler, "func", handler)
    function = getattr(function, "__func__", function)
    if callable(function) and not hasattr(function, "__code__"):
        function = type(function).__call__
    return getattr(function, "__code__", None)
