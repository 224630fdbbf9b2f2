"""Exports of one process: the functions and templates that the daemon keeps for it, until nothing here needs them.

1. **Goal.** A function that a program makes again in each step of a loop is kept nowhere once the program drops it: not
   here, not in the daemon, not in the workers. A function that the program keeps is sent once.
2. **Why that is hard.** The last user ends in a finalizer, in any thread, between any two instructions; and at that
   moment another thread may export the same content again.
3. **Solution.** Users hold an ``Export``, which stands for one number that the daemon knows. A weak reference waits for
   its end: its callback appends to a queue in one C call. The next writer (``References.collect``) drains that queue,
   *then* counts the messages posted so far, and sends FORGET behind them. A user holds the export until its message is
   posted, so a message never follows the FORGET of its number.

   * A number is never used again. So FORGET of the old number means nothing to content that was exported again.
   * Two threads may export the same content at the same time, each under a number of its own. Both are forgotten.
4. **What stays a little longer.** Programs make the same small function again and again (``remote(f).remote(x)`` in a
   loop). So the last exports stay alive here, whether or not there is a user (``linger``). Functions that are large or
   hold refs do not linger, nor do their templates.
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable

LINGERING = 128
"""So many of the latest exports stay without a user."""


class Export:
    """A function or template that the daemon keeps for this process as long as this object lives.

    Args:
        number: under which the daemon knows it.
        digest: of its content.
        lingers: it stays for a while without a user.
    """

    __slots__ = ("__weakref__", "digest", "lingers", "number")

    def __init__(self, number: int, digest: bytes, *, lingers: bool) -> None:
        self.number = number
        self.digest = digest
        self.lingers = lingers

    def __repr__(self) -> str:
        return f"<Export {self.number} {self.digest.hex()}>"


class ExportWatch(weakref.ref[Export]):
    """Finds an export by its digest, and waits for its end. Its callback is a function in C, as that of ``Watch``."""

    __slots__ = ("bell", "digest", "number")
    # A second weak reference, whose callback asks for FORGET to be written.
    bell: weakref.ref[Export]
    digest: bytes
    number: int


class Exports:
    """The exports of this process.

    Args:
        request_flush: called by finalizers when the daemon should learn of something. Must be quick.
    """

    def __init__(self, request_flush: Callable[[], None]) -> None:
        self._request_flush = request_flush
        # One C call: neither another thread nor a finalizer gets the same number, so there is no lock.
        self._numbers = itertools.count(1)
        # By number: all that are alive, and those of the next queue.
        self._watches: dict[int, ExportWatch] = {}
        # Watches of exports that have ended. Finalizers append to it; drained by ``take_ended``.
        self._ended: deque[ExportWatch] = deque()
        # By digest: the latest export of this content that the daemon was sent.
        self._sent: dict[bytes, ExportWatch] = {}
        self._latest: deque[Export] = deque(maxlen=LINGERING)

    def __repr__(self) -> str:
        return f"<Exports {len(self._watches)}>"

    def find(self, digest: bytes) -> Export | None:
        """The export of this content, if the daemon has it."""
        watch = self._sent.get(digest)
        export = None if watch is None else watch()
        if export is not None and export.lingers:
            self._latest.append(export)
        return export

    def make(self, digest: bytes, *, lingers: bool) -> Export:
        """A new export. The caller posts the message that says what it is, and then calls ``sent``."""
        export = Export(next(self._numbers), digest, lingers=lingers)
        bell = weakref.ref(export, self._ring)  # made first: the callback that was made first runs last
        watch = ExportWatch(export, self._ended.append)
        watch.bell, watch.digest, watch.number = bell, digest, export.number
        self._watches[export.number] = watch
        return export

    def sent(self, export: Export) -> None:
        """The message of the export is posted: other users may find it."""
        self._sent[export.digest] = self._watches[export.number]
        if export.lingers:
            self._latest.append(export)

    def _ring(self, export: object) -> None:
        self._request_flush()

    def take_ended(self) -> list[int]:
        """The numbers of exports that have ended since the last call. One thread at a time."""
        numbers = []
        while self._ended:
            watch = self._ended.popleft()
            number = getattr(watch, "number", None)
            if number is None:
                # A signal handler has raised inside ``make``, so the daemon never learned of this export.
                continue
            self._watches.pop(number, None)
            # If another thread exports the same content between these two lines, it is not found again: no harm.
            if self._sent.get(watch.digest) is watch:
                self._sent.pop(watch.digest, None)
            numbers.append(number)
        return numbers
