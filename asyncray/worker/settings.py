"""The settings of a process that a task may change: which functions change them, and how to set them back.

Owns two tables: ``SETTINGS``, in the order in which they are set back, and ``IRREVERSIBLE``, functions whose effect no
function undoes. ``asyncray.worker.late_settings`` has those of modules that may not be loaded.
``asyncray.worker.leftovers`` watches these functions. Nothing here knows what a task is.

A setting is read before it changes for the first time, so reading may cost some microseconds.
"""

from __future__ import annotations

import _locale
import _signal  # type: ignore[import-not-found]  # what the signal module is made of, without its enums
import faulthandler
import gc
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

from asyncray.worker.process_environment import MarkedOutput

Owner = ModuleType | type
"""The module or class that a function is an attribute of."""

_STANDARD_DESCRIPTORS = range(3)

_MODULES_IN_C = {"os": "posix", "signal": "_signal", "socket": "_socket", "locale": "_locale", "decimal": "_decimal"}
"""Modules that take functions from another module. Programs may call them there."""


class Setting:
    """One setting, or several that the same functions change.

    Args:
        name: for people.
        functions: the functions that change it: the owner and the name of each.
        restore: sets what ``read`` has returned. A signal handler may interrupt it; it is called again then.
        concerns: True if a call changes the setting. It gets the name of the function, and the arguments.
        restore_after_import: takes the place of ``restore`` where the task has imported modules, which may need new
            values. None: the same.
    """

    # No dataclass: their module takes 6 ms to load, before the first worker can be forked.
    __slots__ = ("concerns", "functions", "name", "read", "restore", "restore_after_import")

    def __init__(
        self,
        name: str,
        functions: tuple[tuple[Owner, str], ...],
        read: Callable[[], Any],
        restore: Callable[[Any], object],
        concerns: Callable[..., bool] = lambda function, *args, **kwargs: True,
        restore_after_import: Callable[[Any], object] | None = None,
    ) -> None:
        self.name = name
        self.functions = functions
        self.read = read
        self.restore = restore
        self.concerns = concerns
        self.restore_after_import = restore_after_import

    def __repr__(self) -> str:
        return f"<Setting {self.name}>"


def functions(names: str) -> tuple[tuple[Owner, str], ...]:
    """The owners and names of functions that are written as ``module.name``, wherever programs may find them.

    Leaves out modules that are not loaded, and functions that this version of Python lacks.
    """
    found: list[tuple[Owner, str]] = []
    for dotted in names.split():
        module, _, name = dotted.rpartition(".")
        function = getattr(sys.modules.get(module), name, None)
        owners = [sys.modules.get(owner) for owner in (module, _MODULES_IN_C.get(module, ""))]
        found += [(owner, name) for owner in owners if owner is not None and getattr(owner, name, None) is function]
    return tuple(place for place in found if hasattr(*place))


def on_main_thread(function: str, *args: Any, **kwargs: Any) -> bool:
    """True for calls by the thread that runs tasks one after the other."""
    return threading.current_thread() is threading.main_thread()


# Signals -------------------------------------------------------------------------------------------------------------


def _nothing() -> None:
    pass


def _stop_timers(before: None) -> None:
    for timer in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
        _signal.setitimer(timer, 0)


_FATAL = {signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL}
"""``faulthandler.enable`` handles these, and ``faulthandler.register`` the others."""


def _restore_faulthandler(before: None) -> None:
    faulthandler.cancel_dump_traceback_later()
    for number in signal.valid_signals() - _FATAL:
        faulthandler.unregister(number)
    faulthandler.enable(2)


def _handlers() -> dict[int, Any]:
    return {int(number): _signal.getsignal(number) for number in signal.valid_signals()}


def _restore_handlers(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if _signal.getsignal(number) is not handler:
            # None is a handler in C, which Python cannot set.
            _signal.signal(number, _signal.SIG_DFL if handler is None else handler)


def _mask() -> Any:
    return _signal.pthread_sigmask(_signal.SIG_BLOCK, ())


def _restore_mask(before: Any) -> None:
    _signal.pthread_sigmask(_signal.SIG_SETMASK, before)


def _wakeup_descriptor() -> int:
    descriptor: int = _set_wakeup_fd(-1)
    _set_wakeup_fd(descriptor)
    return descriptor


# Files ---------------------------------------------------------------------------------------------------------------


def _copies_of_descriptors() -> dict[int, int]:
    copies = {}
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            copies[descriptor] = os.dup(descriptor)
        except OSError:
            pass  # it is closed, and may stay so
    return copies


def _restore_descriptors(copies: dict[int, int]) -> None:
    for descriptor in list(copies):
        os.dup2(copies[descriptor], descriptor)
        os.close(copies.pop(descriptor))


def _is_standard(function: str, *args: Any, **kwargs: Any) -> bool:
    """True if the descriptor that the call closes or replaces, or the first of them, is a standard one."""
    if function == "dup2":
        return kwargs.get("fd2", args[-1] if args else None) in _STANDARD_DESCRIPTORS
    return kwargs.get("fd", args[0] if args else None) in _STANDARD_DESCRIPTORS


def _restore_output(before: None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, MarkedOutput):
            stream.restore_format()


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was deleted: one is as good as another
        return "/"


def _read_umask() -> int:
    umask = _umask(0o77)
    _umask(umask)
    return umask


# Limits and priorities -----------------------------------------------------------------------------------------------

_LIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def _limits() -> dict[int, tuple[int, int]]:
    return {limit: resource.getrlimit(limit) for limit in _LIMITS}


def _restore_limits(before: dict[int, tuple[int, int]]) -> None:
    for limit, values in before.items():
        if resource.getrlimit(limit) != values:
            resource.setrlimit(limit, values)


def _scheduling() -> tuple[int, Any, set[int], int]:
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    return os.sched_getscheduler(0), os.sched_getparam(0), os.sched_getaffinity(0), priority


def _restore_scheduling(before: tuple[int, Any, set[int], int]) -> None:
    policy, parameters, cpus, priority = before
    os.sched_setaffinity(0, cpus)
    if (os.sched_getscheduler(0), os.sched_getparam(0)) != (policy, parameters):
        os.sched_setscheduler(0, policy, parameters)
    if os.getpriority(os.PRIO_PROCESS, 0) != priority:
        os.setpriority(os.PRIO_PROCESS, 0, priority)


# The interpreter and the standard library ----------------------------------------------------------------------------


def _variables() -> dict[bytes, bytes]:
    return dict(os.environb)


def _restore_old_variables(before: dict[bytes, bytes]) -> None:
    for name, value in before.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


def _restore_variables(before: dict[bytes, bytes]) -> None:
    for name in [name for name in os.environb if name not in before]:
        del os.environb[name]
    _restore_old_variables(before)


def _locales() -> Any:
    return _setlocale(_locale.LC_ALL, None)


def _changes_locale(function: str, category: int = 0, locale: object = None) -> bool:
    return locale is not None


def _collector() -> tuple[bool, tuple[int, int, int], int]:
    return gc.isenabled(), gc.get_threshold(), gc.get_debug()


def _restore_collector(before: tuple[bool, tuple[int, int, int], int]) -> None:
    enabled, thresholds, debug = before
    gc.set_threshold(*thresholds)
    gc.set_debug(debug)
    if enabled:
        gc.enable()
    else:
        gc.disable()


def _interpreter_limits() -> tuple[int, int, float]:
    return sys.getrecursionlimit(), sys.get_int_max_str_digits(), sys.getswitchinterval()


def _restore_interpreter_limits(before: tuple[int, int, float]) -> None:
    depth, digits, seconds = before
    sys.setrecursionlimit(depth)
    sys.set_int_max_str_digits(digits)
    sys.setswitchinterval(seconds)


def _of_new_threads() -> tuple[int, Any, Any]:
    return _stack_size(), threading.gettrace(), threading.getprofile()


def _restore_new_threads(before: tuple[int, Any, Any]) -> None:
    size, trace, profile = before
    threading.stack_size(size)
    threading.settrace(trace)
    threading.setprofile(profile)


def is_not_importing(function: str, *args: Any, **kwargs: Any) -> bool:
    """False where a module does it while it is imported: then the filter is for all tasks that use the module."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return False
        frame = frame.f_back
    return True


def _filters() -> list[Any]:
    return list(warnings.filters)


def _restore_filters(before: list[Any]) -> None:
    warnings.filters[:] = before  # type: ignore[index]  # it is a list
    warnings._filters_mutated()  # type: ignore[attr-defined]  # as simplefilter does


_set_wakeup_fd = _signal.set_wakeup_fd
_umask = os.umask
_setlocale = _locale.setlocale
_stack_size = threading.stack_size

SETTINGS = (
    # Timers first: without its handler, a signal that a timer sends ends the process.
    Setting("timers", functions("signal.alarm signal.setitimer"), _nothing, _stop_timers),
    Setting(
        "faulthandler",
        functions(
            "faulthandler.enable faulthandler.disable faulthandler.register faulthandler.unregister "
            "faulthandler.dump_traceback_later"
        ),
        _nothing,
        _restore_faulthandler,
    ),
    Setting("handlers", functions("signal.signal signal.siginterrupt"), _handlers, _restore_handlers),
    Setting(
        "wake-up descriptor",
        functions("signal.set_wakeup_fd"),
        _wakeup_descriptor,
        lambda before: _set_wakeup_fd(before),
        on_main_thread,
    ),
    Setting("signal mask", functions("signal.pthread_sigmask"), _mask, _restore_mask, on_main_thread),
    Setting(
        "standard descriptors",
        functions("os.close os.closerange os.dup2 os.fdopen"),
        _copies_of_descriptors,
        _restore_descriptors,
        _is_standard,
    ),
    Setting("output", ((MarkedOutput, "reconfigure"),), _nothing, _restore_output),
    Setting("umask", functions("os.umask"), _read_umask, lambda before: os.umask(before)),
    Setting("directory", functions("os.chdir os.fchdir"), _directory, lambda before: os.chdir(before)),
    Setting("limits", functions("resource.setrlimit resource.prlimit"), _limits, _restore_limits),
    Setting(
        "scheduling",
        functions("os.nice os.setpriority os.sched_setaffinity os.sched_setscheduler os.sched_setparam"),
        _scheduling,
        _restore_scheduling,
    ),
    Setting(
        "environment variables",
        ((type(os.environ), "__setitem__"), (type(os.environ), "__delitem__")),
        _variables,
        _restore_variables,
        restore_after_import=_restore_old_variables,
    ),
    # After the environment variables, which it reads.
    Setting("time zone", functions("time.tzset"), _nothing, lambda before: time.tzset()),
    Setting(
        "locale",
        functions("_locale.setlocale locale._setlocale"),
        _locales,
        lambda before: _setlocale(_locale.LC_ALL, before),
        _changes_locale,
    ),
    Setting(
        "garbage collector",
        functions("gc.enable gc.disable gc.set_threshold gc.set_debug"),
        _collector,
        _restore_collector,
    ),
    Setting(
        "limits of the interpreter",
        functions("sys.setrecursionlimit sys.set_int_max_str_digits sys.setswitchinterval"),
        _interpreter_limits,
        _restore_interpreter_limits,
    ),
    Setting(
        "new threads",
        functions(
            "threading.stack_size threading.settrace threading.setprofile threading.settrace_all_threads "
            "threading.setprofile_all_threads"
        ),
        _of_new_threads,
        _restore_new_threads,
    ),
    Setting(
        "warnings",
        functions("warnings.simplefilter warnings.filterwarnings warnings.resetwarnings"),
        _filters,
        _restore_filters,
        is_not_importing,
    ),
    Setting(
        "time limit of sockets",
        functions("socket.setdefaulttimeout"),
        socket.getdefaulttimeout,
        lambda before: socket.setdefaulttimeout(before),
    ),
)


IRREVERSIBLE = functions(
    "os.chroot os.setuid os.seteuid os.setreuid os.setresuid os.setgid os.setegid os.setregid os.setresgid "
    "os.setgroups os.initgroups os.setsid os.setpgid os.setpgrp os.login_tty os.unshare os.setns sys.addaudithook"
)
"""Functions whose effect cannot be undone."""


def is_irreversible(function: str, *args: Any, **kwargs: Any) -> bool:
    """True if a call of such a function, which has succeeded, has changed this process."""
    return function != "setpgid" or args[0] in (0, os.getpid())
