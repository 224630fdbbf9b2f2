"""Makes a node from its configuration, and runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from asyncray.core.machine import NodeMachine
from asyncray.core.questions import Answer, Question
from asyncray.io import sessions
from asyncray.io.descriptors import raise_limit
from asyncray.io.processes import become_subreaper
from asyncray.io.segments import pick_backend
from asyncray.io.session_names import name_of
from asyncray.node.capacity import detect
from asyncray.node.daemon import Daemon
from asyncray.runtime.interpreters import this_interpreter

if TYPE_CHECKING:
    from asyncray.node.cluster_shell import ClusterPlan
    from asyncray.words import NodeConfig, NodeFacts

_QUERIES = {
    "all_actors",
    "available_resources",
    "cluster_resources",
    "jobs",
    "key_value",
    "list_named_actors",
    "nodes",
    "object",
    "status",
}
"""Requests of the registry: they change nothing but key-value pairs."""

_IP = "127.0.0.1"

Query = Callable[[str, list[Any]], Awaitable[Answer]]
"""Asks the node: method and arguments in, (True, the answer) or (False, name and fields of an error) out."""

Companion = Callable[[Query, "NodeFacts"], Coroutine[Any, Any, None]]
"""Runs in the daemon's loop. Takes a way to ask the node, and the facts that clients get."""

log = logging.getLogger("asyncray.node")


def serve(
    config: NodeConfig,
    zygote: tuple[int, int],
    ready: Callable[[NodeFacts], None] = lambda facts: None,
    companion: Companion | None = None,
    plan: ClusterPlan | None = None,
    lifeline: int | None = None,
) -> tuple[int, str] | None:
    """Runs the daemon until something stops it.

    Args:
        zygote: the descriptor of the stream to the zygote, and its pid.
        ready: called with the facts that clients get ("address", "pid", ...) as soon as clients may connect.
        companion: runs from then on until it is cancelled: the head registry.
        plan: how the node takes part in a cluster; None: it is alone.
        lifeline: a descriptor; the node stops when its stream ends.

    Returns:
        Exit code and reason, if the node was turned away by its cluster; None if it was stopped.
    """
    directory = config["directory"]
    logging.basicConfig(
        filename=os.path.join(directory, "logs", "node.log"),
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    for stale in sessions.sweep_stale(directory):
        log.info("removed what was left of %s, whose processes were killed", stale)
    machine = _make_machine(config, plan)
    facts = machine.facts
    driver = None if config["driver"] is None else socket.socket(fileno=config["driver"])

    become_subreaper()
    raise_limit()

    async def run() -> tuple[int, str] | None:
        daemon = Daemon(machine, directory, config["lock"], plan)
        if lifeline is not None:
            daemon.end_with(lifeline)
        tasks: list[asyncio.Task[None]] = []

        def started() -> None:
            ready(facts)
            if companion is not None:
                tasks.append(asyncio.get_running_loop().create_task(companion(_querier(machine), facts)))
                tasks[0].add_done_callback(partial(_report, machine, is_head=plan is not None and plan.head is None))

        await daemon.run((socket.socket(fileno=zygote[0]), zygote[1]), driver, started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return None if daemon.cluster is None else daemon.cluster.failure

    return uvloop.run(run())


def _report(machine: NodeMachine, task: asyncio.Task[None], *, is_head: bool) -> None:
    """The registry has ended. If it failed, tools miss it, and programs do not; but no node could reach a head."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("the registry could not be served", exc_info=error)
        if is_head:
            machine.stop("no node can reach it: its registry could not be served")


def _make_machine(config: NodeConfig, plan: ClusterPlan | None) -> NodeMachine:
    directory = config["directory"]
    session = name_of(directory)
    resources, wanted = detect(config["amounts"])
    backend = pick_backend(wanted, os.path.join(directory, "store"))
    if backend.warning:
        log.warning(backend.warning)
    resources["object_store_memory"] = backend.capacity
    if "head" in config:
        # The node ends with its driver: it is no place for work of others that asks for memory alone.
        resources.pop("memory", None)
    ip = _IP if plan is None else plan.host
    resources[f"node:{ip}"] = 1.0
    if plan is None or plan.head is None:
        resources["node:__internal_head__"] = 1.0
    facts: NodeFacts = {
        "session": session,
        "session_dir": directory,
        "address": f"unix:{sessions.socket_of(directory)}",
        "ip": ip,
        "hostname": socket.gethostname(),
        "interpreter": this_interpreter(),
        "pid": os.getpid(),
        "store_warning": backend.warning or "",
    }
    if plan is not None:
        facts["cluster_address"] = plan.address
    return NodeMachine(os.urandom(8), resources, backend.prefix(session), backend.capacity, facts)


def _querier(machine: NodeMachine) -> Query:
    """A function that asks the machine, for requests that change nothing."""
    tool = machine.observer_connected(os.getpid())

    def query(method: str, arguments: list[Any]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(answer: Answer) -> None:
            if not future.done():  # the HTTP request may have been cancelled
                future.set_result(answer)

        question = Question(tool, reply)
        if method in _QUERIES:
            machine.requests.ask(question, method, arguments)
        else:
            question.refuse("InternalError", {"message": f"{method!r} is no request of the registry."})
        return future

    return query
