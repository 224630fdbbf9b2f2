"""A process whose leftovers are undone: this one, for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncray.worker.leftovers import Leftovers
from asyncray.worker.settings import IRREVERSIBLE, SETTINGS, functions


@contextmanager
def watching() -> Iterator[Leftovers]:
    """Wraps what a worker wraps, and takes the wrappers away again."""
    places = [place for setting in SETTINGS for place in setting.functions]
    places += [*IRREVERSIBLE, *functions("numpy.random.seed numpy.random.set_state")]
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]
    watched = Leftovers()
    watched.watch()
    try:
        yield watched
    finally:
        watched._running = False
        for owner, name, function in originals:
            setattr(owner, name, function)
