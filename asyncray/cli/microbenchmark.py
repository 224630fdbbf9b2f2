"""``asyncray microbenchmark``: the rows of ``asyncray.cli.benchmark`` as a command."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command("microbenchmark")
@click.option("--only", multiple=True, metavar="ROW", help="Only rows with this text in their names. May be repeated.")
@click.option("--all", "everything", is_flag=True, help="Also the slow rows, which take a minute or more.")
@click.option("--list", "show_list", is_flag=True, help="List the rows instead of measuring them.")
@click.option(
    "--json", "file", type=click.File("w", lazy=False), metavar="FILE", help="Write the figures; - is stdout."
)
@click.option("--scale", type=click.FloatRange(min=0, min_open=True), default=1.0, hidden=True)
def microbenchmark_command(
    *, only: tuple[str, ...], everything: bool, show_list: bool, file: Any, scale: float
) -> None:
    """Measures asyncray on this machine: about two seconds a row.

    Rows carry the names of Ray's own microbenchmark where it has them. Beside each figure: the spread of its
    repetitions, the median of a single call, the budget and the aim of asyncray's design, and its share of a bare relay
    of messages, measured in the same run. Other load on the machine shows: close what you can.

    --json writes a list of {"name", "value", "unit", "budget", "aim", "share_of_relay", "repetitions", "p50",
    "verdict"}. A missed budget is shown, and is no error.

    \b
    Example:
        asyncray microbenchmark --only "tasks sync" --only "actor calls async"
        asyncray microbenchmark --all --json ours.json

    Exit codes: 0 measured, 1 a row failed, 2 wrong usage.
    """
    from asyncray.cli.benchmark.report import HEADING, LEGEND, describe, line, run_rows  # start-up cost: not for --help
    from asyncray.cli.benchmark.rows import chosen

    try:
        rows = chosen(only, everything=everything or (show_list and not only))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--only") from error
    talks = file is None or file.name != "<stdout>"
    if show_list:
        entries = [describe(row) for row in rows]
        if talks:
            click.echo(
                "\n".join(f"{row.name}{' (slow: only with --only or --all)' if row.slow else ''}" for row in rows)
            )
    else:
        from asyncray.cli.benchmark.bench import Bench  # start-up cost, as above

        entries = []
        if talks:
            click.echo(f"{LEGEND}\n{HEADING}")
        for entry in run_rows(rows, lambda: Bench(scale)):
            entries.append(entry)
            if talks:
                click.echo(line(entry))
    if file is not None:
        file.write(json.dumps(entries, indent=1) + "\n")
    if any("error" in entry for entry in entries):
        raise click.exceptions.Exit(1)
