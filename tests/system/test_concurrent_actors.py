"""Async and threaded actors: calls that overlap or do not, and their threads; cancelling calls; the async face."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import psutil
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.exceptions import ActorDiedError, TaskCancelledError, TaskError
from tests.system import actors
from tests.system.actors import Loop, Threads, identity, until

pytestmark = pytest.mark.usefixtures("node")

Gate: Any = actors.Gate
Log: Any = actors.Log


# Async actors ---------------------------------------------------------------------------------------------------------


def test_methods_that_yield_are_refused_where_they_are_called() -> None:
    class Yields:
        def one_by_one(self) -> Any:
            yield 1
            yield 2

        async def asynchronously(self) -> Any:
            yield 1

    actor = ray.remote(Yields).remote()
    for method in (actor.one_by_one, actor.asynchronously):
        with pytest.raises(ValueError, match="one by one"):
            method.remote()
    assert ray.get(actor.one_by_one.options(num_returns=2).remote()) == [1, 2]


def test_coroutines_interleave() -> None:
    gate, loop = Gate.options(max_concurrency=2000).remote(), ray.remote(Loop).remote()
    refs = [loop.wait.remote(gate, number) for number in range(1200)]
    ray.get(gate.crowd.remote(1000))
    assert ray.get(gate.size.remote()) == 1000  # that is the default concurrency
    assert ray.wait(refs, timeout=0)[0] == []
    gate.open.remote()
    assert ray.get(refs) == list(range(1200))


def test_a_thousand_sleeps_at_once() -> None:
    class Sleeper:
        async def sleep(self) -> int:
            await asyncio.sleep(0.2)
            return threading.active_count()

    sleeper = ray.remote(Sleeper).remote()
    ray.get(sleeper.__ray_ready__.remote())
    counts = ray.get([sleeper.sleep.remote() for _ in range(1000)], timeout=20)  # 200 s one after another
    assert max(counts) < 5


def test_one_coroutine_after_another() -> None:
    loop = ray.remote(max_concurrency=1)(Loop).remote()
    ray.get([loop.switch.remote(number) for number in range(100)])
    expected = [(what, number) for number in range(100) for what in ("begin", "end")]
    assert ray.get(loop.plain.remote()) == expected


def test_calls_start_in_order() -> None:
    loop = ray.remote(Loop).remote()
    ray.get([loop.switch.remote(number) for number in range(300)])
    entries = ray.get(loop.plain.remote())
    assert [number for what, number in entries if what == "begin"] == list(range(300))
    assert entries != sorted(entries, key=lambda entry: entry[1])


def test_a_slow_argument_holds_nobody_back() -> None:
    gate, loop = Gate.remote(), ray.remote(Loop).remote()
    slow = loop.switch.remote(gate.wait.remote("slow"))
    ray.get([loop.switch.remote("quick"), loop.plain.remote()])
    gate.open.remote()
    ray.get(slow)
    assert [entry for _, entry in ray.get(loop.plain.remote())] == ["quick", "quick", "slow", "slow"]


def test_everything_runs_on_one_uvloop() -> None:
    loop = ray.remote(Loop).remote()
    assert ray.get(loop.where.remote()) == ("uvloop", True, True)
    assert ray.get(loop.plain_where.remote()) == ("uvloop", True, True)
    waiting = loop.until_set.remote()
    loop.set.remote()
    assert ray.get(waiting) == "set"


def test_a_plain_method_blocks_the_loop() -> None:
    class Mixed:
        def __init__(self) -> None:
            self.entries: list[str] = []

        async def quick(self) -> None:
            self.entries.append("quick")

        def blocking(self, gate: Any) -> list[str]:
            ray.get(gate.wait.remote())
            return list(self.entries)

    gate, mixed = Gate.remote(), ray.remote(Mixed).remote()
    ref = mixed.blocking.remote(gate)
    quick = mixed.quick.remote()
    ray.get(gate.crowd.remote(1))
    assert ray.wait([quick], timeout=0)[0] == []
    gate.open.remote()
    assert ray.get(ref) == []
    ray.get(quick)


def test_refs_in_coroutines() -> None:
    class Uses:
        async def gathers(self) -> Any:
            refs = [identity.remote(number) for number in range(20)]
            assert await asyncio.gather(*refs) == list(range(20))
            assert ray.get(refs) == list(range(20))  # blocks the loop, and works
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.one(number)) for number in range(5)]
            return [task.result() for task in tasks]

        async def one(self, number: int) -> int:
            value: int = await identity.remote(number)
            return value

        async def fails(self) -> None:
            await Log.remote().fail.remote(KeyError("from below"))

        async def nothing(self, ref: list[Any]) -> Any:
            try:
                await asyncio.wait_for(ref[0], 0)
            except TimeoutError:
                return await asyncio.wait_for(ref[0], None)

    gate, uses = Gate.remote(), ray.remote(Uses).remote()
    assert ray.get(uses.gathers.remote()) == list(range(5))
    with pytest.raises(KeyError, match="from below") as caught:
        ray.get(uses.fails.remote())
    assert isinstance(caught.value, TaskError)
    waiting = gate.wait.remote("after all")
    still = uses.nothing.remote([waiting])
    gate.open.remote()
    assert ray.get(still) == "after all"


def test_inherited_coroutines_and_depth() -> None:
    class Child(Loop):
        async def recurse(self, me: Any, depth: int) -> int:
            return 0 if not depth else 1 + await me.recurse.remote(me, depth - 1)

        @staticmethod
        async def static(x: int) -> int:
            return x

    child = ray.remote(Child).remote()
    assert ray.get(child.where.remote()) == ("uvloop", True, True)
    assert ray.get(child.recurse.remote(child, 900)) == 900
    assert ray.get(child.static.remote(3)) == 3
    assert ray.get(child.__ray_call__.remote(Loop.where))[1:] == (True, True)


def test_the_context_of_each_coroutine() -> None:
    class Asks:
        def __init__(self) -> None:
            self.variable: ContextVar[int] = ContextVar("variable", default=0)

        async def ask(self, number: int) -> tuple[Any, Any, int]:
            self.variable.set(self.variable.get() + number)
            before = ray.get_runtime_context().get_task_id()
            await asyncio.sleep(0)
            inner = await asyncio.create_task(self.inner())
            assert inner == before == await asyncio.to_thread(ray.get_runtime_context().get_task_id)
            return before, ray.get_runtime_context().get_actor_id(), self.variable.get()

        async def inner(self) -> str | None:
            return ray.get_runtime_context().get_task_id()

    asks = ray.remote(Asks).remote()
    refs = [asks.ask.remote(number) for number in range(20)]
    for number, (ref, told) in enumerate(zip(refs, ray.get(refs), strict=True)):
        assert told == (ref.task_id().hex(), asks._actor_id.hex(), number)


def test_what_is_raised_in_coroutines() -> None:
    class Raises:
        async def m(self, error: BaseException) -> None:
            raise error

        async def fine(self) -> int:
            return 1

        async def background(self) -> None:
            self.task = asyncio.create_task(self.m(ValueError("nobody looks")))

    raises: Any = ray.remote(Raises).remote()
    with pytest.raises(ValueError, match="mine"):
        ray.get(raises.m.remote(ValueError("mine")))
    with pytest.raises(TaskCancelledError):
        ray.get(raises.m.remote(asyncio.CancelledError()))
    with pytest.raises(TaskError, match="AsyncioActorExit"):
        ray.get(raises.m.remote(ray.exceptions.AsyncioActorExit()))
    ray.get(raises.background.remote())
    assert ray.get(raises.fine.remote()) == 1


def test_exit_from_a_task_of_a_coroutine(capfd: pytest.CaptureFixture[str]) -> None:
    class Exits:
        async def m(self, gate: Any) -> None:
            self.task = asyncio.create_task(self.leave(gate))
            await asyncio.Event().wait()

        async def leave(self, gate: Any) -> None:
            await gate.wait.remote()
            ray.actor.exit_actor()

        def late(self) -> None:
            pass

    gate, exits = Gate.remote(), ray.remote(max_restarts=3)(Exits).remote()
    refs = [exits.m.remote(gate), exits.m.remote(gate)]
    ray.get(gate.crowd.remote(2))
    gate.open.remote()
    for ref in refs:
        with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
            ray.get(ref)
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        ray.get(exits.late.remote())
    ray.shutdown()
    assert "never retrieved" not in capfd.readouterr().err


def test_async_shutdown(tmp_path: Any) -> None:
    class Ends:
        async def pid(self) -> int:
            return os.getpid()

        async def __ray_shutdown__(self) -> None:
            await asyncio.sleep(0)
            (tmp_path / "shutdown").touch()

    pid = ray.get(ray.remote(Ends).remote().pid.remote())
    until(lambda: not psutil.pid_exists(pid))
    assert (tmp_path / "shutdown").exists()


# Cancelling -----------------------------------------------------------------------------------------------------------


def test_cancelling_coroutines() -> None:
    gate, loop = Gate.remote(), ray.remote(max_concurrency=3)(Loop).remote()
    stubborn, gentle, waiting = loop.stubborn.remote(), loop.gentle.remote(), loop.wait.remote(gate)
    queued = [loop.switch.remote(number) for number in range(4)]
    ray.get(gate.crowd.remote(1))
    for ref in (queued[1], queued[2], stubborn, gentle):  # what is queued first: the end of the others lets it run
        with pytest.raises(ValueError, match=r"force=True is not supported for actor tasks\."):
            ray.cancel(ref, force=True)
        ray.cancel(ref)
    for ref in (stubborn, gentle, queued[1], queued[2]):
        with pytest.raises(TaskCancelledError, match=f"{ref.task_id().hex()} was cancelled"):
            ray.get(ref)
    ray.get([queued[0], queued[3]])
    gate.open.remote()
    ray.get(waiting)
    ray.cancel(waiting)
    entries = ray.get(loop.plain.remote())
    assert ("cancelled", True) in entries
    assert "cleaned up" in entries
    assert [entry for entry in entries if entry[0] == "begin"] == [("begin", None), ("begin", 0), ("begin", 3)]


def test_cancelling_at_once() -> None:
    for kind in (Loop, actors.Quick):
        for threads in (1, 3):
            actor: Any = ray.remote(max_concurrency=threads)(kind).remote()
            ray.get(actor.__ray_ready__.remote())
            refs = [actor.switch.remote(number) for number in range(300)]
            for ref in refs[::2]:
                ray.cancel(ref)
            ray.get(refs[1::2])
            for ref in refs[::2]:
                try:
                    ray.get(ref)
                except TaskCancelledError:
                    pass
            ray.get(actor.switch.remote(0))


def test_cancelling_reaches_what_the_call_submitted() -> None:
    class Parent:
        async def m(self, gate: Any) -> Any:
            return await child.wait.remote(gate)

    gate, child = Gate.remote(), ray.remote(Loop).remote()
    ref = ray.remote(Parent).remote().m.remote(gate)
    ray.get(gate.crowd.remote(1))
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
    gate.open.remote()
    assert ray.get(child.plain.remote()) == [("begin", None)]
    entries = ray.get(child.plain.remote())
    assert ("end", None) not in entries


@pytest.mark.parametrize("threads", [1, 2])
def test_cancelling_plain_calls(threads: int) -> None:
    class Polls:
        def __init__(self) -> None:
            self.stopped: list[int] = []

        def poll(self, gate: Any) -> str:
            ray.get(gate.wait.remote())
            while not ray.get_runtime_context().is_canceled():
                time.sleep(0.001)
            self.stopped.append(1)
            return "stopped"

        def count(self) -> int:
            return len(self.stopped)

        def quick(self, number: int) -> int:
            return number

    gate, polls = Gate.remote(), ray.remote(max_concurrency=threads)(Polls).remote()
    gate.open.remote()
    running = [polls.poll.remote(gate) for _ in range(threads)]
    queued = [polls.quick.remote(number) for number in range(5)]
    ray.get(gate.crowd.remote(threads))
    ray.cancel(queued[1])
    with pytest.raises(TaskCancelledError):
        ray.get(queued[1])
    for ref in running:
        ray.cancel(ref)
    for ref in running:  # what they return is for nobody
        with pytest.raises(TaskCancelledError, match=f"{ref.task_id().hex()} was cancelled"):
            ray.get(ref)
    assert ray.get(polls.count.remote()) == threads
    assert ray.get([queued[0], *queued[2:]]) == [0, 2, 3, 4]


@pytest.mark.parametrize("kind", ["plain", "threaded", "async"])
def test_a_cancelled_call_may_call_others_to_clean_up(kind: str) -> None:
    class Cleans:
        def poll(self, gate: Any, log: Any) -> None:
            gate.wait.remote()
            while not ray.get_runtime_context().is_canceled():
                time.sleep(0.001)
            ray.get(log.add.remote("cleaned up"))

    class CleansInLoop:
        async def poll(self, gate: Any, log: Any) -> None:
            try:
                await gate.wait.remote()
            finally:
                await log.add.remote("cleaned up")

    gate, log = Gate.remote(), Log.remote()
    cls, threads = (CleansInLoop if kind == "async" else Cleans), (2 if kind == "threaded" else None)
    ref = ray.remote(max_concurrency=threads)(cls).remote().poll.remote(gate, log)
    ray.get(gate.crowd.remote(1))
    ray.cancel(ref)
    with pytest.raises(TaskCancelledError):
        ray.get(ref)
    assert ray.get(log.all.remote()) == ["cleaned up"]


# Threaded actors ------------------------------------------------------------------------------------------------------


def test_at_most_so_many_threads() -> None:
    gate, made = Gate.remote(), ray.remote(max_concurrency=4)(Threads).remote()
    refs = [made.wait.remote(gate) for _ in range(10)]
    ray.get(gate.crowd.remote(4))
    gate.open.remote()
    idents = ray.get(refs)
    assert (ray.get(made.peak.remote()), len(set(idents))) == (4, 4)


def test_one_thread_keeps_its_identity() -> None:
    made = ray.remote(Threads).remote()
    told = [ray.get(made.keep.remote(number)) for number in range(3)]
    assert len({ident for ident, _, _ in told}) == 1
    assert [kept for _, kept, _ in told] == [None, 0, 1]


def test_threads_know_their_calls() -> None:
    made = ray.remote(max_concurrency=8)(Threads).remote()
    refs = [made.keep.remote() for _ in range(100)]
    assert [task for _, _, task in ray.get(refs)] == [ref.task_id().hex() for ref in refs]


class Starts:
    """Returns the tasks that threads which it starts belong to."""

    def __init__(self) -> None:
        self.background = ThreadPoolExecutor(1)
        self.at_start = self.background.submit(told).result()

    def here_and_in_threads(self, gate: Any) -> list[Any]:
        ray.get(gate.wait.remote())  # so that calls overlap, where they can
        return [told(), *self.threads()]

    def threads(self) -> list[Any]:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(told()))
        thread.start()
        thread.join()
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(told).result())
        return found

    def outlived(self) -> tuple[Any, Any]:
        return self.at_start, self.background.submit(told).result()


class StartsInLoop(Starts):
    async def here_and_in_threads(self, gate: Any) -> list[Any]:  # type: ignore[override]
        await gate.wait.remote()
        copied = await asyncio.to_thread(told)
        awaited = await asyncio.create_task(asyncio.to_thread(told))
        return [told(), copied, awaited, *self.threads()]


def told() -> tuple[str | None, str | None]:
    context = ray.get_runtime_context()
    return context.get_task_id(), context.get_task_name()


@pytest.mark.parametrize(("kind", "threads"), [(Starts, 1), (Starts, 3), (StartsInLoop, None)])
def test_threads_of_users_know_the_call_that_started_them(kind: Any, threads: int | None) -> None:
    gate, made = Gate.remote(), ray.remote(max_concurrency=threads)(kind).remote()
    refs = [made.here_and_in_threads.remote(gate) for _ in range(3)]
    ray.get(gate.crowd.remote(threads or 3))
    gate.open.remote()
    for ref, found in zip(refs, ray.get(refs), strict=True):
        assert set(found) == {(ref.task_id().hex(), f"{kind.__name__}.here_and_in_threads")}
    ref = made.outlived.remote()
    at_start, later = ray.get(ref)
    assert at_start == (made._actor_id.hex(), kind.__name__)
    assert later == (at_start if threads != 1 else (ref.task_id().hex(), f"{kind.__name__}.outlived"))


@pytest.mark.parametrize("kind", ["threaded", "async"])
def test_a_thread_that_waits_lends_the_cpu_of_the_actor(kind: str) -> None:
    class Waits:
        def waits(self) -> Any:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(lambda: ray.get(identity.remote(5))).result()

    class WaitsInLoop(Waits):
        async def unused(self) -> None: ...

    ray.shutdown()
    ray.init(num_cpus=1)
    options: dict[str, Any] = {"max_concurrency": 2} if kind == "threaded" else {}
    made: Any = ray.remote(num_cpus=1, **options)(WaitsInLoop if kind == "async" else Waits).remote()
    assert ray.get(made.waits.remote(), timeout=20) == 5


@pytest.mark.parametrize("kind", ["plain", "threaded", "async"])
def test_the_end_may_wait_for_others(kind: str, tmp_path: Any) -> None:
    class Ends:
        def leave(self) -> None:
            ray.actor.exit_actor()

        def __ray_shutdown__(self) -> None:
            (tmp_path / "shutdown").write_text(str(ray.get(identity.remote("waited"))))

    class EndsInLoop(Ends):
        async def unused(self) -> None: ...

    ray.shutdown()
    ray.init(num_cpus=1)
    options: dict[str, Any] = {"max_concurrency": 2} if kind == "threaded" else {}
    made: Any = ray.remote(num_cpus=1, **options)(EndsInLoop if kind == "async" else Ends).remote()
    with pytest.raises(ActorDiedError, match=r"exit_actor\(\)"):
        ray.get(made.leave.remote(), timeout=20)
    assert (tmp_path / "shutdown").read_text() == "waited"


def test_large_concurrency_costs_no_threads() -> None:
    made = ray.remote(max_concurrency=1_000_000)(Threads).remote()
    ray.get([made.keep.remote() for _ in range(5)])
    assert ray.get(made.count.remote()) < 10
    loop = ray.remote(max_concurrency=1_000_000)(Loop).remote()
    assert ray.get(loop.__ray_call__.remote(lambda self: threading.active_count())) < 5
    with pytest.raises(ValueError):
        ray.remote(max_concurrency=0)(Threads)


def test_order_is_not_promised_to_concurrent_actors() -> None:
    cases: list[tuple[type, dict[str, Any]]] = [(Threads, {"max_concurrency": 2}), (Loop, {})]
    for kind, options in cases:
        with pytest.raises(ValueError, match="allow_out_of_order_execution=False"):
            ray.remote(allow_out_of_order_execution=False, **options)(kind)
    gate, log = Gate.remote(), Log.options(allow_out_of_order_execution=True).remote()
    slow = log.add.remote(gate.wait.remote("slow"))
    assert ray.get(log.add.remote("quick")) == 1
    gate.open.remote()
    assert ray.get(slow) == 2


# The async face -------------------------------------------------------------------------------------------------------


async def test_actors_in_the_async_face() -> None:
    log = Log.options(name="log").remote("first")
    assert await log.add.remote("second") == 2
    found = await asyncray.get_actor("log")
    assert await found.all.remote() == ["first", "second"]
    with pytest.raises(ValueError, match="Failed to look up actor with name"):
        await asyncray.get_actor("nobody")
    refs = [log.add.remote(number) for number in range(200)]
    assert await asyncio.gather(*refs) == list(range(3, 203))
    gate = Gate.remote()
    blocked = gate.wait.remote()
    await asyncio.wait_for(gate.crowd.remote(1), 10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(blocked, 0)
    asyncray.kill(gate)
    with pytest.raises(ActorDiedError):
        await blocked
