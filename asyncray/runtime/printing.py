"""Prints the output of workers in the driver, and logs the notices of the node.

On a thread of its own, which starts with the first line: a terminal that is slow must not stop the io thread. Lines
that are not printed are counted, and the number goes to standard error.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from queue import SimpleQueue
from typing import Any, TextIO

Batch = list[Any]
"""[stream, prefix, line]..."""

_MOST_WAITING = 50_000
"""Lines that wait for a slow terminal. Further ones are counted and dropped: the workers' files have them."""

_CHUNK = 50
"""Lines that are written at once. The count of lines that were not printed may be wrong by as many."""


class Printer:
    """Prints lines to this process's standard output and error, and logs to its logger ``asyncray``."""

    def __init__(self) -> None:
        # Where the workers' files are, for people. Set once the session has started.
        self.directory = ""
        # Lines, log records, and None for the end.
        self._queue: SimpleQueue[Batch | tuple[int, str] | None] = SimpleQueue()
        # Lines that were shown and are not printed yet. Under the lock.
        self._waiting = 0
        # Lines that were not even queued, until a message has said so. Under the lock.
        self._dropped = 0
        # Re-entrant: a finalizer may come here in a thread that holds it.
        self._lock = threading.RLock()
        # None until the first line and after ``close``.
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Printer {self._waiting} lines>"

    def show(self, lines: Batch) -> None:
        """Queues lines to be printed."""
        self._start()
        with self._lock:
            if self._waiting > _MOST_WAITING:
                self._dropped += len(lines)
                return
            self._waiting += len(lines)
        self._queue.put(lines)

    def log(self, level: int, text: str) -> None:
        """Queues a text to be logged. The daemon sends few of these.

        Without a thread it goes to standard error at once: it may say why the program waits, and so must not wait.
        """
        if self._start() or not threading.main_thread().is_alive():  # at the end of the interpreter ``close`` logs
            self._queue.put((level, text))
        else:
            _write_at_once(f"{text}\n")

    def _start(self) -> bool:
        """False if no thread runs and the system starts none. The lines wait for one, or for ``close``."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="asyncray-output", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._thread = thread
        return True

    def close(self, timeout: float) -> None:
        """Prints the rest, and ends. Gives up lines that the terminal has not taken within ``timeout`` seconds."""
        self._queue.put(None)
        thread, self._thread = self._thread, None
        if thread is None:
            self._run()
            return
        thread.join(timeout)
        if thread.is_alive():
            with self._lock:
                lost = self._waiting + self._dropped
            if lost:
                _write_at_once(self._complaint(lost))

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            if isinstance(lines, tuple):
                _log(*lines)
                continue
            for start in range(0, len(lines), _CHUNK):
                self._print_some(lines[start : start + _CHUNK])

    def _print_some(self, lines: Batch) -> None:
        for stream in ("out", "err"):
            text = "".join(f"{prefix} {line}\n" for where, prefix, line in lines if where == stream)
            _print(text, sys.stdout if stream == "out" else sys.stderr)
        with self._lock:
            self._waiting -= len(lines)
            dropped, self._dropped = self._dropped, 0
        if dropped:
            _print(self._complaint(dropped), sys.stderr)

    def _complaint(self, lines: int) -> str:
        see = f", see {self.directory}" if self.directory else ""
        return f"asyncray: {lines} lines of workers were not printed, because nobody read fast enough{see}\n"


def _log(level: int, text: str) -> None:
    import logging  # start-up cost: most programs have nothing to log

    logging.getLogger("asyncray").log(level, "%s", text)


def _print(text: str, target: TextIO | None) -> None:
    if not text or target is None:
        return
    try:
        try:
            target.write(text)
        except UnicodeEncodeError as error:
            target.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
        target.flush()
    except (OSError, ValueError):
        pass  # closed, or nobody reads it


def _write_at_once(text: str) -> None:
    """Writes to standard error if that takes the text without waiting. The stuck thread may hold the stream's lock."""
    try:
        descriptor = sys.stderr.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        if poll.poll(0):
            os.write(descriptor, text.encode("utf-8", "replace"))
    except (AttributeError, OSError, ValueError):  # it is closed, None, or has no descriptor
        pass
