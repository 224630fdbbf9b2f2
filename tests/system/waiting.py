"""Waiting for effects of other processes, which no event of this one announces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

DEADLINE = 30.0
"""Seconds for one effect, on a machine that is busy with other tests."""

_PAUSE = threading.Event()


def until(condition: Callable[[], object], deadline: float = DEADLINE) -> None:
    """Waits for an effect of another process."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        _PAUSE.wait(0.02)
