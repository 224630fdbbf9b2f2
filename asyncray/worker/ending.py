"""The orderly end of a worker: the steps of the interpreter at the end of a program, within deadlines.

A worker ends by ``os._exit``, because it is a fork of the zygote and must not run the zygote's end. The steps that
users expect at the end of a process are done here, in the interpreter's order:

1. the actor goes out of scope: its ``__del__`` runs, unless a thread or an exit handler still refers to it;
2. executors finish their jobs, and the worker waits for threads that are no daemons, up to ``EXIT_GRACE`` seconds, and
   for a moment for its own threads, whose last calls may be about to return and refer to the actor;
3. exit handlers run: those of ``atexit``, and so those of ``logging``, ``weakref.finalize`` and ``multiprocessing``;
4. garbage is collected, which may include the actor;
5. open files are flushed.

User code may do anything in each of these. An exception is printed and the next step follows; a step that hangs ends
with the process, after ``EXIT_DEADLINE`` seconds, with the exit code 1 and a traceback of each thread in its log.

Each actor's process takes these steps, so they start no thread of Python where there is nothing to wait for (0.3 ms and
75 page faults each, in a process that has just been forked).
"""

from __future__ import annotations

import _io
import atexit
import faulthandler
import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import IO, Any, NoReturn

from asyncray.config import EXIT_DEADLINE, EXIT_GRACE

_MOMENT = 0.1
"""Seconds for which the worker waits for its own threads."""


def finish(let_go: Callable[[], None], not_waited_for: Collection[threading.Thread]) -> None:
    """Runs these steps.

    Args:
        let_go: drops the user's objects that the worker holds.
        not_waited_for: threads that may run on until the process ends.
    """
    _exit_when_late()
    for step in (lambda: _let_go(let_go), lambda: _wait_for_threads(not_waited_for), run_exit_handlers, gc.collect):
        _attempt(step)
    flush_files()


def _let_go(let_go: Callable[[], None]) -> None:
    let_go()
    gc.collect()


def _attempt(step: Callable[[], object]) -> None:
    try:
        step()
    except BaseException:  # the user's: of an exit handler, or of a signal handler
        traceback.print_exc()


def _exit_when_late() -> None:
    # A thread in C, which ends the process even where code in C hangs and holds the interpreter's lock.
    try:
        faulthandler.dump_traceback_later(EXIT_DEADLINE, exit=True, file=2)
    # The system starts no more threads, and the end is no time to complain.
    except RuntimeError:
        pass


def _wait_for_threads(not_waited_for: Collection[threading.Thread]) -> None:
    """Waits, as the interpreter does, but on a thread: the main thread goes on when the grace has passed."""
    ours = {threading.current_thread(), *not_waited_for}
    _wait_for_others(ours)
    until = time.monotonic() + _MOMENT
    for thread in not_waited_for:
        if thread is not threading.current_thread():
            thread.join(max(0.0, until - time.monotonic()))


def _wait_for_others(ours: Collection[threading.Thread]) -> None:
    if not _lasting_threads(ours):
        _end_executors(ours)
        return
    waiting = _start_thread(lambda: _end_threads(ours))
    if waiting is not None:
        waiting.join(EXIT_GRACE)
        if waiting.is_alive():
            names = sorted(thread.name for thread in _lasting_threads(ours))
            sys.stderr.write(f"asyncray: the worker ends without waiting longer for its threads: {', '.join(names)}\n")


def _end_threads(ours: Collection[threading.Thread]) -> None:
    _end_executors(ours)
    for thread in _lasting_threads(ours):
        thread.join()


def _end_executors(ours: Collection[threading.Thread]) -> None:
    """Asks the threads of executors to end when their jobs are done, and waits for them."""
    executors = sys.modules.get("concurrent.futures.thread")
    if executors is not None:
        # asyncray's own executors do not take part in the interpreter's end, so their threads are not asked to end.
        for thread in ours:
            executors._threads_queues.pop(thread, None)
    for callback in reversed(threading._threading_atexits):  # type: ignore[attr-defined]  # no public way exists
        callback()


def _lasting_threads(ours: Collection[threading.Thread]) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.daemon and thread not in ours]


def _start_thread(target: Callable[[], None]) -> threading.Thread | None:
    thread = threading.Thread(target=target, name="asyncray-end", daemon=True)
    try:
        thread.start()
    # The system starts no more threads, and the end is no time to complain.
    except RuntimeError:
        return None
    return thread


def exit_code(error: SystemExit) -> int:
    """The exit code of the process. Prints a value that is no exit code, as the interpreter does."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)  # noqa: T201 - as the interpreter does
    return 1


def end_forked(code: int) -> NoReturn:
    """Ends a child that user code has forked. It has no deadline: no daemon waits for it."""
    _attempt(run_exit_handlers)
    flush_files()
    os._exit(code)


def run_exit_handlers() -> None:
    """Runs the functions that were registered with ``atexit``, the last first."""
    atexit._run_exitfuncs()


def flush_files() -> None:
    """Flushes all open files, because the interpreter would close them at its end."""
    for stream in (sys.stdout, sys.stderr):
        _flush(stream)
    for found in gc.get_objects():
        # The base class of all files, without the registers of ``io.IOBase``: asking those takes 0.6 ms.
        if issubclass(type(found), _io._IOBase):
            _flush(found)


def _flush(stream: IO[Any]) -> None:
    try:
        stream.flush()
    except Exception:  # closed, no room on the disk, or a class of the user's
        pass
