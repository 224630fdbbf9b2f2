"""SIGTERM and lost interrupts, while this process is a driver.

Owns the handler of SIGTERM and ``sys.unraisablehook`` from ``install`` to ``restore``. Promises:

1. SIGTERM ends a driver as ``sys.exit`` would: exit handlers run, the node ends. A program that has a handler of its
   own keeps it.
2. A signal whose exception came up in a finalizer, where it is lost, comes again a moment later. If that moment comes
   after ``restore``, a SIGTERM would meet the system's default action, and no exit handler would run: so ``restore``
   raises its exception again.
3. After ``restore`` both are as before. Only the main thread may change a handler: where another thread ends the
   session, the handler stays until the main thread calls ``init`` or ``shutdown``, and acts as the system's default.

Does not know what a session is: its maker passes the function that ends one.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from asyncray.config import INTERRUPT_RETRY
from asyncray.io.interrupts import Deferrable


class DriverSignals:
    """The signal handling of a driver.

    Args:
        end_session: ends the session, if one runs.
        is_driver: true while a session runs, also one that is being ended.
        is_ending: true while a session is being ended.
    """

    def __init__(
        self, end_session: Callable[[], None], is_driver: Callable[[], bool], is_ending: Callable[[], bool]
    ) -> None:
        self._end_session = end_session
        self._is_driver = is_driver
        self._is_ending = is_ending

        # Bound once, to be recognized. Constant.
        self._handler = Deferrable(self.terminate)
        self._hook = self._replay_lost_interrupt

        # The hook that reported exceptions of finalizers before ours. Written by ``install``.
        self._report_unraisable = sys.unraisablehook

        # A signal that came while the program was ending: the program ends by it. Written by the handler.
        self._last_signal: int | None = None

        # The exception that the last SIGTERM raised. Written by the handler.
        self._leaving: SystemExit | None = None

        # Number of a signal that a finalizer has lost and that is to come again -> True. The hook writes it. Either the
        # timer's thread or ``restore`` removes it, in one C call, and then acts on it.
        self._lost: dict[int, bool] = {}

        # The main thread is in our hook, where an exception would be lost as in the finalizer. Written by the hook.
        self._in_hook = False

    def __repr__(self) -> str:
        return f"<DriverSignals {'installed' if sys.unraisablehook is self._hook else 'not installed'}>"

    @property
    def is_leaving(self) -> bool:
        """True once SIGTERM ends the program."""
        return self._leaving is not None or self._last_signal is not None

    def install(self) -> None:
        """Installs handler and hook. Does nothing off the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, self._handler)
        if sys.unraisablehook is not self._hook:
            self._report_unraisable, sys.unraisablehook = sys.unraisablehook, self._hook

    def restore(self) -> None:
        """Restores both, unless the program has replaced ours. Off the main thread the handler stays.

        Raises:
            SystemExit: a finalizer has just lost a SIGTERM, which would come again too late.
        """
        if sys.unraisablehook is self._hook:
            sys.unraisablehook = self._report_unraisable
        if threading.current_thread() is not threading.main_thread():
            return
        if signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            if self._lost.pop(signal.SIGTERM, False):
                self._leave_late()

    def _leave_late(self) -> None:
        if threading.main_thread().is_alive() and not _is_in_threading_shutdown(sys._getframe()):
            self._exit(signal.SIGTERM)
        self._last_signal = signal.SIGTERM  # the interpreter is shutting down: see ``terminate``

    def restore_in_child(self) -> None:
        """As ``restore``, in a forked child: signals that its parent has lost are not for it."""
        self._lost.clear()
        self.restore()

    def end_by_last_signal(self) -> None:
        """Ends the process by the signal that came while the program was ending, if one did."""
        if self._last_signal is not None and threading.current_thread() is threading.main_thread():
            _end_by(self._last_signal)

    def terminate(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM."""
        if not self._is_driver():
            _end_by(number)  # another thread ended the session: see ``restore``
        waits_for_threads = _is_in_threading_shutdown(frame)
        if threading.main_thread().is_alive() and not waits_for_threads:
            if not self._leave_loop(number, frame):
                self._exit(number)
            return
        # The interpreter is shutting down: SystemExit would only be printed and the exit status lost.
        self._last_signal = number
        if self._is_ending():
            return  # shutdown goes on where it was
        if waits_for_threads:
            atexit._run_exitfuncs()  # otherwise atexit is already running
        self._end_session()

    def _exit(self, number: int) -> NoReturn:
        self._leaving = SystemExit(number)
        raise self._leaving

    def _leave_loop(self, number: int, frame: FrameType | None) -> bool:
        """True if the signal came in the middle of asyncio's own code: then the loop ends by it at its next step.

        There an exception may come between taking a callback off the queue and calling it, and a coroutine that awaits
        that callback would wait for ever.
        """
        asyncio = sys.modules.get("asyncio")
        loop = None if asyncio is None else asyncio._get_running_loop()
        module = "" if frame is None else frame.f_globals.get("__name__", "")
        if loop is None or module.partition(".")[0] not in ("asyncio", "selectors"):
            return False
        loop.call_soon_threadsafe(self._exit, number)
        return True

    def _replay_lost_interrupt(self, unraisable: sys.UnraisableHookArgs) -> None:
        """A finalizer cannot raise, and programs that use objects run many: Ctrl-C or SIGTERM in one comes again."""
        error = unraisable.exc_value
        lost_sigterm = error is self._leaving
        number = signal.SIGTERM if lost_sigterm else signal.SIGINT if type(error) is KeyboardInterrupt else None
        main = threading.main_thread()
        if error is None or number is None or threading.current_thread() is not main or not main.is_alive():
            self._report_unraisable(unraisable)
            return
        self._in_hook = True
        try:
            self._lost[number] = True
            self._start_timer(number)
        except RuntimeError:  # the interpreter ends and takes no new threads
            self._lost.pop(number, None)
            self._report_unraisable(unraisable)
        finally:
            # Nothing follows that lets signal handlers run: the next one comes after the hook.
            self._in_hook = False

    def _start_timer(self, number: int) -> None:
        again = threading.Timer(INTERRUPT_RETRY, self._send_again, (number,))
        again.daemon = True
        again.start()

    def _send_again(self, number: int) -> None:
        main = threading.main_thread().ident
        if self._in_hook:
            self._start_timer(number)  # the machine is busy
        elif main is not None and self._lost.pop(number, False):
            signal.pthread_kill(main, number)


def _is_in_threading_shutdown(frame: FrameType | None) -> bool:
    """True where the interpreter waits at its end for threads of the program, or of its pools."""
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    code = None if frame is None else frame.f_code
    return code is not None and code.co_name == "_shutdown" and code.co_filename == threading.__file__


def _end_by(number: int) -> None:
    """Ends the process by the signal, so that its parent sees that. Flushes its output first."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # the stream is None, or closed
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
