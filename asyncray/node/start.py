"""What a daemon does before it imports anything heavy: starting its zygote."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any


def spawn(command: list[str], keep: list[int]) -> int:
    """Starts a process in a session of its own that inherits the given descriptors; returns its pid.

    Without ``subprocess``: importing that takes as long as starting the process.
    """
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    try:
        return os.posix_spawn(command[0], command, dict(os.environ), setsid=True)
    finally:
        for descriptor in keep:
            os.set_inheritable(descriptor, False)


def start_zygote(address: str, logs: str, garbage: list[str]) -> tuple[socket.socket, int]:
    """Starts a zygote: (the stream to it, its pid)."""
    ours, its = socket.socketpair()
    command = [sys.executable, "-m", "asyncray.worker.zygote", str(its.fileno()), address, logs, *garbage]
    try:
        return ours, spawn(command, [its.fileno()])
    finally:
        its.close()


def garbage_of(config: dict[str, Any]) -> list[str]:
    """What is to be removed when the node has ended: its socket, and shared memory by prefix."""
    fallback = os.path.join(config["directory"], "store", config["session"])
    return [f"unlink:{config['address']}", f"{config['session']}-", f"{fallback}-"]


def start_zygote_early(config: dict[str, Any]) -> tuple[socket.socket, int]:
    """Starts the zygote of a node."""
    return start_zygote(config["address"], os.path.join(config["directory"], "logs"), garbage_of(config))
