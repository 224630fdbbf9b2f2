"""Undoes what a task has changed in its process, so that the next task on this worker finds it as it was.

Owns: handlers of signals, timers, the signal mask and the wake-up descriptor; the working directory and umask;
environment variables; ``sys.path``; ``sys.stdout`` and ``sys.stderr``. Changes that a task makes to
these are undone when it has returned.

Does not undo: what a task does to objects of the program or of libraries (modules, caches, random numbers, warning
filters), threads that it started, and anything in an actor, whose process is its own. Where a task has imported
modules, new variables and new paths stay, behind all other paths: what was imported may need them later.

How: to ask the system after each task would cost 6 us (measured: four system calls). So the functions that change
something are wrapped, in workers only, and note what was there before the first change. A task that changes nothing
costs 0.5 us. C code that changes these things by itself is not noticed.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what the signal module is made of, without its enums
import functools
import os
import posix
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

_UNKNOWN: Any = object()

Disposition = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class Leftovers:
    """The state of the process as it was before the task that runs on the main thread.

    One of these for each process: ``watch`` wraps functions of the standard library.
    """

    def __init__(self) -> None:
        # True from ``begin`` to ``end``: what is changed meanwhile is the task's doing.
        self._running = False
        # True from ``begin`` until ``end`` has put everything back.
        self._unfinished = False
        # True once the task that runs has called one of the functions that are watched.
        self._touched = False
        self._path: list[str] = []
        self._modules = 0
        # The standard streams of this process, when ``watch`` was called.
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._forget()

    def __repr__(self) -> str:
        return f"<Leftovers {'some' if self._touched else 'none'}>"

    def _forget(self) -> None:
        self._touched = False
        self._handlers: dict[int, Disposition] = {}
        self._timers: set[int] = set()
        self._mask: set[int] | None = None
        self._wakeup: int | None = None
        self._umask: int | None = None
        self._directory: str | None = None
        self._variables: dict[bytes, bytes] | None = None

    # Around each task -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A task is about to run on the main thread."""
        self._path = sys.path.copy()
        self._modules = len(_modules)
        self._running = self._unfinished = True

    def end(self) -> None:
        """The task has returned: undoes what it left.

        Raises:
            OSError: something cannot be put back, and no other task should run in this process.
            BaseException: what a signal handler raises that the task has left. Call it again.
        """
        self._running = False
        if not self._unfinished:
            return
        if sys.stdout is not self._stdout or sys.stderr is not self._stderr:
            sys.stdout, sys.stderr = self._stdout, self._stderr
        if sys.path != self._path:
            self._put_back_path()
        if self._touched:
            self._undo()
        self._unfinished = False

    def _put_back_path(self) -> None:
        new = [path for path in sys.path if path not in self._path] if self._has_imported() else []
        sys.path[:] = [*self._path, *new]

    def _has_imported(self) -> bool:
        return len(_modules) > self._modules

    def _undo(self) -> None:
        # Timers first: without its handler, a signal that a timer sends ends the process.
        for timer in list(self._timers):
            _signal.setitimer(timer, 0)
            self._timers.discard(timer)
        for number, handler in list(self._handlers.items()):
            _signal.signal(number, _signal.SIG_DFL if handler is None else handler)
            del self._handlers[number]
        if self._wakeup is not None:
            _signal.set_wakeup_fd(self._wakeup)
        if self._mask is not None:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)
        if self._umask is not None:
            _umask(self._umask)
        if self._directory is not None:
            _chdir(self._directory)
        if self._variables is not None:
            self._put_back_variables(self._variables)
        self._forget()

    def _put_back_variables(self, before: dict[bytes, bytes]) -> None:
        now = os.environb
        if not self._has_imported():
            for name in [name for name in now if name not in before]:
                del now[name]
        for name, value in before.items():
            if now.get(name) != value:
                now[name] = value

    # Watching ---------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Wraps what changes the state of the process, for the rest of its life."""
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._wrap(self._note_handler, "signal", signal)
        self._wrap(self._note_alarm, "alarm", signal, _signal)
        self._wrap(self._note_timer, "setitimer", signal, _signal)
        self._wrap(self._note_mask, "pthread_sigmask", signal)
        self._wrap(self._note_wakeup, "set_wakeup_fd", signal, _signal)
        self._wrap(self._note_directory, "chdir", os, posix)
        self._wrap(self._note_directory, "fchdir", os, posix)
        self._wrap(self._note_umask, "umask", os, posix)
        environment = type(os.environ)
        for name in ("__setitem__", "__delitem__"):
            self._wrap(self._note_variables, name, environment)

    def _wrap(self, note: Callable[..., None], name: str, *owners: ModuleType | type) -> None:
        function = getattr(owners[0], name)

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                self._touched = True
                note(*args, **kwargs)
            return function(*args, **kwargs)

        if isinstance(owners[0], ModuleType):
            watched.__module__ = owners[0].__name__  # where pickle finds it
        for owner in owners:
            setattr(owner, name, watched)

    def _note_handler(self, number: int = -1, *args: Any, **kwargs: Any) -> None:
        if number in signal.valid_signals():
            self._handlers.setdefault(int(number), _signal.getsignal(number))

    def _note_alarm(self, *args: Any, **kwargs: Any) -> None:
        self._timers.add(_signal.ITIMER_REAL)

    def _note_timer(self, which: int = -1, *args: Any, **kwargs: Any) -> None:
        if which in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
            self._timers.add(int(which))

    def _note_mask(self, *args: Any, **kwargs: Any) -> None:
        if self._mask is None and threading.current_thread() is threading.main_thread():
            self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, ())

    def _note_wakeup(self, *args: Any, **kwargs: Any) -> None:
        if self._wakeup is None and threading.current_thread() is threading.main_thread():
            self._wakeup = _set_wakeup_fd(-1)
            _set_wakeup_fd(self._wakeup)

    def _note_directory(self, *args: Any, **kwargs: Any) -> None:
        if self._directory is None:
            try:
                self._directory = os.getcwd()
            except OSError:  # it was deleted: one is as good as another
                self._directory = "/"

    def _note_umask(self, *args: Any, **kwargs: Any) -> None:
        if self._umask is None:
            self._umask = _umask(0o77)
            _umask(self._umask)

    def _note_variables(self, *args: Any, **kwargs: Any) -> None:
        if self._variables is None:
            self._variables = dict(os.environb)


_modules = sys.modules
_chdir = os.chdir
_umask = os.umask
_set_wakeup_fd = _signal.set_wakeup_fd
