"""``asyncray stop``: ends nodes, and waits for their end.

The command asks a node to stop, and the node stops itself. With ``--force`` a node that does not stop is killed: first
its daemon, whereupon its zygote kills the workers and removes the session's memory; then all that is left of the
session, memory included.
"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from asyncray.config import STOP_DEADLINE

_GRACE = 1.0
"""Seconds. A daemon kills processes that do not end within STOP_DEADLINE, and then needs a moment to end itself."""


@click.command("stop")
@click.option(
    "--address", help="Stop only this node: unix:PATH or auto.  [default: all that `asyncray node` has started here]"
)
@click.option("--all", "everything", is_flag=True, help="Stop also nodes that programs have started for themselves.")
@click.option("--force", is_flag=True, help="Kill nodes that do not stop by themselves in time.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome for each node as one JSON list.")
def stop_command(*, address: str | None, everything: bool, force: bool, as_json: bool) -> None:
    """Stops this user's nodes on this machine. Nodes that programs have started for themselves only with --all.

    --json prints [{"address", "pid", "result"}]; a result is "stopped", "killed" or "running".

    \b
    Example:
        asyncray stop
        asyncray stop --address unix:/tmp/asyncray-0/latest/node.sock --force

    Exit codes: 0 no such node runs any more, 1 one does, or none runs at --address, 2 wrong usage.
    """
    from asyncray.cli.observer import listener, listeners  # start-up cost: not for --help

    try:
        found = [listener(address)] if address else listeners(private=everything)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    rows = [_stop(pid, directory, force=force) for pid, directory in found]
    click.echo(json.dumps(rows) if as_json else _report(rows))
    if not address and not everything and not as_json:
        _mention_private_nodes(len(listeners(private=True)) - len(listeners(private=False)))
    if any(row["result"] == "running" for row in rows):
        raise click.exceptions.Exit(1)


def _mention_private_nodes(count: int) -> None:
    if count > 0:
        nodes = "node of a program runs" if count == 1 else "nodes of programs run"
        click.echo(f"{count} {nodes} on: `asyncray status` shows which, --all stops them.")


def _report(rows: list[dict[str, Any]]) -> str:
    lines = [f"{row['address']} (pid {row['pid']}): {row['result']}" for row in rows]
    if any(row["result"] == "running" for row in rows):
        lines.append("Nodes that still run did not stop in time: --force kills them.")
    return "\n".join(lines) or "No node runs."


def _stop(pid: int, directory: str, *, force: bool) -> dict[str, Any]:
    from asyncray.cli.observer import Observer  # start-up cost: not for --help
    from asyncray.io.processes import ends_within, kill
    from asyncray.io.sessions import clean_up, socket_of
    from asyncray.runtime.launch import ADDRESS_SCHEME

    address = f"{ADDRESS_SCHEME}{socket_of(directory)}"  # "auto" may mean another one in a moment
    try:
        with Observer(address, STOP_DEADLINE) as observer:
            observer.request("stop", f"`asyncray stop` (pid {os.getpid()})")
    except OSError:
        # It hangs, or is ending already: the wait for its process shows which.
        pass
    result = "stopped" if ends_within(pid, STOP_DEADLINE + _GRACE) else "running"
    if result == "running" and force and pid:
        kill(pid)
        clean_up(directory, STOP_DEADLINE)
        result = "killed"
    return {"address": address, "pid": pid, "result": result}
