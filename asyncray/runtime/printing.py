"""Printing what workers wrote, in the driver.

On a thread of its own, which starts with the first line: a terminal that is slow must not stop the io thread.
"""

from __future__ import annotations

import sys
import threading
from queue import SimpleQueue
from typing import Any

Batch = list[Any]
"""[stream, prefix, line]..."""


class Printer:
    """Prints lines to this process's standard output and error."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()  # bounded by the daemon, which cuts floods
        self._thread: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Printer {self._queue.qsize()} batches>"

    def show(self, lines: Batch) -> None:
        """Prints the lines soon."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="asyncray-output", daemon=True)
            self._thread.start()
        self._queue.put(lines)

    def close(self, timeout: float) -> None:
        """Prints what is left, and ends."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout)
            self._thread = None

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            for stream in ("out", "err"):
                text = "".join(f"{prefix} {line}\n" for where, prefix, line in lines if where == stream)
                target = sys.stdout if stream == "out" else sys.stderr
                if text and target is not None:
                    try:
                        target.write(text)
                        target.flush()
                    except (OSError, ValueError):
                        pass  # closed, or nobody reads it
