"""Cuts a child that user code forks off from asyncray, in drivers and workers.

Goal: the child is as it would be without asyncray. It owns none of our descriptors (or the node would live as long as
the child does), none of its own is closed, its signal mask and handlers are the caller's, and it has no session.

1. **Why that is hard.** A fork may come in any thread at any moment: while another one starts or ends a session, after
   the node has died, and again in the child. The other threads, and whatever they were about to do, stay in the parent.
2. **Things that do not work.**

   * *Closing descriptors by number.* The number may belong to a file of the program by now.
   * *Closing what the session knows.* While ``init`` runs there is no session yet.
   * *A global for the mask.* Two threads may fork at once.
   * *Hooks of each session by* ``os.register_at_fork``. They cannot be removed, and run in every generation.
3. **Solution.** Each descriptor is registered here before it connects to anything, with the file that it stands for
   (device and inode). It is made and closed under ``lock``, and a fork waits for that. The child closes those that
   still stand for the same file. Then the registry is empty: a grandchild finds nothing to close.
4. **Signals.** All are blocked in the thread that forks, from before the fork until the child is in order. So one that
   is sent to the child at once is not lost to a handler of ours, and none interrupts the steps. The kernel may still
   give a signal to another thread, and Python runs its handler in the main thread. A handler that raised at the entry
   of a hook would keep the hook from its work. So a fork of the main thread also defers the handlers of all signals,
   from before it takes ``lock`` until after it has released it.
5. **Steps of other modules** (``in_child``) run in the order of their registration, in each generation, so they must be
   idempotent: they reset what they find. If one fails, it is reported, and the others still run.
6. **Imports.** A child that is forked while another thread imports a module never gets the lock of that module. The
   modules of this package are loaded when they are first used, so programs do not see these imports. A fork waits for
   them, but not for ever, because the import may wait for something that the thread holds which forks.
7. **The zygote** forks without any of this: it has one thread, no session and nothing registered, and its children
   reset the signals themselves.
"""

from __future__ import annotations

import _frozen_importlib  # importlib, which is loaded in any case
import _signal  # type: ignore[import-not-found]  # no conversions to enums
import os
import sys
import threading
import time
from collections.abc import Callable

from asyncray.io import interrupts
from asyncray.io.owned_lock import OwnedRLock

_ALL_SIGNALS = tuple(_signal.valid_signals())

_PACKAGE = __name__.partition(".")[0]

_MOST_WAITS = 500
"""Milliseconds that a fork waits for the import of another thread, which takes 100."""

_sleep = time.sleep

lock = OwnedRLock()
"""Held while descriptors are made or closed, for microseconds: a fork of another thread waits for it."""

# By the first descriptor: the function that closes it, and the files behind the descriptors. Written under ``lock``.
_registered: dict[int, tuple[Callable[[], object], tuple[tuple[int, int, int], ...]]] = {}

# The steps of other modules, in the order in which they run. Written at import.
_steps: list[Callable[[], object]] = [interrupts.restore_in_child]

# False during a fork by ``fork_without_steps``. Only a process with one thread writes it.
_steps_are_due = True


class _Forks(threading.local):
    """The forks that this thread is in the middle of.

    For each one: whether it has begun to defer signals, and the signal mask that the thread had before.
    """

    def __init__(self) -> None:
        self.stack: list[tuple[bool, set[int]]] = []


_forks = _Forks()


def in_child(step: Callable[[], object]) -> None:
    """Each forked child calls the step, before the code that forked goes on."""
    _steps.append(step)


def close_in_child(close: Callable[[], object], *descriptors: int) -> None:
    """A forked child calls ``close``, and closes those of the descriptors that are open after that.

    An earlier registration of the first descriptor ends. Call it with ``lock`` held since before they were made.
    """
    _registered[descriptors[0]] = close, tuple(map(_identity, descriptors))


def own(descriptor: int) -> int:
    """A forked child closes the descriptor. Returns it."""
    close_in_child(_nothing, descriptor)
    return descriptor


def closed(descriptor: int) -> None:
    """The descriptors registered with this one as the first are closed. Call with ``lock`` held since before that."""
    _registered.pop(descriptor, None)


def close(descriptor: int) -> None:
    """Closes a descriptor that ``own`` has registered."""
    with lock:
        os.close(descriptor)
        closed(descriptor)


def fork_without_steps() -> int:
    """``os.fork`` without the hooks, for a process that has one thread, no session, and nothing registered.

    That is the zygote. The hooks cost each of its forks 0.1 ms and 40 page faults. They run when its child forks.

    Raises:
        OSError: as ``os.fork``.
    """
    global _steps_are_due
    _steps_are_due = False
    try:
        return os.fork()
    finally:
        _steps_are_due = True


def names_in(directory: str) -> list[str]:
    """``os.listdir`` while no other thread can fork: a child would keep the directory open.

    Raises:
        OSError: as ``os.listdir``.
    """
    with lock:
        return os.listdir(directory)


def _nothing() -> None:
    pass


def _identity(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return descriptor, status.st_dev, status.st_ino


def _before() -> None:
    if not _steps_are_due:
        return
    # A signal handler that raises does so before the next line has an effect: then the fork goes on without our hooks.
    # Also those that seldom raise (SIGWINCH) are deferred, because one that did would leave what the others must undo.
    began = interrupts.begin_deferring(_ALL_SIGNALS)
    _forks.stack.append((began, _signal.pthread_sigmask(_signal.SIG_BLOCK, ())))
    _wait_for_imports()
    lock.acquire()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)


def _wait_for_imports() -> None:
    for _ in range(_MOST_WAITS):
        if not _another_thread_imports():
            return
        _sleep(0.001)


def _another_thread_imports() -> bool:
    """True if another thread is about to import a module of this package. Costs 1 us: few locks exist."""
    threads = {None, threading.get_ident()}
    locks = list(_frozen_importlib._module_locks.items())  # type: ignore[attr-defined]  # no public way exists
    return any(name.startswith(_PACKAGE) and getattr(lock(), "owner", None) not in threads for name, lock in locks)


def _after_in_parent() -> None:
    """Also called if the fork has failed."""
    if _forks.stack:
        began, mask = _forks.stack.pop()
        # Not held in the child of another hook that forked in the middle of this fork.
        if lock.held_by_this_thread():
            lock.release()
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        if began:  # otherwise work with signals deferred has forked, and goes on
            interrupts.end_deferring()


def _after_in_child() -> None:
    global lock
    if not _steps_are_due:
        return
    try:
        # A thread that stayed in the parent may hold the old one, if a signal handler kept ``_before`` from its work.
        # This thread may, too, if that handler has forked: it releases the old one at the end of its block.
        lock = OwnedRLock()
        registered = list(_registered.values())
        _registered.clear()
        for close, files in registered:
            _guarded(close)
            for file in files:
                _close_if_open(file)
        for step in _steps:  # one of them ends the deferring
            _guarded(step)
    finally:
        if _forks.stack:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, _forks.stack.pop()[1])


def _close_if_open(file: tuple[int, int, int]) -> None:
    try:
        if _identity(file[0]) == file:
            os.close(file[0])
    except OSError:
        pass  # it was closed


def _guarded(step: Callable[[], object]) -> None:
    try:
        step()
    except Exception:
        # A defect of ours. The other steps must run, so no hook of the program's is called.
        sys.__excepthook__(*sys.exc_info())


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
