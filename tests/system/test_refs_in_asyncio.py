"""Refs in asyncio's own functions, under stock asyncio and uvloop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from typing import Any

import pytest

import asyncray
import asyncray.sync as ray
from asyncray.exceptions import LocalNodeDiedError, OwnerDiedError, TaskCancelledError
from asyncray.runtime.runtime import require
from tests.system.bell import Bell
from tests.system.conftest import Run

pytestmark = pytest.mark.usefixtures("node")
DEADLINE = 20.0


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def fail() -> None:
    raise ValueError("no")


@ray.remote
def hold(bell: Bell) -> str:
    bell.wait()
    return "held"


@ray.remote(resources={"nowhere": 1})
def never() -> None: ...


# asyncio.wait ---------------------------------------------------------------------------------------------------------


def test_wait_for_all(run: Run) -> None:
    async def main() -> None:
        refs: Any = [double.remote(i) for i in range(50)]
        done, pending = await asyncio.wait(refs)
        assert (done, pending) == (set(refs), set())
        assert sorted(ref.result() for ref in done) == list(range(0, 100, 2))
        assert await asyncio.wait(refs) == (set(refs), set())  # all of them are done

    run(main())


def test_wait_for_the_first_beside_tasks_of_the_loop(run: Run, bell: Bell) -> None:
    async def main() -> None:
        late: Any = hold.remote(bell)
        task = asyncio.create_task(asyncio.sleep(0, "slept"))
        done, pending = await asyncio.wait([late, task], return_when=asyncio.FIRST_COMPLETED)
        assert (done, pending) == ({task}, {late})
        assert not late.done()
        assert not late.cancelled()
        with pytest.raises(asyncio.InvalidStateError):
            late.exception()
        with pytest.raises(asyncio.InvalidStateError):
            late.result()
        await asyncio.to_thread(bell.heard)
        bell.let_go()
        done, _ = await asyncio.wait([late, task])
        assert {item.result() for item in done} == {"held", "slept"}

    run(main())


def test_wait_for_the_first_error(run: Run) -> None:
    async def main() -> None:
        late: Any = never.remote()
        good: Any = double.remote(1)
        bad: Any = fail.remote()
        done, pending = await asyncio.wait([late, good, bad], return_when=asyncio.FIRST_EXCEPTION)
        assert bad in done
        assert late in pending
        assert isinstance(bad.exception(), ValueError)
        assert not bad.cancelled()
        assert await good == 2
        assert good.exception() is None
        with pytest.raises(ValueError, match="no"):
            bad.result()

    run(main())


def test_a_cancelled_task_is_cancelled_and_no_error(run: Run) -> None:
    async def main() -> None:
        late, cancelled = never.remote(), never.remote()
        waiting = asyncio.create_task(wait_for_error([late, cancelled]))
        asyncray.cancel(cancelled)
        await asyncio.wait([as_any(cancelled)])
        assert cancelled.cancelled()
        assert isinstance(cancelled.exception(), TaskCancelledError)
        assert not waiting.done()
        asyncray.cancel(late)
        assert await waiting == ({late, cancelled}, set())

    async def wait_for_error(refs: Any) -> Any:
        return await asyncio.wait(refs, return_when=asyncio.FIRST_EXCEPTION)

    run(main())


def test_a_timeout_leaves_nothing(run: Run) -> None:
    async def main() -> None:
        late = never.remote()
        assert await asyncio.wait([as_any(late)], timeout=0.001) == (set(), {late})
        assert late._local.waiters is None
        waiting = asyncio.create_task(asyncio.wait([as_any(late)]))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert late._local.waiters is None

    run(main())


def test_a_borrowed_ref(run: Run) -> None:
    @ray.remote
    def lend() -> list[Any]:
        return [double.remote(4)]

    async def main() -> None:
        (ref,) = await lend.remote()
        assert await asyncio.wait([ref]) == ({ref}, set())
        assert ref.result() == 8

    run(main())


def test_the_end_of_the_session_ends_the_waiting(run: Run) -> None:
    async def main() -> None:
        late = never.remote()
        waiting = asyncio.create_task(asyncio.wait([as_any(late)], return_when=asyncio.FIRST_EXCEPTION))
        await asyncio.sleep(0)
        await asyncray.shutdown()
        assert await waiting == ({late}, set())
        assert isinstance(late.exception(), OwnerDiedError)
        assert late.remove_done_callback(print) == 0
        assert not late.cancelled()
        with pytest.raises(OwnerDiedError, match="another session"):
            late.add_done_callback(print)

    run(main())


def test_the_death_of_the_node_ends_the_waiting(run: Run) -> None:
    async def main() -> None:
        late = never.remote()
        waiting = asyncio.create_task(asyncio.wait([as_any(late)]))
        await asyncio.sleep(0)
        require().channel._sender.shut_down()
        assert await waiting == ({late}, set())
        assert isinstance(late.exception(), LocalNodeDiedError)

    run(main())


def test_in_a_task_it_lends_the_cpu(run: Run) -> None:
    @ray.remote
    def parent(level: int) -> int:
        async def main() -> int:
            done, _ = await asyncio.wait([as_any(parent.remote(level - 1)), as_any(double.remote(level))])
            return sum(ref.result() for ref in done)

        return asyncio.run(main()) if level else 0

    ray.shutdown()
    ray.init(num_cpus=1)
    assert ray.get(parent.remote(4), timeout=DEADLINE) == 20


# The callbacks themselves ---------------------------------------------------------------------------------------------


def test_callbacks(run: Run, bell: Bell) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    called: list[Any] = []

    async def main() -> None:
        over = asyncio.Event()

        def note(ref: Any) -> None:
            called.append((ref, variable.get(), threading.current_thread()))

        ref = hold.remote(bell)
        variable.set("one")
        ref.add_done_callback(note)
        variable.set("two")
        ref.add_done_callback(note, context=contextvars.copy_context())
        ref.add_done_callback(over_with := lambda _: over.set())
        ref.add_done_callback(lambda _: called.append("never"))
        assert ref.remove_done_callback(print) == 0
        assert ref.remove_done_callback(over_with) == 1
        ref.add_done_callback(over_with)
        variable.set("three")
        await asyncio.to_thread(bell.heard)
        assert called == []
        bell.let_go()
        await over.wait()
        assert called[:2] == [(ref, "one", threading.current_thread()), (ref, "two", threading.current_thread())]
        over.clear()
        ref.add_done_callback(over_with)  # the ref is done, but the loop calls it later
        assert not over.is_set()
        await over.wait()

    run(main())


def test_a_callback_that_raises_disturbs_nobody(run: Run) -> None:
    async def main() -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))
        over = asyncio.Event()

        def breaks(ref: Any) -> None:
            raise KeyError(ref)

        ref = double.remote(1)
        ref.add_done_callback(breaks)
        ref.add_done_callback(lambda _: over.set())
        await over.wait()
        assert [type(error) for error in told] == [KeyError]
        assert await ref == 2

    run(main())


def test_callbacks_need_a_loop_and_keep_the_object() -> None:
    ref = double.remote(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        ref.add_done_callback(print)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        double.remote(21).add_done_callback(lambda ref: future.set_result(ref.result()))
        gc.collect()
        assert await future == 42

    asyncio.run(main())


def test_done_asks_for_a_value_that_would_not_come_by_itself() -> None:
    @ray.remote
    def lend() -> list[Any]:
        return [double.remote(4)]

    (ref,) = ray.get(lend.remote())
    while not ref.done():
        ray.get(double.remote(1), timeout=DEADLINE)
    assert ref.result() == 8


# The others -----------------------------------------------------------------------------------------------------------


def test_a_ref_is_no_future_and_no_coroutine(run: Run) -> None:
    async def main() -> None:
        ref: Any = double.remote(1)
        assert not asyncio.isfuture(ref)
        assert not asyncio.iscoroutine(ref)
        with pytest.raises(TypeError, match=r"a coroutine was expected, got ObjectRef"):
            await asyncio.create_task(ref)
        assert await asyncio.create_task(asyncray.get(ref)) == 2
        assert await asyncio.ensure_future(ref) == 2
        async with asyncio.TaskGroup() as group:
            task = group.create_task(asyncray.get(ref))
        assert task.result() == 2

    run(main())


def test_the_other_functions(run: Run) -> None:
    async def main() -> None:
        refs = [double.remote(i) for i in range(4)]
        assert await asyncio.gather(*refs, asyncio.sleep(0, "slept")) == [0, 2, 4, 6, "slept"]
        assert sorted([await done for done in asyncio.as_completed(refs)]) == [0, 2, 4, 6]
        assert await asyncio.wait_for(refs[1], DEADLINE) == 2
        assert await asyncio.shield(refs[2]) == 4
        late = never.remote()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late, 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await late
        assert not late.done()

    run(main())


def as_any(ref: Any) -> Any:
    """For type checkers: asyncio's stubs ask for a Future."""
    return ref
