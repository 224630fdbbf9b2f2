"""Event loops go on while the object store is full: those of drivers, and those of async actors.

They also go on while a thread copies a large value.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

import asyncray
from asyncray.exceptions import ObjectStoreFullError
from asyncray.io import segments
from tests.system.conftest import LOOP_DEADLINE, Run

pytestmark = pytest.mark.usefixtures("nothing_left")
MEBIBYTE = 2**20


@asyncray.remote
def total(array: Any) -> float:
    return float(array.sum())


class Maker:
    async def make(self, size: int) -> Any:
        return np.ones(size, dtype=np.uint8)

    async def answer(self) -> str:
        return "answer"


def ones(mebibytes: int) -> Any:
    return np.ones(mebibytes * MEBIBYTE, dtype=np.uint8)


def test_what_frees_room_runs_in_the_same_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_STORE_FULL_DEADLINE", str(LOOP_DEADLINE))  # the actor may take its time to answer

    async def main() -> None:
        async with asyncray.init(num_cpus=1, object_store_memory=100 * MEBIBYTE):
            maker: Any = asyncray.remote(Maker).remote()
            assert await maker.answer.remote() == "answer"
            kept = [asyncray.put(ones(70))]
            value = ones(60)
            late = asyncray.put(value)
            value[:] = 0  # the caller may do so
            result = total.remote(late)
            of_actor = maker.make.remote(60 * MEBIBYTE)
            of_argument = total.remote(ones(60))
            assert await maker.answer.remote() == "answer"  # its loop goes on, and so does this one
            assert not late.done()
            kept.clear()
            assert await result == 60 * MEBIBYTE
            del late, result
            assert (await of_actor).nbytes == 60 * MEBIBYTE
            del of_actor
            assert await of_argument == 60 * MEBIBYTE

    run(main())


def test_no_room_in_time_is_the_error_of_the_ref(run: Run) -> None:
    async def main() -> None:
        async with asyncray.init(num_cpus=1, object_store_memory=100 * MEBIBYTE):
            kept = asyncray.put(ones(70))
            late = asyncray.put(ones(60))
            dependent = total.remote(late)
            for ref in (late, dependent):
                with pytest.raises(ObjectStoreFullError):
                    await ref
            assert await total.remote(kept) == 70 * MEBIBYTE
            with pytest.raises(ObjectStoreFullError, match="larger than the object store"):
                asyncray.put(ones(200))  # known at once

    run(main())


def test_a_thread_copies_a_value_while_the_loop_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    copying, goes_on = threading.Event(), threading.Event()
    copy_parts = segments.copy_parts

    def copy_later(*args: Any, **kwargs: Any) -> None:
        copying.set()
        assert goes_on.wait(LOOP_DEADLINE)
        copy_parts(*args, **kwargs)

    async def begin_put(value: Any) -> asyncio.Task[Any]:
        goes_on.clear()
        copying.clear()
        putting = asyncio.create_task(asyncio.to_thread(asyncray.put, value))
        await asyncio.to_thread(copying.wait)
        return putting

    async def main() -> None:
        async with asyncray.init(num_cpus=1, object_store_memory=100 * MEBIBYTE):
            monkeypatch.setattr(segments, "copy_parts", copy_later)
            putting = await begin_put(ones(1))
            assert await total.remote(np.ones(3)) == 3
            assert not putting.done()
            goes_on.set()
            assert await total.remote(await putting) == MEBIBYTE
            cancelled = await begin_put(ones(60))
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            goes_on.set()
            assert await total.remote(asyncray.put(ones(60))) == 60 * MEBIBYTE  # the store has freed the earlier room

    run(main())
