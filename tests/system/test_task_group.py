"""``asyncray.TaskGroup``: remote work does not outlive the group's block, whatever ends the block."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest

import asyncray
import asyncray.sync as ray
from asyncray.exceptions import LocalNodeDiedError, TaskCancelledError, TaskError, WorkerCrashedError
from asyncray.runtime.runtime import require
from tests.system.bell import Bell
from tests.system.conftest import Run

pytestmark = pytest.mark.usefixtures("node")


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def fail(text: str) -> None:
    raise ValueError(text)


@ray.remote
def hold(bell: Bell) -> str:
    bell.wait("runs")
    return "held"


@ray.remote
def fail_when_let(bell: Bell) -> None:
    bell.wait("runs")
    raise KeyError("let")


@ray.remote(resources={"nowhere": 1})
def never() -> None: ...


class Plain:
    def hold(self, bell: Bell) -> str:
        bell.wait("runs")
        return "held"


class Errors(list[BaseException]):
    """``with Errors() as errors``: the block must raise an ExceptionGroup, and here are its exceptions."""

    def __enter__(self) -> Errors:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ExceptionGroup):
            assert error is not None, "it raised nothing"
            return False
        assert error.message == "unhandled errors in a TaskGroup"
        self.extend(error.exceptions)
        return True


def causes(errors: Errors) -> list[BaseException]:
    """The errors that tasks raised."""
    return [error.cause for error in errors if isinstance(error, TaskError)]


async def heard(bell: Bell) -> None:
    assert await asyncio.to_thread(bell.heard) == "runs"


def assert_cancelled(*refs: Any) -> None:
    """Fails unless all refs are done and cancelled."""
    for ref in refs:
        assert ref.done()
        assert ref.cancelled(), ref.exception()


def assert_nothing_is_left() -> None:
    assert not require().request("status")["tasks"]["unfinished"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def settled() -> None:
    """Waits until no task is left. The group does not wait for children of tasks that it has cancelled."""
    while (await require().request_async("status"))["tasks"]["unfinished"]:
        pass


# Leaving in peace -----------------------------------------------------------------------------------------------------


def test_it_waits_for_all(run: Run, bell: Bell) -> None:
    async def main() -> None:
        async with asyncray.TaskGroup() as group:
            refs = [group.add(double.remote(i)) for i in range(20)]
            assert group.add(refs[0]) is refs[0]
            group.add(asyncray.put(1))
            last = group.add(hold.remote(bell))
            await heard(bell)
            asyncio.get_running_loop().call_soon(bell.let_go)
        assert all(ref.done() for ref in (*refs, last))
        assert [ref.result() for ref in refs] == list(range(0, 40, 2))
        assert await last == "held"
        async with asyncray.TaskGroup():
            pass
        assert_nothing_is_left()

    run(main())


def test_a_ref_may_be_added_while_others_are_waited_for(run: Run, bell: Bell) -> None:
    async def main() -> None:
        async def add_later() -> Any:
            await heard(bell)
            ref = group.add(double.remote(4))
            bell.let_go()
            return ref

        async with asyncray.TaskGroup() as group:
            group.add(hold.remote(bell))
            adding = asyncio.create_task(add_later())
        assert (await adding).done()

    run(main())


def test_it_holds_nothing_that_is_ready(run: Run) -> None:
    async def main() -> None:
        async with asyncray.TaskGroup() as group:
            ref = group.add(double.remote(1))
            await ref
            gone = weakref.ref(ref)
            del ref
            # The group learns of it in a later turn of the loop than an await that found the value there.
            while gone() is not None:
                await asyncio.sleep(0)
                gc.collect()

    run(main())


def test_another_may_cancel_one(run: Run) -> None:
    async def main() -> None:
        async with asyncray.TaskGroup() as group:
            first, second = group.add(never.remote()), group.add(double.remote(1))
            asyncray.cancel(first)
        assert_cancelled(first)
        assert await second == 2

    run(main())


# A ref fails ----------------------------------------------------------------------------------------------------------


def test_a_failure_cancels_the_others_and_the_block(run: Run, bell: Bell) -> None:
    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                running, waiting = group.add(hold.remote(bell)), group.add(never.remote())
                await heard(bell)
                depends: Any = group.add(ray.remote(lambda _: None).remote(waiting))
                group.add(fail.remote("first"))
                await asyncio.get_running_loop().create_future()
        (error,) = errors
        assert isinstance(error, ValueError)
        assert isinstance(error, TaskError)
        assert_cancelled(running, waiting, depends)
        assert_nothing_is_left()

    run(main())


def test_a_failure_while_it_waits(run: Run, bell: Bell) -> None:
    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                waiting = group.add(never.remote())
                group.add(fail_when_let.remote(bell))
                await heard(bell)
                asyncio.get_running_loop().call_soon(bell.let_go)
        assert [type(cause) for cause in causes(errors)] == [KeyError]
        assert_cancelled(waiting)
        assert_nothing_is_left()

    run(main())


def test_what_fails_while_it_is_cancelled_is_told_too(run: Run, bell: Bell) -> None:
    @ray.remote
    def clean_up_badly(bell: Bell) -> None:
        try:
            bell.wait("runs")
        except KeyboardInterrupt:
            raise OSError("cleaning up") from None

    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                group.add(clean_up_badly.remote(bell))
                await heard(bell)
                group.add(fail.remote("first"))
        assert [str(cause) for cause in causes(errors)] == [
            "first",
            "cleaning up",
        ]

    run(main())


def test_an_error_that_the_block_awaits_is_told_once(run: Run) -> None:
    async def main() -> None:
        for early in (True, False):
            with Errors() as errors:
                async with asyncray.TaskGroup() as group:
                    ref = fail.remote("once")
                    if early:
                        await asyncio.wait([ref.as_future()])
                    group.add(ref)
                    await ref
            (error,) = errors
            assert isinstance(error, ValueError)

    run(main())


def test_a_child_takes_its_own_children_along(run: Run, bell: Bell) -> None:
    @ray.remote
    def parent(bell: Bell) -> None:
        child = hold.remote(bell)
        bell.ring("parent")
        ray.get(child)

    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                ref = group.add(parent.remote(bell))
                assert {await asyncio.to_thread(bell.heard) for _ in range(2)} == {"parent", "runs"}
                raise OSError
        assert [type(error) for error in errors] == [OSError]
        assert isinstance(ref.exception(), TaskCancelledError)
        await settled()

    run(main())


def test_a_task_whose_child_was_cancelled_has_failed(run: Run) -> None:
    @ray.remote
    def parent() -> None:
        child = never.remote()
        ray.cancel(child)
        ray.get(child)

    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                group.add(parent.remote())
        (error,) = errors
        assert isinstance(error, TaskCancelledError)

    run(main())


def test_a_system_error(run: Run) -> None:
    @ray.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                group.add(leave.remote())
        assert [type(error) for error in errors] == [WorkerCrashedError]

    run(main())


# The block ends otherwise ---------------------------------------------------------------------------------------------


def test_the_block_raises(run: Run, bell: Bell) -> None:
    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                running = group.add(hold.remote(bell))
                await heard(bell)
                refs = [group.add(never.remote()) for _ in range(10)]
                raise OSError("block")
        assert [str(error) for error in errors] == ["block"]
        assert_cancelled(running, *refs)
        assert_nothing_is_left()

    run(main())


def test_who_runs_the_block_is_cancelled(run: Run, bell: Bell) -> None:
    refs: list[Any] = []

    async def scope(in_the_block: bool) -> None:
        async with asyncray.TaskGroup() as group:
            refs[:] = [group.add(hold.remote(bell)), group.add(never.remote())]
            if in_the_block:
                await asyncio.get_running_loop().create_future()

    async def main() -> None:
        for in_the_block in (True, False):
            task = asyncio.create_task(scope(in_the_block))
            await heard(bell)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert_cancelled(*refs)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await scope(False)
        assert_cancelled(*refs)
        assert_nothing_is_left()

    run(main())


def test_cancelled_at_once(run: Run) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            async with asyncray.TaskGroup() as group:
                ref = group.add(never.remote())
                task.cancel()
        except asyncio.CancelledError:
            pass
        task.uncancel()
        assert_cancelled(ref)

    run(main())


def test_both_at_once_end_as_an_error_and_stay_cancelled(run: Run) -> None:
    async def scope() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Errors():
            async with asyncray.TaskGroup() as group:
                ref = fail.remote("one")
                await asyncio.wait([ref.as_future()])
                group.add(ref)
                task.cancel()
                await asyncio.sleep(0)
        assert task.cancelling() == 1
        await asyncio.sleep(0)
        raise AssertionError("it goes on")

    async def main() -> None:
        task = asyncio.create_task(scope())
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())


def test_a_keyboard_interrupt_goes_through(run: Run, bell: Bell) -> None:
    refs: list[Any] = []

    async def main() -> None:
        async with asyncray.TaskGroup() as group:
            refs.append(group.add(hold.remote(bell)))
            await heard(bell)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(main())
    assert_cancelled(*refs)


def test_scopes_in_scopes(run: Run, bell: Bell) -> None:
    async def main() -> None:
        with Errors() as errors:
            async with asyncray.TaskGroup() as outer:
                first = outer.add(never.remote())
                async with asyncio.TaskGroup() as local, asyncray.TaskGroup() as inner:
                    second = inner.add(hold.remote(bell))
                    await heard(bell)
                    waiting = local.create_task(asyncray.get(never.remote()))
                    outer.add(fail.remote("outer"))
                    await asyncio.get_running_loop().create_future()
        assert [str(cause) for cause in causes(errors)] == ["outer"]
        assert_cancelled(first, second)
        assert waiting.cancelled()

    run(main())


def test_the_end_of_the_session_ends_it(run: Run) -> None:
    async def main() -> None:
        for end in (asyncray.shutdown, die):
            await asyncray.init(num_cpus=1, ignore_reinit_error=True)
            with Errors() as errors:
                async with asyncray.TaskGroup() as group:
                    group.add(never.remote())
                    await end()
            assert [type(error) for error in errors] == [LocalNodeDiedError]

    async def die() -> None:
        require().channel._sender.shut_down()

    run(main())


# Work that cannot be interrupted --------------------------------------------------------------------------------------


def test_a_running_call_of_a_plain_actor_is_waited_for(run: Run, bell: Bell) -> None:
    actor: Any = ray.remote(Plain).remote()

    async def main() -> None:
        async def let_go_when_cancelled(queued: Any) -> None:
            await asyncio.wait([queued])  # so that the call cannot begin after the cancellation
            bell.let_go()

        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                running, queued = group.add(actor.hold.remote(bell)), group.add(actor.hold.remote(bell))
                await heard(bell)
                letting = asyncio.create_task(let_go_when_cancelled(queued))
                raise OSError
        await letting
        assert [type(error) for error in errors] == [OSError]
        assert_cancelled(running, queued)

    run(main())


def test_an_async_method_is_cancelled(run: Run, bell: Bell) -> None:
    class Async:
        async def hold(self, bell: Bell) -> None:
            try:
                bell.ring("runs")
                await asyncio.get_running_loop().create_future()
            finally:
                bell.ring("cleaned up")

    async def main() -> None:
        with Errors():
            async with asyncray.TaskGroup() as group:
                ref = group.add(ray.remote(Async).remote().hold.remote(bell))
                await heard(bell)
                raise OSError
        assert await asyncio.to_thread(bell.heard) == "cleaned up"
        assert_cancelled(ref)

    run(main())


# Misuse ---------------------------------------------------------------------------------------------------------------


def test_what_is_refused_is_cancelled(run: Run, bell: Bell) -> None:
    async def main() -> None:
        group = asyncray.TaskGroup()
        refs = [never.remote()]
        with pytest.raises(RuntimeError, match="has not been entered"):
            group.add(refs[0])
        async with group:
            pass
        refs.append(never.remote())
        with pytest.raises(RuntimeError, match="is finished"):
            group.add(refs[-1])
        with pytest.raises(RuntimeError, match="has already been entered"):
            async with group:
                pass
        with Errors() as errors:
            async with asyncray.TaskGroup() as group:
                group.add(fail.remote("one"))
                try:
                    await asyncio.get_running_loop().create_future()
                finally:
                    refs.append(never.remote())
                    with pytest.raises(RuntimeError, match="is shutting down"):
                        group.add(refs[-1])
        assert len(errors) == 1
        await asyncio.wait([ref.as_future() for ref in refs])
        assert_cancelled(*refs)

    run(main())


def test_only_refs(run: Run) -> None:
    async def main() -> None:
        async with asyncray.TaskGroup() as group:
            for wrong in (double, [double.remote(1)], None, asyncio.sleep):
                with pytest.raises(TypeError, match="takes an ObjectRef"):
                    group.add(wrong)  # type: ignore[arg-type]  # that is the test
            assert repr(group) == "<TaskGroup entered, 0 pending, 0 failed>"

    run(main())


def test_in_an_actor(run: Run) -> None:
    class Boss:
        async def work(self) -> Any:
            async with asyncray.TaskGroup() as group:
                refs = [group.add(double.remote(i)) for i in range(3)]
            return await asyncray.get(refs)

        async def fail(self) -> None:
            async with asyncray.TaskGroup() as group:
                group.add(never.remote())
                group.add(fail.remote("deep"))

    async def main() -> None:
        boss: Any = ray.remote(Boss).remote()
        assert await boss.work.remote() == [0, 2, 4]
        with Errors() as errors:
            await boss.fail.remote()
        assert isinstance(errors[0], ValueError)
        await settled()

    run(main())
