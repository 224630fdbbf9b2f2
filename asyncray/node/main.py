"""Making a node from its configuration, and running it."""

from __future__ import annotations

import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from asyncray.core.node import NodeMachine
from asyncray.io import sessions
from asyncray.io.processes import become_subreaper
from asyncray.io.segments import pick_backend
from asyncray.node.daemon import Daemon
from asyncray.node.resources import detect

_MOST_FILES = 65536

log = logging.getLogger("asyncray.node")


def serve(
    config: dict[str, Any],
    zygote: tuple[socket.socket, int],
    ready: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> None:
    """Runs the daemon until it is told to stop.

    Args:
        config: "directory" (the session's), "lock" and "driver" (inherited descriptors: of the session's lock, and of
            the connection of the driver that starts this node for itself, or None), and the amounts of
            ``asyncray.node.resources.detect``.
        zygote: the stream to the zygote and its pid.
        ready: told the facts that clients are told ("address", "pid", ...) as soon as clients may connect.
    """
    directory = config["directory"]
    session = sessions.name_of(directory)
    logging.basicConfig(
        filename=os.path.join(directory, "logs", "node.log"),
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    for stale in sessions.sweep_stale(os.path.dirname(directory)):
        log.info("removed what was left of %s, whose processes were killed", stale)
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
    machine = NodeMachine(os.urandom(8), resources, backend.prefix(session), backend.capacity, facts)
    driver = None if config.get("driver") is None else socket.socket(fileno=config["driver"])

    become_subreaper()
    _raise_file_limit()

    async def run() -> None:
        daemon = Daemon(machine, directory, config["lock"])
        await daemon.run(zygote, driver, lambda: ready(facts))

    uvloop.run(run())


def _raise_file_limit() -> None:
    """Each worker and driver is a connection; the usual soft limit of 1024 is meant for programs that use select."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
