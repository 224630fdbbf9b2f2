"""The head registry beside a node's daemon: started when the daemon answers, stopped with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
from collections.abc import Callable
from typing import Any

REGISTRY_FILE = "registry.json"
"""In the session directory: {"url", "token"}, readable by its owner only."""

log = logging.getLogger("asyncray.node")


async def run_registry(ask: Callable[[str, list[Any]], tuple[Any, ...]], facts: dict[str, Any]) -> None:
    """Serves the registry until it is cancelled.

    Args:
        ask: puts a question to the node.
        facts: of the node: "session_dir".
    """
    registry_class = await asyncio.to_thread(_load)
    token = secrets.token_urlsafe(32)
    registry = registry_class(ask, token)
    path = os.path.join(facts["session_dir"], REGISTRY_FILE)
    try:
        port = await registry.start()
        await asyncio.to_thread(_write, path, {"url": f"http://127.0.0.1:{port}", "token": token})
        log.info("the registry answers at port %d", port)
        await asyncio.Event().wait()
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)  # it would name a port that is anybody's soon
        await registry.stop()


def _load() -> Any:
    """In a thread, for it takes 280 ms and drivers are served meanwhile."""
    from asyncray.head.registry import Registry  # start-up cost, as said

    return Registry


def _write(path: str, content: dict[str, str]) -> None:
    """Under another name first: who finds the file finds all of it."""
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w") as file:
        json.dump(content, file)
    os.rename(f"{path}.new", path)
