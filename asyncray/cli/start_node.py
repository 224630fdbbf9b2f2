"""``asyncray node``: a node's daemon in the foreground."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from asyncray.cli.cluster_start import ClusterStart
    from asyncray.words import NodeAmounts, NodeFacts


# KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.
_UNITS = {"": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}


_STANDARD_INPUT = 0


_LABEL = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_FORM_OF_LABELS = "it has letters, digits, '-', '_' and '.', at most 63, and begins and ends with a letter or digit"

_OWN_LABELS = "ray.io/"
"""Labels with this prefix come from the node itself, as in Ray."""


def _read_size(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    units = {name.lower(): factor for name, factor in _UNITS.items()}
    if found is None or found[2].lower() not in units:
        units_shown = ", ".join(filter(None, _UNITS))
        raise click.BadParameter(f"{text!r} is no size; write bytes, or a number with one of {units_shown}")
    return int(float(found[1]) * units[found[2].lower()])


def _read_store(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    size = _read_size(context, parameter, text)
    if size is None:
        return None
    from asyncray.api.init_arguments import check_store  # start-up cost: only where a size is given

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


def _read_labels(context: click.Context, parameter: click.Parameter, text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        labels = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"""{error} (write it like '{{"zone": "east"}}')""") from error
    if type(labels) is not dict or not all(type(value) is str for value in labels.values()):
        raise click.BadParameter("""labels are names and texts: write them like '{"zone": "east"}'""")
    for name, value in labels.items():
        if name.startswith(_OWN_LABELS):
            raise click.BadParameter(f"labels that begin with {_OWN_LABELS} are the node's own, as {name!r} is")
        if not re.fullmatch(rf"([a-z0-9.-]+/)?{_LABEL}", name):
            raise click.BadParameter(f"{name!r} is no name of a label: {_FORM_OF_LABELS}")
        if value and not re.fullmatch(_LABEL, value):
            raise click.BadParameter(f"{value!r} is no value of a label: {_FORM_OF_LABELS}")
    return labels


@click.command("node")
@click.option("--head", is_flag=True, help="Make a cluster: other nodes may join this one, which is its head.")
@click.option("--address", metavar="HOST:PORT", help="Join the cluster with the head at this address.")
@click.option("--host", help="The address to listen at for other nodes.  [default: of a head 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="The port of a head.  [default: any free one]")
@click.option("--labels", metavar="JSON", callback=_read_labels, help="""Labels, e.g. '{"zone": "east"}'.""")
@click.option("--name", default="", help="A name for people.")
@click.option("--tls-cert", metavar="PATH", help="TLS with other nodes and tools: this node's certificate.")
@click.option("--tls-key", metavar="PATH", help="Its key.")
@click.option("--tls-ca", metavar="PATH", help="The certificate of the CA that signs for this cluster.")
@click.option("--num-cpus", type=click.FloatRange(min=0), help="CPUs that tasks may use.  [default: all that exist]")
@click.option("--num-gpus", type=click.IntRange(min=0), help="GPUs that tasks may use.  [default: all that exist]")
@click.option("--resources", metavar="JSON", callback=_read_resources, help="""Custom resources, e.g. '{"disk": 2}'.""")
@click.option(
    "--object-store-memory",
    metavar="SIZE",
    callback=_read_store,
    help="Bytes, or e.g. 2GB or 512MiB.  [default: 30 % of memory]",
)
@click.option("--memory", metavar="SIZE", callback=_read_size, help="Memory that tasks may ask for.")
@click.option("--until-eof", is_flag=True, help="End when standard input does: with the program that started the node.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON when the node is ready.")
def node_command(
    *,
    head: bool,
    address: str | None,
    host: str | None,
    port: int | None,
    labels: dict[str, str],
    name: str,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    num_cpus: float | None,
    num_gpus: int | None,
    resources: dict[str, float] | None,
    object_store_memory: int | None,
    memory: int | None,
    until_eof: bool,
    as_json: bool,
) -> None:
    """Runs a node here, until Ctrl-C, SIGTERM or `asyncray stop`.

    Programs of the same user on this machine connect to it with init("auto"), or with the address that is printed.
    --json prints {"address", "pid", "session_dir"} once programs can connect, and {"cluster_address"} of a cluster.

    With --head other nodes can join it, with --address it joins a head. A node needs the token of the cluster: from
    ASYNCRAY_TOKEN, or from the file that ASYNCRAY_TOKEN_FILE names. On the machine of the head it finds the token by
    itself. The options of TLS may also be ASYNCRAY_TLS_CERT, ASYNCRAY_TLS_KEY and ASYNCRAY_TLS_CA. With them both sides
    of each connection show a certificate that the CA has signed.

    \b
    Example:
        asyncray node --num-cpus 4 --object-store-memory 2GB --resources '{"disk": 2}'
        asyncray node --head --host 10.0.0.1 --port 6379
        asyncray node --address 10.0.0.1:6379

    Exit codes: 0 stopped in order, 1 did not start, 2 wrong usage, 3 the cluster has ended or goes on without it.
    """
    amounts: NodeAmounts = {
        "num_cpus": num_cpus,
        "num_gpus": num_gpus,
        "resources": resources,
        "object_store_memory": object_store_memory,
        "memory": memory,
    }
    tls = (tls_cert, tls_key, tls_ca)
    cluster = _cluster_of(head=head, address=address, host=host, port=port, name=name, labels=labels, tls=tls)
    try:
        failure = _run(
            amounts,
            cluster,
            lambda facts: _announce(facts, cluster, as_json=as_json),
            lifeline=_STANDARD_INPUT if until_eof else None,
        )
    except OSError as error:  # the message names the missing resource
        raise click.ClickException(f"The node did not start: {error}") from error
    if failure is not None:
        _exit_with(*failure)
    if not as_json:
        click.echo("The node has stopped.")


def _exit_with(code: int, why: str) -> NoReturn:
    """The node's cluster has turned it away."""
    click.echo(f"Error: The node {'did not start' if code == 1 else 'had to end'}: {why}", err=True)
    raise SystemExit(code)


def _run(
    amounts: NodeAmounts, cluster: ClusterStart | None, ready: Callable[[NodeFacts], None], lifeline: int | None
) -> tuple[int, str] | None:
    """Runs the daemon. Returns exit code and reason if its cluster turned it away."""
    from asyncray.node.start import define_state, start_zygote_early  # start-up cost: for this command only
    from asyncray.runtime.launch import configuration

    config = configuration(amounts)
    try:
        plan = None if cluster is None else cluster.plan(config["directory"])
        define_state()
        zygote = start_zygote_early(config["directory"], config["lock"])

        from asyncray.node.main import serve  # start-up cost: the zygote gets ready meanwhile

        return serve(config, zygote, ready, _run_registry if cluster is None else cluster.run_registry, plan, lifeline)
    finally:
        if cluster is not None:
            cluster.ended(config["directory"])


def _cluster_of(
    *,
    head: bool,
    address: str | None,
    host: str | None,
    port: int | None,
    name: str,
    labels: dict[str, str],
    tls: tuple[str | None, str | None, str | None],
) -> ClusterStart | None:
    """The node's part in a cluster; None if it is alone."""
    if head and address is not None:
        raise click.UsageError("--head makes a cluster and --address joins one: give one of them.")
    if port is not None and not head:
        raise click.UsageError("--port belongs to --head.")
    if not head and address is None:
        if host is not None or name or labels or any(tls):
            raise click.UsageError("--host, --name, --labels and those of TLS belong to --head or --address.")
        return None
    from asyncray.cli.cluster_start import JoinedCluster, NewCluster  # start-up cost: a lone node needs none of it
    from asyncray.io.cluster_tokens import TokenError
    from asyncray.io.tls import TlsError, find_tls

    try:
        if address is None:
            return NewCluster(host or "127.0.0.1", port or 0, name, labels, find_tls(*tls))
        return JoinedCluster(address, host, name, labels, find_tls(*tls))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--address") from error
    except OSError as error:
        raise click.ClickException(f"The node did not start: {error.strerror or error}") from error
    except (TokenError, TlsError) as error:
        raise click.ClickException(f"The node did not start: {error}") from error


async def _run_registry(ask: Callable[[str, list[Any]], Awaitable[tuple[Any, ...]]], facts: NodeFacts) -> None:
    """Runs the registry beside the node until it is cancelled."""
    import asyncio  # start-up cost: only a daemon needs it

    # In a thread: the import takes 280 ms, and the daemon serves drivers meanwhile.
    registry = await asyncio.to_thread(importlib.import_module, "asyncray.head.registry")
    await registry.run_registry(ask, facts)


def _announce(facts: NodeFacts, cluster: ClusterStart | None, *, as_json: bool) -> None:
    from asyncray.runtime.launch import point_latest  # start-up cost, as above

    point_latest(facts["session_dir"])
    warnings = [facts["store_warning"], "" if cluster is None else cluster.warning()]
    if as_json:
        shown = ("address", "pid", "session_dir", "cluster_address")
        click.echo(json.dumps({name: value for name, value in facts.items() if name in shown}))
        return
    for warning in filter(None, warnings):
        click.echo(f"Warning: {warning}", err=True)
    joined = "" if cluster is None else f"{cluster.announcement()}\n"
    click.echo(
        f"The node is ready: pid {facts['pid']}, files in {facts['session_dir']}\n\n"
        f"{joined}"
        "Programs on this machine connect to it with\n\n"
        '    asyncray.sync.init("auto")\n'
        f'    asyncray.sync.init("{facts["address"]}")\n\n'
        "Ctrl-C or `asyncray stop` ends it."
    )
