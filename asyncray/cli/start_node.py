"""``asyncray node``: a node's daemon in the foreground."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from asyncray.words import NodeAmounts, NodeFacts


# KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
_UNITS = {"": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}


def _read_size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    units = {name.lower(): factor for name, factor in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        units_shown = ", ".join(filter(None, _UNITS))
        raise click.BadParameter(f"{text!r} is no size; write bytes, or a number with one of {units_shown}")
    from asyncray.api.init_arguments import check_store  # start-up cost: only where a size is given

    size = int(float(found[1]) * units[found[2].lower()])
    try:
        check_store(size)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return size


def _read_resources(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    from asyncray.api.init_arguments import check_resources  # start-up cost, as above

    try:
        amounts: dict[str, float] = json.loads(text)
        check_resources(amounts)
    except (ValueError, TypeError) as error:
        raise click.BadParameter(f"""{error} (write it like '{{"disk": 2}}')""") from error
    return amounts


@click.command("node")
@click.option(
    "--head", is_flag=True, help="This node is the head. On one machine every node is, so it changes nothing."
)
@click.option("--num-cpus", type=click.FloatRange(min=0), help="CPUs that tasks may use.  [default: all that exist]")
@click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs that tasks may use.  [default: all that exist]")
@click.option("--resources", metavar="JSON", callback=_read_resources, help="""Custom resources, e.g. '{"disk": 2}'.""")
@click.option(
    "--object-store-memory",
    metavar="SIZE",
    callback=_read_size,
    help="Bytes, or e.g. 2GB or 512MiB.  [default: 30 % of memory]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when the node is ready.")
def node_command(
    *,
    head: bool,
    num_cpus: float | None,
    num_gpus: int | None,
    resources: dict[str, float] | None,
    object_store_memory: int | None,
    as_json: bool,
) -> None:
    """Runs a node here, until Ctrl-C, SIGTERM or `asyncray stop`.

    Programs of the same user on this machine connect to it with init("auto"), or with the address that is printed.
    --json prints {"address", "pid", "session_dir"} once programs can connect.

    \b
    Example:
        asyncray node --num-cpus 4 --object-store-memory 2GB --resources '{"disk": 2}'

    Exit codes: 0 stopped in order, 1 did not start, 2 wrong usage.
    """
    from asyncray.node.start import define_state, start_zygote_early  # start-up cost: for this command only
    from asyncray.runtime.launch import configuration

    amounts: NodeAmounts = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "object_store_memory": object_store_memory,
    }
    try:
        config = configuration(amounts)
        define_state()
        zygote = start_zygote_early(config)

        from asyncray.node.main import serve  # start-up cost: the zygote gets ready meanwhile

        serve(config, zygote, lambda facts: _announce(facts, as_json=as_json), _run_registry)
    except OSError as error:  # the message names the missing resource
        raise click.ClickException(f"The node did not start: {error}") from error
    if not as_json:
        click.echo("The node has stopped.")


async def _run_registry(ask: Callable[[str, list[Any]], Awaitable[tuple[Any, ...]]], facts: NodeFacts) -> None:
    """Runs the registry beside the node until it is cancelled."""
    import asyncio  # start-up cost: only a daemon needs it

    # In a thread: the import takes 280 ms, and the daemon serves drivers meanwhile.
    registry = await asyncio.to_thread(importlib.import_module, "asyncray.head.registry")
    await registry.run_registry(ask, facts)


def _announce(facts: NodeFacts, *, as_json: bool) -> None:
    from asyncray.runtime.launch import point_latest  # start-up cost, as above

    point_latest(facts["session_dir"])
    if as_json:
        click.echo(json.dumps({name: facts[name] for name in ("address", "pid", "session_dir")}))
        return
    if facts["store_warning"]:
        click.echo(f"Warning: {facts['store_warning']}", err=True)
    click.echo(
        f"The node is ready: pid {facts['pid']}, files in {facts['session_dir']}\n\n"
        "Programs on this machine connect to it with\n\n"
        '    asyncray.sync.init("auto")\n'
        f'    asyncray.sync.init("{facts["address"]}")\n\n'
        "Ctrl-C or `asyncray stop` ends it."
    )
