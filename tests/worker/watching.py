"""Wraps functions in this process as a worker does, for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from asyncray.worker.late_settings import LATE
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.settings import IRREVERSIBLE, SETTINGS


@contextmanager
def watching() -> Iterator[Leftovers]:
    """Wraps the functions that a worker wraps, and removes the wrappers afterwards."""
    places = [place for setting in SETTINGS for place in setting.functions]
    late = [setting for module, make, _ in LATE if module in sys.modules and (setting := make()) is not None]
    places += [*IRREVERSIBLE, *(place for setting in late for place in setting.functions)]
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    watched = Leftovers()
    watched.watch()
    try:
        yield watched
    finally:
        watched._running = False
        for owner, name, function in originals:
            setattr(owner, name, function)
