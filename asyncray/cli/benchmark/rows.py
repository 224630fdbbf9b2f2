"""All rows, in the order in which they run and are printed."""

from __future__ import annotations

from asyncray.cli.benchmark import actor_rows, cluster_rows, crowd_rows, lifecycle_rows, object_rows, task_rows
from asyncray.cli.benchmark.bench import Row

ROWS: list[Row] = [
    *lifecycle_rows.ROWS,
    *object_rows.ROWS,
    *task_rows.ROWS,
    *lifecycle_rows.BURSTS,
    *actor_rows.ROWS,
    *crowd_rows.ROWS,
    *cluster_rows.ROWS,
]


def chosen(only: tuple[str, ...], *, everything: bool) -> list[Row]:
    """The rows whose names contain one of the given texts; without texts all but the slow ones.

    Raises:
        ValueError: a text that is in no name.
    """
    for text in only:
        if not any(text.lower() in row.name.lower() for row in ROWS):
            raise ValueError(f"no row has {text!r} in its name; --list shows them")
    if only:
        return [row for row in ROWS if any(text.lower() in row.name.lower() for text in only)]
    return [row for row in ROWS if everything or not row.slow]
