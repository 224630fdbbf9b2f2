"""Making a node from its configuration, and running it."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import uvloop

from asyncray.core.node import NodeMachine
from asyncray.io.segments import pick_backend
from asyncray.node.daemon import Daemon
from asyncray.node.resources import detect
from asyncray.node.start import garbage_of

log = logging.getLogger("asyncray.node")


def serve(config: dict[str, Any], zygote: tuple[socket.socket, int]) -> None:
    """Runs the daemon until it is told to stop.

    Args:
        config: "session" (its name), "directory" (its files), "address" (path of its socket), "driver" (an inherited
            descriptor, or None), and the amounts of ``asyncray.node.resources.detect``.
        zygote: the stream to the zygote and its pid.
    """
    directory = config["directory"]
    logging.basicConfig(
        filename=os.path.join(directory, "logs", "node.log"),
        format="%(asctime)s %(levelname)s %(message)s",
        level=logging.INFO,
    )
    resources, wanted = detect(config)
    backend = pick_backend(wanted, os.path.join(directory, "store"))
    if backend.warning:
        log.warning(backend.warning)
    resources["object_store_memory"] = backend.capacity
    ip = config.get("ip", "127.0.0.1")
    resources[f"node:{ip}"] = 1.0
    resources["node:__internal_head__"] = 1.0
    facts = {
        "session": config["session"],
        "session_dir": directory,
        "address": f"unix:{config['address']}",
        "ip": ip,
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "store_warning": backend.warning or "",
    }
    machine = NodeMachine(os.urandom(8), resources, backend.prefix(config["session"]), backend.capacity, facts)
    driver = None if config.get("driver") is None else socket.socket(fileno=config["driver"])

    async def run() -> None:
        logs = os.path.join(directory, "logs")
        daemon = Daemon(machine, config["address"], logs, garbage_of(config))
        await daemon.run(zygote, driver)

    uvloop.run(run())
