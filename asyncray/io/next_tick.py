"""The next tick of a shell: it comes after a period, or earlier if a machine asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class NextTick:
    """A timer that runs once. The function that it runs sets it again.

    A timer of uvloop that is due at once has no time that one could ask for, so it is kept here.

    Args:
        run: called when the time has come.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Callable[[], None]) -> None:
        self._loop = loop
        self._run = run
        self._at = 0.0
        # None: no tick is due.
        self._handle: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<NextTick {'none' if self._handle is None else f'at {self._at:.3f}'}>"

    def set_after(self, seconds: float) -> None:
        """The next tick comes after so many seconds."""
        self.cancel()
        self._at = self._loop.time() + seconds
        self._handle = self._loop.call_at(self._at, self._run)

    def bring_forward(self, at: float) -> None:
        """Moves the next tick forward to this time, unless it comes before that. Does nothing while none is due."""
        if self._handle is not None and at < self._at:
            self._handle.cancel()
            self._at = at
            self._handle = self._loop.call_at(at, self._run)

    def cancel(self) -> None:
        """No tick is due any more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
