"""Making a node from its configuration, and running it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from asyncray.core.machine import NodeMachine
from asyncray.io import sessions
from asyncray.io.descriptors import raise_limit
from asyncray.io.processes import become_subreaper
from asyncray.io.segments import pick_backend
from asyncray.node.daemon import Daemon
from asyncray.node.resources import detect

_HARMLESS = {"status", "nodes", "actors", "object"}

Ask = Callable[[str, list[Any]], tuple[Any, ...]]
Beside = Callable[[Ask, dict[str, Any]], Coroutine[Any, Any, None]]

log = logging.getLogger("asyncray.node")


def serve(
    config: dict[str, Any],
    zygote: tuple[socket.socket, int],
    ready: Callable[[dict[str, Any]], None] = lambda facts: None,
    beside: Beside | None = None,
) -> None:
    """Runs the daemon until it is told to stop.

    Args:
        config: "directory" (the session's), "lock" and "driver" (inherited descriptors: of the session's lock, and of
            the connection of the driver that starts this node for itself, or None), and the amounts of
            ``asyncray.node.resources.detect``.
        zygote: the stream to the zygote and its pid.
        ready: told the facts that clients are told ("address", "pid", ...) as soon as clients may connect.
        beside: runs in the daemon's loop from then on until it is cancelled: the head registry.
    """
    directory = config["directory"]
    logging.basicConfig(
        filename=os.path.join(directory, "logs", "node.log"),
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    for stale in sessions.sweep_stale(directory):
        log.info("removed what was left of %s, whose processes were killed", stale)
    machine = _make_machine(config)
    facts = machine.facts
    driver = None if config.get("driver") is None else socket.socket(fileno=config["driver"])

    become_subreaper()
    raise_limit()

    async def run() -> None:
        daemon = Daemon(machine, directory, config["lock"])
        tasks: list[asyncio.Task[None]] = []

        def started() -> None:
            ready(facts)
            if beside is not None:
                tasks.append(asyncio.get_running_loop().create_task(beside(_asker(machine), facts)))
                tasks[0].add_done_callback(_report)

        await daemon.run(zygote, driver, started)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    uvloop.run(run())


def _report(task: asyncio.Task[None]) -> None:
    """The registry has ended: tools miss it, programs do not."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        log.error("the registry could not be served", exc_info=error)


def _make_machine(config: dict[str, Any]) -> NodeMachine:
    directory = config["directory"]
    session = sessions.name_of(directory)
    resources, wanted = detect(config)
    backend = pick_backend(wanted, os.path.join(directory, "store"))
    if backend.warning:
        log.warning(backend.warning)
    resources["object_store_memory"] = backend.capacity
    ip = config.get("ip", "127.0.0.1")
    resources[f"node:{ip}"] = 1.0
    resources["node:__internal_head__"] = 1.0
    facts = {
        "session": session,
        "session_dir": directory,
        "address": f"unix:{sessions.socket_of(directory)}",
        "ip": ip,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "store_warning": backend.warning or "",
    }
    return NodeMachine(os.urandom(8), resources, backend.prefix(session), backend.capacity, facts)


def _asker(machine: NodeMachine) -> Ask:
    """Puts questions that change nothing to the machine."""
    tool = machine.observer_connected(os.getpid())

    def ask(method: str, arguments: list[Any]) -> tuple[Any, ...]:
        if method not in _HARMLESS:
            return False, "AsyncraySystemError", {"message": f"{method!r} is no question."}
        return machine.requests.answer(tool, method, arguments)

    return ask
