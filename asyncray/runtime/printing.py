"""Printing what workers wrote, in the driver, and logging what the node has to say.

On a thread of its own, which starts with the first line: a terminal that is slow must not stop the io thread.
"""

from __future__ import annotations

import sys
import threading
from queue import SimpleQueue
from typing import Any, TextIO

Batch = list[Any]
"""[stream, prefix, line]..."""


_MOST_WAITING = 50_000
"""Lines that wait for a slow terminal. What comes on top is counted and dropped: the workers' files have it."""


class Printer:
    """Prints lines to this process's standard output and error, and logs to its logger ``asyncray``."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Batch | tuple[int, str] | None] = SimpleQueue()
        self._waiting = 0
        self._dropped = 0
        self._lock = threading.RLock()  # a finalizer may come here in a thread that has it
        self._thread: threading.Thread | None = None
        self._late = False

    def __repr__(self) -> str:
        return f"<Printer {self._waiting} lines>"

    def show(self, lines: Batch) -> None:
        """Prints the lines soon."""
        self._start()
        with self._lock:
            if self._waiting > _MOST_WAITING:
                self._dropped += len(lines)
                return
            self._waiting += len(lines)
        self._queue.put(lines)

    def log(self, level: int, text: str) -> None:
        """Logs the text soon. The daemon sends few of these."""
        self._start()
        self._queue.put((level, text))

    def _start(self) -> None:
        if self._thread is None and not self._late:
            thread = threading.Thread(target=self._run, name="asyncray-output", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:  # the interpreter ends and takes no new threads: whoever closes this prints
                self._late = True

    def close(self, timeout: float) -> None:
        """Prints what is left, and ends."""
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None
        else:
            self._run()

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            if isinstance(lines, tuple):
                _log(*lines)
                continue
            printed = len(lines)
            with self._lock:
                self._waiting -= printed
                dropped, self._dropped = self._dropped, 0
            for stream in ("out", "err"):
                text = "".join(f"{prefix} {line}\n" for where, prefix, line in lines if where == stream)
                _print(text, sys.stdout if stream == "out" else sys.stderr)
            if dropped:
                _print(f"... {dropped} lines of workers were not printed: nobody read fast enough\n", sys.stderr)


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
