"""``asyncray status``: what a node has and does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

_MOST_ROWS = 40
"""Of a table for people. --json has them all."""


@click.command("status")
@click.option(
    "--address",
    envvar="ASYNCRAY_ADDRESS",
    default="auto",
    help="unix:PATH, or auto for the newest that runs.  [default: $ASYNCRAY_ADDRESS, otherwise auto]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def status_command(address: str, as_json: bool) -> None:
    """Shows a node: resources, object store, workers, actors, drivers, tasks.

    \b
    Example:
        asyncray status
        asyncray status --json | jq .available

    Exit codes: 0 shown, 1 no node runs or it does not answer, 2 wrong usage.
    """
    from asyncray.cli.observer import Observer  # start-up cost: not for --help

    try:
        with Observer(address) as observer:
            found = observer.request("status")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console  # start-up cost: not for --json

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a file or a pipe has no width; 80 would cut paths
    console.print(f"Node {found['node_id']} at {found['address']}", markup=False, highlight=False, soft_wrap=True)
    where = f"pid {found['pid']} on {found['hostname']}, files in {found['session_dir']}\n"
    console.print(where, markup=False, highlight=False, soft_wrap=True)
    _table(console, "Resources", ("name", "used", "total"), _resource_rows(found))
    if found["problem"]:
        console.print(f"Problem: {found['problem']}\n", markup=False, highlight=False, soft_wrap=True)
    store = found["store"]
    _table(
        console,
        "Object store",
        ("objects", "used", "mapped", "capacity"),
        [(found["objects"], *(_size(store[name]) for name in ("used", "reserved", "capacity")))],
    )
    tasks = found["tasks"]
    _table(console, "Tasks", ("unfinished", "waiting for resources"), [(tasks["unfinished"], tasks["queued"])])
    if found["waiting"]:
        waiting = [(row["name"], _needs(row["needs"]), row["tasks"], row["why"]) for row in found["waiting"]]
        _table(console, "Waiting for resources", ("first of them", "needs", "tasks", "why"), waiting)
    workers = [(row["number"], row["pid"], row["state"], row["inflight"], row["running"]) for row in found["workers"]]
    _table(console, "Workers", ("number", "pid", "state", "tasks", "runs"), workers)
    actors = [
        (row["actor_id"], row["class_name"], row["state"], row["name"], row["pid"], row["pending_calls"])
        for row in found["actors"]
    ]
    _table(console, "Actors", ("id", "class", "state", "name", "pid", "pending calls"), actors)
    dead = [(row["actor_id"], row["death_cause"]) for row in found["actors"] if row["death_cause"]]
    if dead:
        _table(console, "Why actors died", ("id", "cause"), dead)
    _table(console, "Drivers", ("client", "pid"), [(row["client"], row["pid"]) for row in found["drivers"]])


def _table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Iterable[Any]]) -> None:
    from rich import box  # start-up cost, as above
    from rich.table import Table
    from rich.text import Text

    if not rows:
        console.print(f"[bold]{title}[/bold]: none\n")
        return
    table = Table(*heads, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows[:_MOST_ROWS]:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))  # Text: [] in names is no markup
    console.print(table)
    if len(rows) > _MOST_ROWS:
        console.print(f"... and {len(rows) - _MOST_ROWS} more: --json shows all\n")


def _resource_rows(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name, total in sorted(found["resources"].items()):
        used = total - found["available"].get(name, 0.0)
        show = _size if name in ("memory", "object_store_memory") else "{:g}".format
        rows.append((name, show(used), show(total)))
    return rows


def _needs(needs: dict[str, float]) -> str:
    return ", ".join(f"{_size(n) if 'memory' in name else format(n, 'g')} {name}" for name, n in sorted(needs.items()))


def _size(amount: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"
