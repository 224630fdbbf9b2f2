"""A re-entrant lock that a thread can ask whether it holds it.

A finalizer may run in any thread between any two instructions, also in a thread that is inside a critical section. It
may enter that section again (the lock is re-entrant), but it must not wait there for something that needs the section:
its own thread would wait for itself. So code that waits asks ``held_by_this_thread`` first.
"""

from __future__ import annotations

from _thread import RLock
from typing import TYPE_CHECKING


class OwnedRLock(RLock):  # type: ignore[misc]  # final for type checkers, but not for the interpreter
    """A re-entrant lock.

    ``with`` takes and releases it in one C call each, as it does for its base class: a signal handler that raises
    never leaves it taken. The same holds for ``held_by_this_thread``, which is the base class's method for conditions.

    Example::

        lock = OwnedRLock()
        with lock:
            assert lock.held_by_this_thread()
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def held_by_this_thread(self) -> bool:
            """True in the thread that holds the lock: in a finalizer that came up in its critical section."""

        def reset_in_child(self) -> None:
            """Releases the lock in a forked child, whose parent keeps the thread that held it."""

    else:
        held_by_this_thread = RLock._is_owned
        reset_in_child = RLock._at_fork_reinit
