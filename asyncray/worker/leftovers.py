"""Undoes the changes that a task has made to its process, so that the next task on this worker finds it as it was.

Owns, and puts back when a task has returned: the settings in ``asyncray.worker.settings`` (signals, standard
descriptors, limits, environment variables and others) and ``asyncray.worker.late_settings``, ``sys.path``,
``sys.argv``, ``sys.stdout``, ``sys.stderr``, the hooks for exceptions that nothing catches, and trace and profile
functions.

A task that changes what cannot be put back (its root directory, its user, a limit that only root may raise) was the
last one in its process.

Does not undo changes to objects of the program or of libraries (modules, caches, their random numbers, context
variables), end threads that a task started, or undo anything in an actor, whose process is its own. Where a task has
imported modules, new environment variables and new paths stay, the paths behind all others, because the modules may
need them later.

How: asking the system after each task would cost 20 us. So the functions that change a setting are wrapped, in the
zygote and so in all workers, and the state is noted before the first change. Only attributes are compared after each
task. A task that changes nothing costs 0.4 us. C code that changes these things by itself is not noticed, nor is
``open(1)``, whose file closes the descriptor.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from asyncray.runtime.late_paths import late_paths
from asyncray.worker.late_settings import LATE
from asyncray.worker.settings import IRREVERSIBLE, SETTINGS, Owner, Setting, is_irreversible

_modules = sys.modules
_gettrace, _getprofile = sys.gettrace, sys.getprofile


def _refuse(function: str) -> NoReturn:
    raise OSError(f"it has called {function}()")


_IRREVERSIBLE = Setting("what cannot be put back", IRREVERSIBLE, str, _refuse)
"""Noted after the call."""

_SETS_OF_FUNCTIONS = (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids)
"""Functions of ``os`` are members: programs ask whether they have an argument."""


class Leftovers:
    """The state of the process as it was before the task that runs on the main thread.

    One of these for each process: ``watch`` wraps functions of the standard library.
    """

    def __init__(self) -> None:
        # True from ``begin`` to ``end``: changes meanwhile are the task's.
        self._running = False
        # True while ``end`` has not put back everything.
        self._unfinished = False
        # The settings that the running task has changed, with their values before, in no order.
        self._before: dict[Setting, Any] = {}
        # How many modules there were when the task began. With another number, the attributes below are read again.
        self._module_count = 0
        # Settings of modules that the worker loaded late, by the name of the module.
        self._late: dict[str, Setting] = {}
        self.hold_output()
        self._read_attributes()

    def __repr__(self) -> str:
        return f"<Leftovers {[setting.name for setting in self._before] or 'none'}>"

    def hold_output(self) -> None:
        """The present standard streams are those of this process."""
        self._stdout, self._stderr = sys.stdout, sys.stderr

    def _read_attributes(self) -> None:
        self._path, self._argv = sys.path.copy(), sys.argv.copy()
        self._excepthook, self._unraisablehook = sys.excepthook, sys.unraisablehook
        self._threads_excepthook = threading.excepthook
        self._trace, self._profile = _gettrace(), _getprofile()

    # Around each task -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A task is about to run on the main thread."""
        if len(_modules) != self._module_count:
            self._modules_were_loaded()
        self._running = True

    def _modules_were_loaded(self) -> None:
        """Since the last task, or by it: what they have changed for themselves stays."""
        is_first = not self._module_count
        self._module_count = len(_modules)
        self._read_attributes()
        for renew in self._watch_late():
            if not is_first:
                renew()

    def _watch_late(self) -> list[Callable[[], object]]:
        """Watches the modules of ``LATE`` that have been loaded. Returns what undoes earlier changes of each."""
        renewals = []
        for module, make, renew in LATE:
            setting = make() if module in _modules and module not in self._late else None
            if setting is not None:
                self._late[module] = setting
                self._watch_all((setting,))
                renewals.append(renew)
        return renewals

    def ends_clean(self) -> bool:
        """The task has returned, or was not begun. True if there is nothing to put back; otherwise call ``end``."""
        if self._running:
            self._running = False
            # The settings first: without changed ones no signal handler of the task can raise between these calls.
            if (
                not self._before
                and sys.stdout is self._stdout
                and sys.stderr is self._stderr
                and sys.excepthook is self._excepthook
                and sys.unraisablehook is self._unraisablehook
                and threading.excepthook is self._threads_excepthook
                and _gettrace() is self._trace
                and _getprofile() is self._profile
                and sys.path == self._path
                and sys.argv == self._argv
            ):
                return True
            self._unfinished = True
        return not self._unfinished

    def end(self) -> None:
        """The task has returned: undoes its changes.

        Raises:
            OSError: something cannot be put back, and no other task should run in this process.
            BaseException: a signal handler of the task raised it. Call ``end`` again.
        """
        if not self.ends_clean():
            self._restore_attributes()
            self._restore_settings()
            self._unfinished = False

    def _has_imported(self) -> bool:
        return len(_modules) > self._module_count

    def _restore_attributes(self) -> None:
        sys.settrace(self._trace)
        sys.setprofile(self._profile)
        sys.stdout, sys.stderr = self._stdout, self._stderr
        sys.excepthook, sys.unraisablehook = self._excepthook, self._unraisablehook
        threading.excepthook = self._threads_excepthook
        if sys.argv != self._argv:
            sys.argv = self._argv.copy()
        if sys.path != self._path:
            self._path = late_paths.arranged(self._path)  # those of the program stay
            new = [path for path in sys.path if path not in self._path] if self._has_imported() else []
            sys.path[:] = [*self._path, *new]

    def _restore_settings(self) -> None:
        imported = self._has_imported()
        for setting in (*SETTINGS, *self._late.values(), _IRREVERSIBLE):
            if setting in self._before:
                restore = (imported and setting.restore_after_import) or setting.restore
                restore(self._before[setting])
                del self._before[setting]

    # Watching ---------------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Wraps the functions that change the process, for the rest of its life and in all that are forked from it."""
        self._watch_all(SETTINGS)
        self._watch_late()
        for owner, name in _IRREVERSIBLE.functions:
            self._watch_irreversible(owner, name)

    def _watch_all(self, settings: Sequence[Setting]) -> None:
        for setting in settings:
            for owner, name in setting.functions:
                self._watch(setting, owner, name)

    def _watch(self, setting: Setting, owner: Owner, name: str) -> None:
        function = getattr(owner, name)
        first = 1 if isinstance(owner, type) else 0  # the argument after ``self``

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._running and setting not in self._before and setting.concerns(name, *args[first:], **kwargs):
                self._before[setting] = setting.read()
            return function(*args, **kwargs)

        _replace(owner, name, watched)

    def _watch_irreversible(self, owner: Owner, name: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if self._running and is_irreversible(name, *args, **kwargs):
                self._before[_IRREVERSIBLE] = f"{owner.__name__}.{name}"
            return result

        _replace(owner, name, watched)


def _replace(owner: Owner, name: str, watched: Callable[..., Any]) -> None:
    if isinstance(owner, ModuleType):
        watched.__module__, watched.__qualname__ = owner.__name__, name  # where pickle finds it
    for members in _SETS_OF_FUNCTIONS:
        if getattr(owner, name) in members:
            members.add(watched)
    setattr(owner, name, watched)
