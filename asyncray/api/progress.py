"""Progress: a bar in a terminal or a notebook, a line elsewhere.

The bar is that of ``rich`` or ``tqdm``, whichever is installed. In a log file, and where neither is installed, a line
says at the end how many are done, and before that every half a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any, Protocol, TypeVar

from asyncray.api.object_calls import check_wait
from asyncray.messages import ERRORS
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import require

T = TypeVar("T")

_REFRESH = 0.1
"""Seconds between two looks at the refs."""

_BETWEEN_LINES = 30.0
"""Seconds between two lines, where there is no bar."""


class Meter(Protocol):
    """Shows how far some work is."""

    def update(self, done: int, failed: int) -> None:
        """So much is done, and so much of that has failed."""

    def close(self) -> None:
        """The work is done, or given up."""


class LineMeter:
    """Writes lines to stderr.

    Args:
        total: of what is to be done; None if nobody knows.
        title: what it is.
    """

    def __init__(self, total: int | None, title: str) -> None:
        self._total = total
        self._title = title
        self._done = self._failed = 0
        self._began = self._wrote = monotonic()

    def __repr__(self) -> str:
        return f"<LineMeter {self._text()}>"

    def update(self, done: int, failed: int) -> None:
        """So much is done, and so much of that has failed."""
        self._done, self._failed = done, failed
        if monotonic() >= self._wrote + _BETWEEN_LINES:
            self._write()

    def close(self) -> None:
        """Writes the last line."""
        self._write()

    def _write(self) -> None:
        self._wrote = monotonic()
        if sys.stderr is not None:
            sys.stderr.write(f"{self._text()} in {monotonic() - self._began:.1f} s\n")

    def _text(self) -> str:
        of = "" if self._total is None else f" of {self._total}"
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._title}: {self._done}{of} done{failed}"


class RichMeter:
    """A bar of ``rich``.

    Args:
        total, title: as of ``LineMeter``.
    """

    def __init__(self, total: int | None, title: str) -> None:
        from rich.console import Console  # optional: raises ImportError where it is not installed
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        failed = TextColumn("{task.fields[failed]}", style="red")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), failed)
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._bar = self._progress.add_task(title, total=total, failed="")
        self._progress.start()

    def __repr__(self) -> str:
        return f"<RichMeter {self._progress.tasks}>"

    def update(self, done: int, failed: int) -> None:
        """So much is done, and so much of that has failed."""
        self._progress.update(self._bar, completed=done, failed=f"{failed} failed" if failed else "")

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._progress.stop()


class TqdmMeter:
    """A bar of ``tqdm``.

    Args:
        total, title: as of ``LineMeter``.
    """

    def __init__(self, total: int | None, title: str) -> None:
        from tqdm.auto import tqdm  # optional: raises ImportError where it is not installed

        self._bar = tqdm(total=total, desc=title)

    def __repr__(self) -> str:
        return f"<TqdmMeter {self._bar}>"

    def update(self, done: int, failed: int) -> None:
        """So much is done, and so much of that has failed."""
        if failed:
            self._bar.set_postfix(failed=failed, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()


def make_meter(total: int | None, title: str) -> Meter:
    """The best meter for this process."""
    if _somebody_looks():
        for meter in (RichMeter, TqdmMeter):
            try:
                return meter(total, title)
            except ImportError:
                continue
    return LineMeter(total, title)


def _somebody_looks() -> bool:
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


class _Watch:
    """Refs that a meter shows."""

    def __init__(self, refs: Sequence[ObjectRef[Any]], title: str | None) -> None:
        # Each once: waiting takes no duplicates.
        self.pending = list(dict.fromkeys(refs))
        self._total = len(self.pending)
        self._failed = 0
        self._meter = make_meter(self._total, title or "tasks")

    def __repr__(self) -> str:
        return f"<_Watch {len(self.pending)} of {self._total} pending>"

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *error: object) -> None:
        self._meter.close()

    def show(self) -> None:
        """Shows which of them are done now."""
        before, self.pending = self.pending, []
        for ref in before:
            if not ref.done():
                self.pending.append(ref)
            elif ref._local.kind in ERRORS:
                self._failed += 1
        self._meter.update(self._total - len(self.pending), self._failed)


def progress(refs: Sequence[ObjectRef[T]], *, title: str | None = None) -> Sequence[ObjectRef[T]]:
    """Shows how many of the refs are done, until all are. A failed task counts as done.

    Args:
        refs: of tasks or actor calls; a ref may appear twice.
        title: the text beside the bar.

    Returns:
        The same refs, for ``get``.

    Raises:
        TypeError: not refs.
        OwnerDiedError: a ref of a session that has ended.

    Example::

        values = ray.get(ray.progress([square.remote(i) for i in range(1000)]))
    """
    with _Watch(refs, title) as watch:
        _show_all(watch)
    return refs


def _show_all(watch: _Watch) -> None:
    while watch.pending:
        found = check_wait(watch.pending, len(watch.pending), None)
        require().objects.wait(found, len(found), fetch=True, timeout=_REFRESH)
        watch.show()


async def progress_async(refs: Sequence[ObjectRef[T]], *, title: str | None = None) -> Sequence[ObjectRef[T]]:
    """Shows how many of the refs are done, until all are. As ``asyncray.sync.progress``, but awaited.

    Args:
        refs: of tasks or actor calls; a ref may appear twice.
        title: the text beside the bar.

    Returns:
        The same refs, for ``get``.

    Raises:
        TypeError: not refs.
        OwnerDiedError: a ref of a session that has ended.

    Example::

        values = await asyncray.get(await asyncray.progress([square.remote(i) for i in range(1000)]))
    """
    with _Watch(refs, title) as watch:
        await _show_all_async(watch)
    return refs


async def _show_all_async(watch: _Watch) -> None:
    while watch.pending:
        found = check_wait(watch.pending, len(watch.pending), None)
        await require().objects.wait_async(found, len(found), fetch=True, timeout=_REFRESH)
        watch.show()
