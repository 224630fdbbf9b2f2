"""Cancelling: a task ends, whatever its state is, and no other task does."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.exceptions import TaskCancelledError, WorkerCrashedError
from asyncray.runtime.runtime import require
from tests.system.bell import Bell

pytestmark = pytest.mark.usefixtures("node")
DEADLINE = 20.0


@ray.remote
def one() -> int:
    return 1


@ray.remote(resources={"nowhere": 1})
def never() -> None: ...


@ray.remote
def hold(bell: Bell, text: str = "") -> str:
    bell.wait(text)
    return text


def assert_cancelled(*refs: Any) -> None:
    for ref in refs:
        with pytest.raises(TaskCancelledError, match="was cancelled"):
            ray.get(ref, timeout=DEADLINE)


def assert_works() -> None:
    assert ray.get([one.remote() for _ in range(20)], timeout=DEADLINE) == [1] * 20
    assert_settled()


def assert_settled() -> None:
    """No task is left on the node."""
    deadline = time.monotonic() + DEADLINE
    while (tasks := require().request("status")["tasks"])["unfinished"]:
        assert time.monotonic() < deadline, f"tasks are left: {tasks}"


@pytest.mark.usefixtures("one_cpu")
def test_before_it_runs(bell: Bell) -> None:
    @ray.remote
    def rings(bell: Bell, _: Any = None) -> None:
        bell.ring("never")

    running = hold.remote(bell)
    bell.heard()
    queued = rings.remote(bell)
    waits_for_argument = rings.remote(bell, never.remote())
    dependent = rings.remote(bell, queued)
    infeasible = never.remote()
    for ref in (queued, waits_for_argument, infeasible):
        ray.cancel(ref)
        ray.cancel(ref)
    assert_cancelled(queued, waits_for_argument, infeasible)
    with pytest.raises(TaskCancelledError, match=queued.task_id().hex()):
        ray.get(dependent, timeout=DEADLINE)
    bell.let_go()
    assert ray.get(running, timeout=DEADLINE) == ""
    ray.get(rings.remote(bell))
    assert bell.heard() == "never"
    ray.cancel(running)
    assert ray.get(running) == ""


@pytest.mark.usefixtures("one_cpu")
def test_sent_ahead_behind_another_task(bell: Bell) -> None:
    @ray.remote
    def maybe(bell: Bell | None) -> int:
        if bell is not None:
            bell.wait()
        return 1

    assert ray.get([maybe.remote(None) for _ in range(300)]) == [1] * 300  # known to be short: several are sent ahead
    refs = [maybe.remote(bell), *(maybe.remote(None) for _ in range(20))]
    bell.heard()
    for ref in refs[1:20:2]:
        ray.cancel(ref)
    assert_cancelled(*refs[1:20:2])
    bell.let_go()
    assert ray.get([refs[0], *refs[2:21:2]], timeout=DEADLINE) == [1] * 11
    assert_works()


@ray.remote
def in_a_call(bell: Bell) -> None:
    bell.wait("runs")


@ray.remote
def in_a_sleep(bell: Bell) -> None:
    bell.ring("runs")
    time.sleep(1000)


@ray.remote
def in_a_loop(bell: Bell) -> None:
    bell.ring("runs")
    while True:
        pass


@ray.remote
def in_a_loop_that_cleans_up(bell: Bell) -> None:
    try:
        bell.ring("runs")
        while True:
            pass
    finally:
        bell.ring(f"cleaned up with the help of {ray.get(one.remote())}")


@ray.remote
def in_get(bell: Bell) -> None:
    bell.ring("runs")
    ray.get(never.remote())


@ray.remote
def in_wait(bell: Bell) -> None:
    bell.ring("runs")
    ray.wait([never.remote()])


@ray.remote
def in_asyncio(bell: Bell) -> None:
    async def main() -> None:
        bell.ring("runs")
        await asyncio.gather(never.remote(), asyncio.sleep(1000))

    asyncio.run(main())


@ray.remote
def in_uvloop(bell: Bell) -> None:
    import uvloop

    async def main() -> None:
        bell.ring("runs")
        await asyncio.gather(never.remote(), asyncio.sleep(1000))

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())


@ray.remote
def in_a_thread_that_is_joined(bell: Bell) -> None:
    def wait() -> None:
        ref = never.remote()  # before the test cancels: what the task has submitted then goes with it
        bell.ring("runs")
        ray.get(ref)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join()


@ray.remote
def in_get_beside_a_thread(bell: Bell) -> None:
    ref = never.remote()

    def wait_again_and_again() -> None:
        for _ in range(20):
            ray.wait([ref], timeout=0.001)
        bell.ring("runs")
        while not ray.get_runtime_context().is_canceled():
            ray.wait([ref], timeout=0.001)

    threading.Thread(target=wait_again_and_again, daemon=True).start()
    ray.get(ref)


WAYS = [
    in_a_call,
    in_a_sleep,
    in_a_loop,
    in_get,
    in_wait,
    in_asyncio,
    in_uvloop,
    in_a_thread_that_is_joined,
    in_get_beside_a_thread,
]


def test_while_it_runs(bell: Bell) -> None:
    for way in WAYS:
        ref = way.remote(bell)
        assert bell.heard() == "runs"
        ray.cancel(ref)
        assert_cancelled(ref)
    assert_works()


@pytest.mark.usefixtures("one_cpu")
def test_on_a_thread_beside_others(bell: Bell) -> None:
    @ray.remote
    def below(depth: int, way: Any, bell: Bell) -> Any:
        return ray.get(below.remote(depth - 1, way, bell) if depth else way.remote(bell))

    # Further down than workers may block: the last tasks are nested.
    for way in (in_a_loop, in_get, in_asyncio, in_get_beside_a_thread):
        ref = below.remote(16, way, bell)
        assert bell.heard() == "runs"
        ray.cancel(ref)
        assert_cancelled(ref)
    assert_works()
    ref = below.remote(16, in_a_loop_that_cleans_up, bell)
    assert bell.heard() == "runs"
    ray.cancel(ref)
    assert_cancelled(ref)
    assert bell.heard() == "cleaned up with the help of 1"
    assert_works()
    # A task in a system call learns of it only when the call returns. The caller does not wait for that.
    ref = below.remote(16, in_a_call, bell)
    assert bell.heard() == "runs"
    ray.cancel(ref)
    assert_cancelled(ref)
    bell.let_go()
    assert_works()


def test_again_and_again_at_any_moment() -> None:
    @ray.remote
    def gets() -> None:
        while True:
            assert ray.get([one.remote(), one.remote()]) == [1, 1]

    @ray.remote
    def puts() -> None:
        while True:
            assert ray.get(ray.put(1)) == 1
            ray.put(bytes(200_000))

    @ray.remote
    def awaits() -> None:
        async def main() -> None:
            while True:
                assert await one.remote() == 1

        asyncio.run(main())

    @ray.remote
    def nests(depth: int) -> Any:
        return ray.get(nests.remote(depth - 1) if depth else never.remote())

    chance = random.Random(0)
    ways: list[Callable[[], Any]] = [gets.remote, puts.remote, awaits.remote, lambda: nests.remote(3)]
    never_ref = never.remote()
    for _ in range(40):
        refs = [chance.choice(ways)() for _ in range(chance.randint(1, 4))]
        ray.wait([never_ref], timeout=chance.random() * 0.02)
        for ref in refs:
            ray.cancel(ref)
        assert_cancelled(*refs)
    ray.cancel(never_ref)
    assert_works()


def test_children_go_with_their_parent(bell: Bell) -> None:
    @ray.remote
    def parent(bell: Bell, depth: int) -> Any:
        children = [parent.remote(bell, depth - 1), never.remote()] if depth else [never.remote()]
        bell.ring("runs")
        return ray.get(children)

    ref = parent.remote(bell, 3)
    for _ in range(4):
        bell.heard()
    ray.cancel(ref)
    assert_cancelled(ref)
    assert_settled()

    @ray.remote
    def leaves_one(bell: Bell) -> None:
        bell.ring(hold.remote(bell, "child").hex())
        time.sleep(1000)

    ref = leaves_one.remote(bell)
    assert len({bell.heard(), bell.heard()}) == 2
    ray.cancel(ref, recursive=False)
    assert_cancelled(ref)
    assert require().request("status")["tasks"]["unfinished"] == 1
    bell.let_go()
    assert_settled()


def test_a_task_may_clean_up_and_refuse(bell: Bell) -> None:
    @ray.remote
    def cleans(bell: Bell) -> None:
        try:
            bell.wait("runs")
        finally:
            cancelled = ray.get_runtime_context().is_canceled()
            bell.wait(f"cleans {cancelled} {ray.get(ray.put(1))} {ray.get(one.remote())}")

    @ray.remote
    def refuses(bell: Bell) -> str:
        try:
            bell.wait("runs")
        except KeyboardInterrupt:
            bell.wait("goes on")
        return "result"

    ref = refuses.remote(bell)
    assert bell.heard() == "runs"
    ray.cancel(ref)
    assert bell.heard() == "goes on"
    ray.cancel(ref)  # once is enough
    bell.let_go()
    assert ray.get(ref, timeout=DEADLINE) == "result"
    cleaning = cleans.remote(bell)
    assert bell.heard() == "runs"
    ray.cancel(cleaning)
    assert bell.heard() == "cleans True 1 1"
    ray.cancel(cleaning)
    bell.let_go()
    assert_cancelled(cleaning)
    assert_works()


def test_in_finalizers_an_interrupt_is_kept(bell: Bell) -> None:
    class Slow:
        def __init__(self, bell: Bell) -> None:
            self.bell = bell

        def __del__(self) -> None:
            self.bell.wait("finalizer")

    @ray.remote
    def drops(bell: Bell) -> None:
        Slow(bell)
        bell.wait("outside")

    ref = drops.remote(bell)
    assert bell.heard() == "finalizer"
    ray.cancel(ref)  # breaks off the finalizer, which cannot pass it on
    assert bell.heard() == "outside"
    assert_cancelled(ref)
    assert_works()


def test_a_cancelled_task_may_call_others_to_clean_up(bell: Bell) -> None:
    @ray.remote
    def cleans(bell: Bell) -> None:
        child = never.remote()
        try:
            bell.wait("runs")
        finally:
            bell.ring(f"cleaned {ray.get(one.remote())}")
            ray.get(child)

    @ray.remote
    def beside(bell: Bell) -> None:  # one that waits: on a thread of its process
        ray.get(cleans.remote(bell))

    class Async:
        async def cleans(self, bell: Bell) -> None:
            child = never.remote()
            try:
                bell.ring("runs")
                await asyncio.Event().wait()
            finally:
                bell.ring(f"cleaned {await one.remote()}")
                await child

    actor: Any = ray.remote(Async).remote()
    for call in (cleans, beside, actor.cleans):
        ref = call.remote(bell)
        assert bell.heard() == "runs"
        ray.cancel(ref)
        assert bell.heard() == "cleaned 1"
        with pytest.raises(TaskCancelledError):
            ray.get(ref, timeout=DEADLINE)
    assert_works()


def test_by_force(bell: Bell) -> None:
    @ray.remote(max_retries=5)
    def stubborn(bell: Bell) -> None:
        while True:
            try:
                bell.wait("runs")
            except KeyboardInterrupt:
                bell.ring("no")

    ref = stubborn.remote(bell)
    assert bell.heard() == "runs"
    ray.cancel(ref)
    assert bell.heard() == "no"
    ray.cancel(ref, force=True)
    with pytest.raises((TaskCancelledError, WorkerCrashedError)):
        ray.get(ref, timeout=DEADLINE)
    queued = never.remote()
    ray.cancel(queued, force=True)
    assert_cancelled(queued)
    assert_works()


def test_from_other_tasks_and_before_a_retry(bell: Bell) -> None:
    @ray.remote
    def canceller(refs: list[Any]) -> None:
        ray.cancel(refs[0])

    ref = in_a_sleep.remote(bell)
    bell.heard()
    ray.get(canceller.remote([ref]))
    assert_cancelled(ref)

    @ray.remote(retry_exceptions=True, max_retries=-1)
    def again(bell: Bell) -> None:
        try:
            bell.wait("runs")
        finally:
            raise ValueError  # hides the interrupt

    ref = again.remote(bell)
    assert bell.heard() == "runs"
    ray.cancel(ref)
    with pytest.raises((TaskCancelledError, ValueError)):
        ray.get(ref, timeout=DEADLINE)
    assert_works()


def test_no_force_for_calls_of_actors_whoever_has_the_ref() -> None:
    @ray.remote
    class Calls:
        def make(self) -> list[Any]:
            me: Any = ray.get_runtime_context().current_actor
            calls = [me.echo.remote(1), *me.echo.options(num_returns=2).remote((1, 2))]
            return [*calls, one.remote(), ray.put(1)]

        def echo(self, value: Any) -> Any:
            return value

    @ray.remote
    def forces(refs: list[Any]) -> list[str]:
        told = []
        for ref in refs:
            try:
                ray.cancel(ref, force=True)
                told.append("")
            except ValueError as error:
                told.append(str(error))
        return told

    calls: Any = Calls
    refs = ray.get(calls.remote().make.remote(), timeout=DEADLINE)
    with pytest.raises(ValueError, match=r"force=True is not supported for actor tasks\."):
        ray.cancel(refs[0], force=True)
    expected = ["force=True is not supported for actor tasks."] * 3 + [""] * 2
    assert ray.get(forces.remote(refs), timeout=DEADLINE) == expected
    assert ray.get(refs[:3], timeout=DEADLINE) == [1, 1, 2]


def test_what_is_no_task() -> None:
    bad: Any
    for bad in (1, None, [one.remote()]):
        with pytest.raises(TypeError):
            ray.cancel(bad)
    ref = ray.put(1)
    ray.cancel(ref)
    assert ray.get(ref) == 1
