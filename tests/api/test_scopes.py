"""The messages of ``TaskGroup``. Its behaviour is in ``tests/system/test_task_group.py``."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from asyncray.api.decorator import remote
from asyncray.api.scopes import TaskGroup
from asyncray.messages import CANCEL, FAULT, VALUE
from tests.runtime.daemon_side import DaemonSide


def test_it_cancels_in_the_order_in_which_refs_were_added(daemon: DaemonSide) -> None:
    """The order is the same in every run of a program; the order of a set of refs would depend on the hash seed."""
    submit: Any = remote(len).remote
    refs = [submit("") for _ in range(20)]
    cancelled: list[bytes] = []

    def cancel_all() -> None:
        cancelled.extend(daemon.next(CANCEL)[1] for _ in refs)
        daemon.send(*((VALUE, ref.binary(), FAULT, ["TaskCancelledError", {"task_id": ""}]) for ref in refs))

    async def run() -> None:
        async with TaskGroup() as group:
            for ref in refs:
                group.add(ref)
            raise KeyError

    other = threading.Thread(target=cancel_all)
    other.start()
    with pytest.raises(ExceptionGroup):
        asyncio.run(run())
    other.join()
    assert cancelled == [ref.task_id() for ref in refs]
