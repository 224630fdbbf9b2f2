"""``asyncray status``: shows the resources, processes and work of a node."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from asyncray.cli.observer import OwnNode
    from asyncray.words import ClusterStatus, NodeRow, NodeStatus

_MOST_ROWS = 40
"""The most rows of a table for people. --json has all of them."""

_GAP = "   "
"""Between two columns."""


@click.command("status")
@click.option(
    "--address",
    envvar="ASYNCRAY_ADDRESS",
    default="auto",
    help="HOST:PORT of a cluster, unix:PATH of a node, or auto for the newest node that runs here.  [default: "
    "$ASYNCRAY_ADDRESS, otherwise auto]",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def status_command(*, address: str, as_json: bool) -> None:
    """Shows a node: resources, object store, workers, actors, drivers, tasks; and the nodes of its cluster.

    With HOST:PORT it shows a node of that cluster on this machine, otherwise the head: that needs the token of the
    cluster, from ASYNCRAY_TOKEN or from the file that ASYNCRAY_TOKEN_FILE names.

    \b
    Example:
        asyncray status
        asyncray status --json | jq .available

    Exit codes: 0 shown, 1 no node runs or it does not answer, 2 wrong usage.
    """
    from asyncray.cli.observer import own_nodes  # start-up cost: not for --help

    here = own_nodes() if address == "auto" else []
    if here and all(node["program"] for node in here):
        click.echo(json.dumps({"own_nodes": here})) if as_json else _show_own_nodes(here)
        return
    try:
        found = _ask(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    except OSError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps({**found, "own_nodes": here} if here else found))
        return
    _show(found)
    if len(here) > 1:
        _show_own_nodes(here)


def _ask(address: str) -> NodeStatus:
    # Start-up cost: not for --help.
    from asyncray.cli.observer import Observer
    from asyncray.runtime.launch import read_cluster_address

    try:
        with Observer(address) as observer:
            found: NodeStatus = observer.request("status")
            return found
    except ConnectionError:
        cluster = read_cluster_address(address)
        if cluster is None:
            raise
        from asyncray.cli.head_status import head_status  # start-up cost: few ask from elsewhere

        return head_status(cluster)


def _show_own_nodes(nodes: list[OwnNode]) -> None:
    rows = [(node["address"], node["pid"], f"private: {node['program']}" if node["program"] else "") for node in nodes]
    _table("Your nodes on this machine", ("address", "pid", "of"), rows)
    click.echo("`asyncray status --address ADDRESS` shows one of them.")


def _show(found: NodeStatus) -> None:
    click.echo(f"Node {found['node_id']} at {found['address']}")
    click.echo(f"pid {found['pid']} on {found['hostname']}, files in {found['session_dir']}\n")
    if "cluster_address" in found:
        click.echo(f"Cluster at {found['cluster_address']}\n")
        _table("Nodes", ("id", "name", "address", "state", "CPU used", "CPU", "why"), _node_rows(found["nodes"]))
    _table("Resources", ("name", "used", "total"), _resource_rows(found["resources"], found["available"]))
    if found["problem"]:
        click.echo(f"Problem: {found['problem']}\n")
    store = found["store"]
    _table(
        "Object store",
        ("objects", "used", "mapped", "capacity"),
        [(found["objects"], *(_size(store[name]) for name in ("used", "reserved", "capacity")))],
    )
    tasks = found["tasks"]
    _table("Tasks", ("unfinished", "waiting for resources"), [(tasks["unfinished"], tasks["queued"])])
    if found["waiting"]:
        waiting = [(row["name"], _needs(row["needs"]), row["tasks"], row["why"]) for row in found["waiting"]]
        _table("Waiting for resources", ("first of them", "needs", "tasks", "why"), waiting)
    if found.get("waiting_elsewhere"):
        rows = cast("ClusterStatus", found)["waiting_elsewhere"]
        elsewhere = [(row["node_id"], row["name"], _needs(row["needs"]), row["tasks"], row["why"]) for row in rows]
        _table("Waiting at other nodes", ("node", "first of them", "needs", "tasks", "why"), elsewhere)
    if found.get("silent_nodes"):
        silent = ", ".join(cast("ClusterStatus", found)["silent_nodes"])
        click.echo(f"These nodes did not list their waiting tasks in time: {silent}\n")
    if found["groups"]:
        groups = [(row["group_id"], row["name"], row["state"], _bundles(row), row["why"]) for row in found["groups"]]
        _table("Placement groups", ("id", "name", "state", "bundles", "why"), groups)
    workers = [(row["number"], row["pid"], row["state"], row["inflight"], row["running"]) for row in found["workers"]]
    _table("Workers", ("number", "pid", "state", "tasks", "runs"), workers)
    actors = [
        (
            row["actor_id"], row["class_name"], row["state"], row["name"], row["pid"],
            "" if row["process_node_id"] == found["node_id"] else row["process_node_id"], row["pending_calls"],
        )
        for row in found["actors"]
    ]  # fmt: skip
    _table("Actors", ("id", "class", "state", "name", "pid", "at node", "pending calls"), actors)
    dead = [(row["actor_id"], row["death_cause"]) for row in found["actors"] if row["death_cause"]]
    if dead:
        _table("Why actors died", ("id", "cause"), dead)
    _table("Drivers", ("client", "pid"), [(row["client"], row["pid"]) for row in found["drivers"]])


def _table(title: str, heads: Sequence[str], rows: Sequence[Iterable[Any]]) -> None:
    """Prints rows below their heads. A value of several lines takes several; the terminal wraps wide lines."""
    heading = click.style(title, bold=True)
    if not rows:
        click.echo(f"{heading}: none\n")
        return
    cells = [[_lines(value) for value in row] for row in rows[:_MOST_ROWS]]
    columns = zip([[head] for head in heads], *cells, strict=True)
    widths = [max(len(line) for cell in column for line in cell) for column in columns]
    lines = [heads, ["-" * width for width in widths]]
    for row in cells:
        lines += zip_longest(*row, fillvalue="")
    click.echo(heading)
    for line in lines:
        padded = (text.ljust(width) for text, width in zip(line, widths, strict=True))
        click.echo(_GAP.join(padded).rstrip())
    if len(rows) > _MOST_ROWS:
        click.echo(f"... and {len(rows) - _MOST_ROWS} more: --json shows all")
    click.echo()


def _lines(value: object) -> list[str]:
    """The lines of a value. Control characters, which names may have, appear as escapes."""
    text = "" if value is None else str(value)
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in text.splitlines()] or [""]


def _node_rows(nodes: Sequence[NodeRow]) -> list[tuple[str, str, str, str, str, str, str]]:
    rows = []
    for node in nodes:
        address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
        total = node["Resources"].get("CPU", 0.0)
        used = total - node["Available"].get("CPU", 0.0)
        row = (node["NodeID"], node["NodeName"], address, node["State"].lower(), f"{used:g}", f"{total:g}")
        rows.append((*row, node["DeathReasonMessage"]))
    return rows


def _resource_rows(resources: dict[str, float], available: dict[str, float]) -> list[tuple[str, str, str]]:
    rows = []
    for name, total in sorted(resources.items()):
        used = total - available.get(name, 0.0)
        show = _size if name in ("memory", "object_store_memory") else "{:g}".format
        rows.append((name, show(used), show(total)))
    return rows


def _bundles(group: dict[str, Any]) -> str:
    """The bundles, each on a line, with the node that has it."""
    places = zip(group["bundles"], group["nodes"], strict=True)
    return "\n".join(f"{_needs(needs)} at {node or 'no node'}" for needs, node in places)


def _needs(needs: dict[str, float]) -> str:
    return ", ".join(f"{_size(n) if 'memory' in name else format(n, 'g')} {name}" for name, n in sorted(needs.items()))


def _size(amount: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.4g} {unit}"
        amount /= 1024
    return f"{amount:.4g} GiB"
