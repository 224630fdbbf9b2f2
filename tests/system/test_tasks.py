"""Tasks as users see them: arguments, results, options, nesting, retries, errors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

import asyncray
import asyncray.sync as ray
from asyncray.api.function import RemoteFunction
from asyncray.exceptions import (
    DeserializationError,
    GetTimeoutError,
    NotStartedError,
    OwnerDiedError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from asyncray.messages import BLOCKED, SUBSCRIBE
from asyncray.runtime.runtime import require
from tests.system import actors
from tests.system.bell import Bell

pytestmark = pytest.mark.usefixtures("node")
DEADLINE = 20.0

Log: Any = actors.Log


def get(refs: Any, timeout: float = DEADLINE) -> Any:
    """A test that hangs tells more if it ends."""
    return ray.get(refs, timeout=timeout)


@ray.remote
def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@ray.remote
def add(a: Any, b: Any) -> Any:
    return a + b


@ray.remote
def fail(error: BaseException) -> None:
    raise error


@ray.remote
def pid() -> int:
    return os.getpid()


# Arguments and results ------------------------------------------------------------------------------------------------


def test_refs_are_replaced_at_the_top_and_passed_on_inside() -> None:
    one, two = ray.put(1), add.remote(1, 1)
    args, kwargs = get(echo.remote(one, two, [one], x=two, y={"deep": (one, [two])}))
    assert args[:2] == (1, 2)
    assert kwargs["x"] == 2
    assert args[2] == [one]
    assert kwargs["y"] == {"deep": (one, [two])}
    assert get(kwargs["y"]["deep"][1][0]) == 2
    assert get(echo.remote(one, one, x=one)) == ((1, 1), {"x": 1})


def test_chains_and_diamonds_and_trees() -> None:
    ref = ray.put(0)
    for _ in range(200):
        ref = add.remote(ref, 1)
    left, right = add.remote(ref, 1), add.remote(ref, 2)
    assert get(add.remote(left, right)) == 403
    values = [ray.put(i) for i in range(256)]
    while len(values) > 1:
        values = [add.remote(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    assert get(values[0]) == sum(range(256))


def test_plain_values_are_those_of_the_submission() -> None:
    values, array = [1], np.zeros(3)
    ref = echo.remote(values, array)
    values.append(2)
    array[:] = 7
    (got, copy), _ = get(ref)
    assert got == [1]
    assert copy.tolist() == [0, 0, 0]


def test_numbers_of_returns() -> None:
    @ray.remote(num_returns=3)
    def three(n: int) -> Any:
        return range(n)

    refs = three.remote(3)
    assert get(refs) == [0, 1, 2]
    assert three.options(num_returns=0).remote(3) is None
    assert get(three.options(num_returns=1).remote(3)) == range(3)
    assert get(echo.options(num_returns=2).remote(1)) == [(1,), {}]
    for wrong in (2, 4):
        for ref in three.remote(wrong):
            with pytest.raises(ValueError, match=f"num_returns=3 but returned {wrong} values"):
                get(ref)
    with pytest.raises(ValueError, match="num_returns=2 but returned int"):
        get(add.options(num_returns=2).remote(1, 2))


def test_calls_that_do_not_fit_are_told_at_once() -> None:
    @ray.remote
    def f(a: int, /, b: int = 2, *, c: int = 3) -> tuple[int, int, int]:
        return a, b, c

    assert get(f.remote(1, b=5, c=6)) == (1, 5, 6)
    wrong: Any
    for wrong in (((), {}), ((1, 2, 3), {}), ((1,), {"d": 1}), ((1, 2), {"b": 3})):
        args, kwargs = wrong
        with pytest.raises(TypeError):
            f.remote(*args, **kwargs)
    untyped: Any = f
    with pytest.raises(TypeError, match=r"Instead of running 'f\(\)', try 'f\.remote\(\)'"):
        untyped(1)


def test_parameters_may_have_any_names() -> None:
    names = {"self": 1, "args": 2, "kwargs": 3, "name": 4, "message": 5, "function": 6, "template": 7, "source": 8}
    assert get(echo.remote(**names)) == ((), names)

    class Takes:
        def __init__(self, /, **named: int) -> None:
            self.named = named

        def told(self) -> dict[str, int]:
            return self.named

    takes: Any = ray.remote(Takes).remote(**names)
    assert get(takes.told.remote()) == names
    uncallable: Any
    for uncallable in (echo, ray.remote(Takes), takes.told):
        with pytest.raises(TypeError, match="Instead of"):
            uncallable(**names)


class Sticky:
    """Cannot be pickled, by a part that is some way down."""

    def __init__(self) -> None:
        self.inner = {"locks": [threading.Lock()]}

    def __repr__(self) -> str:
        return "Sticky()"


def test_what_cannot_be_pickled_is_named() -> None:
    with pytest.raises(TypeError, match=r"(?s)argument number 1\[0\]\.inner\['locks'\]\[0\] of echo: lock"):
        echo.remote(1, [Sticky()])
    with pytest.raises(TypeError, match=r"argument where\.inner\['locks'\]\[0\] of echo: lock"):
        echo.remote(where=Sticky())
    lock = threading.Lock()

    @ray.remote
    def uses_lock() -> Any:
        return lock

    with pytest.raises(TypeError, match=r"remote function uses_lock cannot be pickled because of its variable 'lock':"):
        uses_lock.remote()
    with pytest.raises(TypeError, match=r"Could not serialize the put value\['a'\]: lock .* cannot be pickled \("):
        ray.put({"a": lock})

    @ray.remote
    def returns_lock() -> Any:
        return {"a": threading.Lock()}

    worker = get(pid.remote())
    with pytest.raises(TypeError, match=r"the return value\['a'\] of returns_lock: lock .* cannot be") as caught:
        get(returns_lock.remote())
    assert isinstance(caught.value, TaskError)
    assert worker in get([pid.remote() for _ in range(20)])


class Explosive:
    """Can be pickled, but not loaded again."""

    def __reduce__(self) -> Any:
        return int, ("boom",)


def test_what_cannot_be_loaded_is_an_error_and_no_more() -> None:
    with pytest.raises(DeserializationError, match=r"invalid literal for int.*boom") as caught:
        get(add.remote(Explosive(), 1))
    assert isinstance(caught.value, TaskError)
    with pytest.raises(DeserializationError, match="boom"):
        get(ray.put(Explosive()))
    assert get(add.remote(1, 1)) == 2


def test_a_function_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncray.runtime.submission.FUNCTION_LIMIT", 1 << 20)
    data = bytes(2 << 20)

    @ray.remote
    def large() -> int:
        return len(data)

    with pytest.raises(ValueError, match=r"The remote function large is too large \(2 MiB > 1 MiB\)"):
        large.remote()


def test_large_arguments_and_results() -> None:
    text = "x" * 3_000_000
    assert get(echo.remote(text, [text], x=text)) == ((text, [text]), {"x": text})
    assert get(add.remote(ray.put(text), "y")) == text + "y"
    parts = get(echo.options(num_returns=2).remote(text))
    assert parts == [(text,), {}]


# Functions ------------------------------------------------------------------------------------------------------------


def test_closures_and_redefinition() -> None:
    def make(n: int) -> RemoteFunction[..., Any]:
        @ray.remote
        def f() -> int:
            return n

        return f

    functions = [make(n) for n in range(20)]
    assert get([f.remote() for f in functions]) == list(range(20))
    captured = functions[3]

    @ray.remote
    def outer() -> Any:
        @ray.remote
        def inner() -> str:
            return "größer"

        return ray.get([captured.remote(), inner.remote(), echo.options(num_returns=2).remote(5)[0]])

    assert get(outer.remote()) == [3, "größer", (5,)]


def twice(invoke: Any) -> Any:
    """Calls it with the arguments, and once more with the first one doubled."""
    return lambda args, kwargs: [invoke(args, kwargs), invoke([args[0] * 2, *args[1:]], kwargs)]


def test_an_invocation_decorator_is_wrapped_around_each_call() -> None:
    def add(x: int, y: int = 0) -> int:
        return x + y

    class Adder:
        def add(self, x: int, y: int = 0) -> int:
            return x + y

    for function in (add, Adder.add):
        vars(function)["__ray_invocation_decorator__"] = twice
    remote_add: Any = ray.remote(add)
    adder = ray.remote(Adder).remote()

    @ray.remote
    def elsewhere(method: Any) -> Any:
        return ray.get(method.add.remote(3, y=1))

    for call in (remote_add, remote_add.options(name="other"), adder.add, adder.add.options(name="other")):
        assert get(call.remote(3, y=1)) == [4, 7]
    assert get(elsewhere.remote(adder)) == [4, 7]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        remote_add.remote(3, z=1)


def test_what_a_function_captures_stays_there() -> None:
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def add(self) -> int:
            self.value += 1
            return self.value

    def make() -> Any:
        ref, counter = ray.put("captured"), ray.remote(Counter).remote()

        @ray.remote
        def use() -> Any:
            return ray.get(ref), ray.get(counter.add.remote())

        return use

    use = make()
    assert get(use.remote()) == ("captured", 1)
    # Three tasks that run side by side: which of them asks the counter first is nobody's promise.
    assert sorted(get([use.remote() for _ in range(3)])) == [("captured", 2), ("captured", 3), ("captured", 4)]


class Counted:
    """Knows how often it was pickled."""

    times = 0

    def __reduce__(self) -> Any:
        Counted.times += 1
        return int, ("7",)


def test_copies_with_options_run_what_the_first_call_has_sent() -> None:
    value, counted = "first", Counted()

    @ray.remote
    def f() -> Any:
        return value, counted

    early = f.options(num_cpus=0.5)
    before = Counted.times
    assert get(early.remote()) == ("first", 7)
    value = "later"
    copies = [f, early, f.options(num_cpus=0.5), early.options(name="f"), *(f.options(num_cpus=1) for _ in range(10))]
    assert get([copy.remote() for copy in copies]) == [("first", 7)] * 14
    assert Counted.times == before + 1
    assert repr(require().submitter) == "<Submitter <Exports 3>>"  # the function with half a CPU, and with one
    ray.shutdown()
    ray.init(num_cpus=1)
    assert get([copy.remote() for copy in copies]) == [("later", 7)] * 14
    assert Counted.times == before + 2


@ray.remote
def is_even(n: int) -> bool:
    return True if n == 0 else ray.get(is_odd.remote(n - 1))


@ray.remote
def is_odd(n: int) -> bool:  # defined after what calls it
    return False if n == 0 else ray.get(is_even.remote(n - 1))


def test_mutual_recursion() -> None:
    assert get(is_even.remote(21)) is False
    assert ray.get(add.remote(1, 1)) == 2


def test_values_of_many_kinds_are_callable_remotely() -> None:
    import functools
    import math

    assert get(ray.remote(math.sqrt).remote(16)) == 4
    assert get(ray.remote(functools.partial(pow, 2)).remote(10)) == 1024
    assert get(ray.remote(lambda x: x * 2).remote(4)) == 8
    with pytest.raises(ValueError, match="async def"):

        @ray.remote
        async def wrong() -> None: ...

    with pytest.raises(ValueError, match="async def"):

        @ray.remote(num_cpus=2)
        async def wrong_too() -> Any:
            yield 1


# Nesting --------------------------------------------------------------------------------------------------------------


@ray.remote
def count_down(n: int) -> int:
    return 0 if n == 0 else int(ray.get(count_down.remote(n - 1))) + 1


@ray.remote
def fibonacci(n: int) -> int:
    return n if n < 2 else sum(ray.get([fibonacci.remote(n - 1), fibonacci.remote(n - 2)]))


@ray.remote
def spread(n: int) -> int:
    return sum(ray.get([add.remote(i, 0) for i in range(n)]))


@pytest.mark.usefixtures("one_cpu")
def test_thousands_of_nested_tasks_on_one_cpu() -> None:
    assert get(count_down.remote(1000), 60) == 1000
    assert get(spread.remote(3000)) == sum(range(3000))
    assert get([spread.remote(100) for _ in range(30)]) == [sum(range(100))] * 30
    assert get(fibonacci.remote(11)) == 89
    assert len(require().request("status")["workers"]) < 40


@pytest.mark.usefixtures("one_cpu")
def test_an_error_from_far_below() -> None:
    @ray.remote
    def deep(n: int) -> Any:
        return ray.get(deep.remote(n - 1)) if n else 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        get(deep.remote(100))
    text = str(caught.value)
    assert text.count("in deep") == 101
    assert "asyncray/runtime" not in text


@pytest.mark.usefixtures("one_cpu")
def test_threads_and_loops_of_a_task_lend_its_cpu_too() -> None:
    @ray.remote
    def in_threads() -> list[int]:
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(ray.get(add.remote(1, 1)))) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    @ray.remote
    def in_a_loop() -> list[int]:
        async def main() -> list[int]:
            return list(await asyncio.gather(*(add.remote(i, 1) for i in range(5))))

        return asyncio.run(main())

    assert get(in_threads.remote()) == [2] * 5
    assert get(in_a_loop.remote()) == [1, 2, 3, 4, 5]
    assert get([in_a_loop.remote() for _ in range(10)]) == [[1, 2, 3, 4, 5]] * 10


@pytest.mark.usefixtures("one_cpu")
def test_waiting_lends_the_cpu_and_a_value_that_is_there_does_not(bell: Bell) -> None:
    @ray.remote
    def waits(refs: list[Any]) -> Any:
        ready, _ = ray.wait(refs)
        return ray.get(ready[0])

    assert get(waits.remote([add.remote(1, 2)])) == 3

    @ray.remote
    def parent(bell: Bell) -> str:
        child = other.remote(bell)
        ray.get(ray.put(1))
        bell.ring("parent goes on")
        ray.get(child)
        return "done"

    @ray.remote
    def other(bell: Bell) -> None:
        bell.ring("child")

    ref = parent.remote(bell)
    assert [bell.heard(), bell.heard()] == ["parent goes on", "child"]
    assert get(ref) == "done"


@pytest.mark.usefixtures("one_cpu")
@pytest.mark.parametrize("in_a_loop", [False, True])
def test_a_task_that_reads_what_is_there_does_not_count_as_waiting(in_a_loop: bool) -> None:
    """Otherwise the node would lend its CPU for nothing: a thousand such tasks would start a dozen workers."""

    async def get_in_loop(refs: list[Any]) -> Any:
        return await asyncray.get(refs)

    @ray.remote
    def waits_for_any(pairs: list[list[Any]]) -> bool:
        runtime, said = require(), set()
        post = runtime.post

        def listen(message: Any) -> None:
            said.add(message[0])
            post(message)

        with (
            patch.object(runtime.connection, "post", listen),
            patch.object(runtime.connection.blocking, "_append", listen),
        ):
            for refs in pairs:
                assert len(asyncio.run(get_in_loop(refs)) if in_a_loop else ray.get(refs)) == 2
        assert SUBSCRIBE in said
        return BLOCKED in said

    # Many, for in a loop the io thread may be as fast as the question.
    assert not get(waits_for_any.remote([[ray.put(1), ray.put(np.zeros(100_000))] for _ in range(20)]))


@pytest.mark.usefixtures("one_cpu")
def test_a_nested_task_may_exit_without_the_others() -> None:
    @ray.remote(max_retries=0)
    def leave() -> None:
        sys.exit(3)

    @ray.remote(max_retries=0)
    def deep(n: int) -> Any:
        if n:
            return ray.get(deep.remote(n - 1))
        try:
            ray.get(leave.remote())
        except WorkerCrashedError:
            return threading.current_thread() is threading.main_thread()
        return None

    assert get(deep.remote(2)) is True
    assert get(deep.remote(30)) is False  # beyond twelve blocked workers, tasks are nested


@pytest.mark.usefixtures("one_cpu")
def test_a_crash_beside_waiting_tasks_is_named_and_happens_there_once() -> None:
    @ray.remote(max_retries=0)
    def crash() -> None:
        os._exit(9)

    @ray.remote(max_retries=0)
    def deep(n: int) -> Any:
        if n:
            return ray.get(deep.remote(n - 1))
        try:
            return ray.get(crash.remote())
        except WorkerCrashedError:
            return "handled"

    with pytest.raises(WorkerCrashedError, match=r"exit code 9.* while crash ran on another of its threads"):
        get(deep.remote(30))
    assert get(deep.remote(30)) == "handled"  # it is known now, and gets a process of its own


# Options and resources ------------------------------------------------------------------------------------------------


def test_options_keep_what_they_do_not_name() -> None:
    @ray.remote(num_cpus=0.5, name="original")
    def facts() -> Any:
        context = ray.get_runtime_context()
        return context.get_task_name(), context.get_assigned_resources()

    assert get(facts.remote()) == ("original", {"CPU": 0.5})
    assert get(facts.options(name="new").remote()) == ("new", {"CPU": 0.5})
    assert get(facts.options(num_cpus=1.5).options(name="both").remote()) == ("both", {"CPU": 1.5})
    assert get(facts.remote()) == ("original", {"CPU": 0.5})


def test_the_name_of_a_call_stands_in_its_error_and_sends_no_function_again() -> None:
    class Keeper:
        def fail(self) -> None:
            raise ValueError("kept")

        def name(self) -> Any:
            return ray.get_runtime_context().get_task_name()

    globals_of = ray.remote(lambda: id(get.__globals__))
    assert len({get(globals_of.options(name=f"call {number}").remote()) for number in range(20)}) == 1
    with pytest.raises(TaskError, match="first call"):
        get(fail.options(name="first call").remote(ValueError("told")))
    keeper: Any = ray.remote(Keeper).remote()
    with pytest.raises(TaskError, match="second call"):
        get(keeper.fail.options(name="second call").remote())
    assert get([keeper.name.options(name="third").remote(), keeper.name.remote()]) == ["third", "Keeper.name"]


def test_resources_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.shutdown()
    ray.init(num_cpus=4, num_gpus=2, resources={"oven": 2})

    @ray.remote
    def facts(bell: Bell | None = None) -> Any:
        if bell is not None:
            bell.wait()
        ids = ray.get_gpu_ids()
        resources = ray.get_runtime_context().get_assigned_resources()
        return ids, os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"], resources

    assert get(facts.remote()) == ([], "", "1", {"CPU": 1})
    oven = facts.options(num_cpus=3.5, resources={"oven": 0.5})
    assert get(oven.remote()) == ([], "", "3", {"CPU": 3.5, "oven": 0.5})
    assert get(facts.options(num_gpus=2).remote()) == ([0, 1], "0,1", "1", {"CPU": 1, "GPU": 2})
    assert get(facts.options(memory=10**6, num_cpus=0).remote())[3] == {"memory": 10**6}
    with Bell() as bell:
        refs = [facts.options(num_gpus=0.5).remote(bell) for _ in range(4)]
        for _ in refs:
            bell.heard()
        blocked = facts.options(num_gpus=0.5, num_cpus=0).remote()
        assert ray.wait([blocked], timeout=0) == ([], [blocked])
        bell.let_go()
        used = [ids for ids, *_ in get(refs)]
        assert sorted(used) == [[0], [0], [1], [1]]
        assert get(blocked)[0] in ([0], [1])


def test_gpus_are_those_that_the_node_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, ,GPU-ab")
    ray.shutdown()
    ray.init(num_cpus=1, num_gpus=8)

    @ray.remote(num_gpus=2)
    def facts() -> Any:
        return ray.get_gpu_ids(), os.environ["CUDA_VISIBLE_DEVICES"]

    assert ray.cluster_resources()["GPU"] == 2
    assert get(facts.remote()) == ([5, "GPU-ab"], "5,GPU-ab")


@pytest.mark.parametrize("preset", ["", "3"])
def test_a_task_may_set_its_number_of_threads_for_itself(monkeypatch: pytest.MonkeyPatch, preset: str) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if preset:
        monkeypatch.setenv("OMP_NUM_THREADS", preset)
    ray.shutdown()
    ray.init(num_cpus=1)

    @ray.remote(num_cpus=1)
    def change(value: str | None, error: str = "") -> tuple[int, str]:
        before = os.environ["OMP_NUM_THREADS"]
        if value is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = value
        if error:
            raise ValueError(error)
        return os.getpid(), before

    told = []
    for value in ("7", None, "8"):
        told.append(get(change.remote(value)))
        with pytest.raises(ValueError, match="after"):
            get(change.remote(value, "after the change"))
    assert set(told) == {(told[0][0], preset or "1")}


def test_a_gpu_task_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.shutdown()
    ray.init(num_cpus=1, num_gpus=1)
    assert len({get(pid.options(num_gpus=1).remote()) for _ in range(3)}) == 3
    assert len({get(pid.remote()) for _ in range(3)}) == 1


def test_workers_are_the_first_to_go_when_memory_runs_out() -> None:
    score = Path("/proc/self/oom_score_adj")
    ours = score.read_text()
    assert get(ray.remote(score.read_text).remote()) == "1000\n"
    assert score.read_text() == ours


def test_max_calls() -> None:
    @ray.remote(max_calls=2, max_retries=0)
    def whoami() -> int:
        return os.getpid()

    pids = get([whoami.remote() for _ in range(10)])
    assert max(pids.count(each) for each in pids) <= 2
    with pytest.raises(ValueError, match=r"max_calls' is not supported in '\.options"):
        whoami.options(max_calls=3)  # type: ignore[call-overload]


def test_a_shape_that_cannot_be_served_blocks_no_other(bell: Bell) -> None:
    stuck = add.options(num_cpus=64).remote(1, 1)
    missing = add.options(resources={"nowhere": 1}).remote(1, 1)

    @ray.remote(num_cpus=2)
    def both(bell: Bell) -> None:
        bell.wait()

    ref = both.remote(bell)
    bell.heard()
    assert get(add.options(num_cpus=0).remote(1, 1)) == 2
    waiting = [add.remote(1, 1), both.remote(bell)]
    bell.let_go()
    get(ref)
    # Which of the two runs first depends on how long the first call of ``both`` took: its lease may have time left.
    bell.heard()
    bell.let_go()
    assert get(waiting) == [2, None]
    assert ray.wait([stuck, missing], timeout=0)[0] == []


def test_the_runtime_context_of_a_task_and_its_threads() -> None:
    @ray.remote
    def facts() -> Any:
        context = ray.get_runtime_context()
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(context.get_task_id()))
        thread.start()
        thread.join()
        assert found == [context.get_task_id()]
        return context.get(), context.get_task_name(), context.get_task_function_name(), context.get_actor_id()

    ref = facts.remote()
    ids, name, function, actor = get(ref)
    here = ray.get_runtime_context()
    assert ids["task_id"] == ref.task_id().hex()
    assert ids["job_id"] == here.get_job_id() == ref.job_id().hex()
    assert ids["node_id"] == here.get_node_id()
    assert ids["namespace"] == here.namespace
    assert name == "facts"
    assert function.endswith("test_the_runtime_context_of_a_task_and_its_threads.<locals>.facts")
    assert actor is None
    assert here.get_task_id() is None
    assert here.get_actor_id() is None
    assert "task_id" not in here.get()
    assert ray.get_gpu_ids() == []
    assert here.get_assigned_resources() == {}


@pytest.mark.usefixtures("one_cpu")
def test_threads_of_a_task_beside_a_waiting_one_are_its_own() -> None:
    def told() -> tuple[str | None, str | None]:
        context = ray.get_runtime_context()
        return context.get_task_id(), context.get_task_name()

    @ray.remote
    def in_thread() -> Any:
        found: list[Any] = [told(), threading.current_thread() is threading.main_thread()]

        def look() -> None:
            found.append(ray.get(add.remote(1, 1)))
            found.append(told())

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        return found

    @ray.remote
    def below(depth: int) -> Any:
        return ray.get(below.remote(depth - 1) if depth else in_thread.remote())

    here, on_main_thread, value, there = get(below.remote(16))  # further down than workers may block
    assert not on_main_thread
    assert value == 2
    assert here[1] == "in_thread"
    assert there == here


# Retries --------------------------------------------------------------------------------------------------------------


def attempts(path: Path) -> int:
    """Counts the runs of a task that has called this."""
    with path.open("a") as file:
        file.write("x")
    return path.stat().st_size


@pytest.mark.parametrize(("retries", "runs"), [(0, 1), (2, 3), (-1, 5)])
def test_retries_after_the_death_of_the_worker(tmp_path: Path, retries: int, runs: int) -> None:
    @ray.remote(max_retries=retries)
    def die(path: Path) -> int:
        count = attempts(path)
        if count < 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    if retries < 0:
        assert get(die.remote(tmp_path / "runs")) == runs
    else:
        with pytest.raises(WorkerCrashedError, match="die"):
            get(die.remote(tmp_path / "runs"))
    assert (tmp_path / "runs").stat().st_size == runs


def test_retries_after_exceptions(tmp_path: Path) -> None:
    class Special(ValueError):
        pass

    @ray.remote(max_retries=3)
    def stumble(path: Path, error: Exception, times: int) -> int:
        count = attempts(path)
        if count <= times:
            raise error
        return count

    cases: list[tuple[Any, Exception, int, int | None]] = [
        (False, ValueError("no"), 1, None),
        (True, ValueError("no"), 2, 3),
        ([KeyError, ValueError], Special("no"), 3, 4),
        ((KeyError,), ValueError("no"), 1, None),
        (True, ValueError("no"), 9, None),
    ]
    for i, (retry_on, error, times, result) in enumerate(cases):
        ref = stumble.options(retry_exceptions=retry_on).remote(tmp_path / str(i), error, times)
        if result is None:
            with pytest.raises(ValueError, match="no"):
                get(ref)
        else:
            assert get(ref) == result
    assert (tmp_path / "0").stat().st_size == 1
    assert (tmp_path / "4").stat().st_size == 4


def test_work_behind_a_dying_task_is_not_lost() -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    get([add.remote(i, 1) for i in range(100)])  # known to be short: several are sent ahead to each worker
    refs: list[Any] = []
    for i in range(10):
        refs += [die.remote(), *(add.remote(j, i) for j in range(20))]
    for i in range(10):
        with pytest.raises(WorkerCrashedError, match="exit code 1"):
            get(refs[21 * i])
        assert get(refs[21 * i + 1 : 21 * i + 21]) == [i + j for j in range(20)]


# Errors ---------------------------------------------------------------------------------------------------------------


class Picky(Exception):
    """Pickles well and does not load: pickle calls the constructor with ``args`` alone."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("never")


def test_errors_are_caught_by_their_own_class_with_the_remote_traceback() -> None:
    @ray.remote
    def outer() -> Any:
        try:
            return ray.get(fail.remote(KeyError("inner")))
        except KeyError as error:
            raise ValueError("outer") from error

    with pytest.raises(ValueError, match="outer") as caught:
        get(outer.remote())
    error: Any = caught.value
    assert isinstance(error, TaskError)
    assert isinstance(error.__cause__, KeyError)
    assert "in outer" in str(error)
    assert "in fail" in str(error)
    assert "direct cause of the following" in str(error)
    assert repr(error).startswith("RayTaskError(ValueError)")

    with pytest.raises(Picky) as picky:
        get(raises_picky.remote())
    assert picky.value.code == 5

    @ray.remote
    def unpicklable() -> None:
        raise Unpicklable("a text that stays")

    with pytest.raises(TaskError, match="a text that stays"):
        get(unpicklable.remote())
    with pytest.raises(ExceptionGroup) as group:
        get(fail.remote(ExceptionGroup("two", [ValueError(1), KeyError(2)])))
    assert [type(each) for each in group.value.exceptions] == [ValueError, KeyError]
    for odd in (StopIteration(1), asyncio.CancelledError(), GeneratorExit()):
        with pytest.raises(TaskError):
            get(fail.remote(odd))


@ray.remote
def raises_picky() -> None:
    raise Picky(5, reason="so")


class Carrier(Exception):
    def __init__(self, ref: Any) -> None:
        super().__init__(ref)
        self.ref = ref


def test_an_error_may_carry_refs_and_be_a_value() -> None:
    @ray.remote
    def carry() -> None:
        raise Carrier(ray.put("inside"))

    first = carry.remote()
    dependent = add.remote(first, 1)
    with pytest.raises(Carrier):
        get(first)
    del first
    with pytest.raises(Carrier) as carrier:
        get(dependent)
    del dependent
    assert get(carrier.value.ref) == "inside"

    @ray.remote
    def hand_on() -> Any:
        try:
            return ray.get(raises_picky.remote())
        except Picky as error:
            return error

    picky = get(hand_on.remote())
    assert isinstance(picky, Picky)
    assert isinstance(picky, TaskError)
    assert picky.code == 5


class Measured(Exception):
    """Holds an array."""


class Placed(OSError):
    """With a constructor that pickle does not know to call."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(code, f"at {where}")
        self.where = where


def test_errors_hold_what_they_like_and_travel_on() -> None:
    with pytest.raises(Measured) as measured:
        get(fail.remote(Measured("bad", np.arange(3))))
    assert measured.value.args[1].tolist() == [0, 1, 2]

    @ray.remote
    def raises() -> None:
        raise Placed(5, where="here")

    @ray.remote
    def describe(error: Any) -> Any:
        return isinstance(error, Placed), error.where, error.errno, str(error.cause)

    with pytest.raises(Placed) as placed:
        get(raises.remote())
    assert get(describe.remote(placed.value)) == (True, "here", 5, "[Errno 5] at here")


@pytest.mark.usefixtures("one_cpu")
def test_a_thread_of_an_earlier_attempt_does_not_take_the_cpu_of_the_next(bell: Bell, tmp_path: Path) -> None:
    """1. An attempt fails, a thread of it waits on. 2. The next one waits. 3. The thread goes on, the next one not."""

    @ray.remote
    def wait_for_bell(bell: Bell, text: str, behind: Any = None) -> None:
        bell.wait(text)

    def wait_on(bell: Bell, first: list[Any]) -> None:
        ray.get(first[0])
        bell.ring("thread goes on")

    @ray.remote(retry_exceptions=True)
    def stubborn(path: Path, bell: Bell, first: list[Any]) -> Any:
        if attempts(path) == 1:
            threading.Thread(target=wait_on, args=(bell, first)).start()
            raise ValueError
        one = wait_for_bell.remote(bell, "one")
        return ray.get(wait_for_bell.remote(bell, "two", one))

    first = wait_for_bell.options(num_cpus=0).remote(bell, "first")
    assert bell.heard() == "first"
    ref = stubborn.remote(tmp_path / "runs", bell, [first])
    assert bell.heard() == "one"
    held = bell.take_waiting()
    bell.let_go(held[:1])
    assert bell.heard() == "thread goes on"
    bell.let_go(held[1:])
    assert bell.heard() == "two"
    bell.let_go()
    assert get(ref) is None


def test_an_error_goes_to_all_that_depend_on_it() -> None:
    bad = fail.remote(ZeroDivisionError("first"))
    refs = [add.remote(bad, 1), add.remote(1, b=add.remote(bad, 2)), *echo.options(num_returns=2).remote(x=bad)]
    for ref in refs:
        with pytest.raises(ZeroDivisionError, match="first"):
            get(ref)
    (inside,), _ = get(echo.remote([bad]))
    with pytest.raises(ZeroDivisionError, match="first"):
        get(inside[0])


def test_leaving_and_interrupting_are_no_results() -> None:
    with pytest.raises(TaskCancelledError, match="was cancelled"):
        get(fail.remote(KeyboardInterrupt()))
    with pytest.raises(WorkerCrashedError, match="exit code 7"):
        get(fail.options(max_retries=0).remote(SystemExit(7)))
    assert get(add.remote(1, 1)) == 2


def test_a_list_fails_as_soon_as_one_has_failed(bell: Bell) -> None:
    @ray.remote
    def slow(bell: Bell) -> None:
        bell.wait()

    waiting = slow.remote(bell)
    bell.heard()
    with pytest.raises(ValueError, match="early"):
        get([waiting, fail.remote(ValueError("early"))])
    bell.let_go()
    get(waiting)


# Waiting --------------------------------------------------------------------------------------------------------------


def test_wait(bell: Bell) -> None:
    @ray.remote
    def slow(bell: Bell) -> None:
        bell.wait()

    slow_ref = slow.remote(bell)
    bell.heard()
    quick = [add.remote(i, 0) for i in range(5)]
    get(quick)
    refs = [quick[0], slow_ref, *quick[1:], fail.remote(ValueError())]
    ready, rest = ray.wait(refs, num_returns=6)
    assert ready == [quick[0], *quick[1:], refs[-1]]
    assert rest == [slow_ref]
    assert ray.wait(refs) == ([quick[0]], refs[1:])
    assert ray.wait(refs[1:3], num_returns=1) == ([quick[1]], [slow_ref])
    assert ray.wait([slow_ref], timeout=0) == ([], [slow_ref])
    assert ray.wait([slow_ref], timeout=0.01) == ([], [slow_ref])
    assert ray.wait(refs, num_returns=7, timeout=0.01) == (ready, rest)
    assert ray.wait([]) == ([], [])
    bell.let_go()
    assert ray.wait([slow_ref]) == ([slow_ref], [])


def test_wait_and_get_refuse_nonsense() -> None:
    ref: Any = add.remote(1, 2)
    other = add.remote(1, 2)
    bad: Any
    for bad in (ref, {ref}, (ref,), [ref, 1], [None]):
        with pytest.raises(TypeError):
            ray.wait(bad)
    for refs, number in (([ref, ref], 1), ([ref], 0), ([ref], 2), ([ref, other], -1)):
        with pytest.raises(ValueError):
            ray.wait(refs, num_returns=number)
    for bad in (1, None, "x", [ref, 1], {ref: 1}):
        with pytest.raises(ValueError, match="Invalid type of object refs"):
            ray.get(bad)
    for timeout in (-1, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            ray.get(ref, timeout=timeout)
    assert ray.get([]) == []
    assert ray.get([ref, other, ref], timeout=float("inf")) == [3, 3, 3]


def test_get_with_a_timeout(bell: Bell) -> None:
    @ray.remote
    def slow(bell: Bell) -> int:
        bell.wait()
        return 5

    ref = slow.remote(bell)
    bell.heard()
    for timeout in (0, 0.01):
        with pytest.raises(GetTimeoutError, match="1 of 2 objects"):
            ray.get([ref, ray.put(1)], timeout=timeout)
    with pytest.raises(TimeoutError):
        ray.get(ref, timeout=0)
    bell.let_go()
    assert get(ref) == 5
    assert ray.get(ref, timeout=0) == 5


def test_looking_at_a_borrowed_ref_asks_whose_it_is() -> None:
    @ray.remote
    def look(refs: list[Any]) -> Any:
        ready, rest = ray.wait(refs, timeout=0)
        return len(ready), len(rest), ray.get(refs[0], timeout=0)

    there = add.remote(1, 2)
    never = add.options(resources={"nowhere": 1}).remote(1, 1)
    ray.wait([there])
    assert get(look.remote([there, never])) == (1, 1, 3)


def test_get_from_many_threads_at_once() -> None:
    shared = [add.remote(i, 1) for i in range(50)]
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i in range(30):
                assert ray.get(shared[i]) == i + 1
                assert ray.get(add.remote(i, number)) == i + number
            assert ray.get(shared) == list(range(1, 51))
            assert len(ray.wait(shared, num_returns=50)[0]) == 50
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_threads_may_define_and_export_at_the_same_moment() -> None:
    functions: list[Callable[[], Any]] = []
    for n in range(40):

        @ray.remote
        def f(n: int = n) -> int:
            return n

        functions.append(f.remote)
    barrier = threading.Barrier(8)
    found: dict[int, list[int]] = {}

    def work(number: int) -> None:
        barrier.wait()
        found[number] = ray.get([functions[(number * 5 + i) % 40]() for i in range(40)])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [(number * 5 + i) % 40 for i in range(40)] for number in range(8)}


# Sessions -------------------------------------------------------------------------------------------------------------


def test_ten_sessions_with_functions_from_before() -> None:
    old = add.remote(1, 1)
    get(old)
    for i in range(10):
        ray.shutdown()
        assert not ray.is_initialized()
        ray.init(num_cpus=1)
        assert get(add.remote(i, 1)) == i + 1


def test_refs_of_an_earlier_session() -> None:
    old = add.remote(1, 1)
    get(old)
    ray.shutdown()
    ray.init(num_cpus=1)
    new = ray.put(1)

    async def wait_for(ref: Any) -> Any:
        return await ref

    log = Log.remote()
    uses: list[Callable[[Any], object]] = [
        ray.get, lambda ref: ray.get([new, ref]), lambda ref: ray.wait([ref]), lambda ref: ray.wait([new, ref]),
        ray.cancel, lambda ref: ref.future(), lambda ref: asyncio.run(wait_for(ref)),
        lambda ref: asyncio.run(asyncray.get([ref])), lambda ref: asyncio.run(asyncray.wait([ref])),
        lambda ref: add.remote(ref, 1), lambda ref: add.remote(new, b=ref), Log.remote,
        Log.options(name="named").remote, log.add.remote,
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(OwnerDiedError, match="belongs to another session") as caught:
            use(old)
        assert caught.value.object_id == old.hex()
    assert get([add.remote(new, b=1), log.add.remote(new)]) == [2, 1]


def test_the_first_use_starts_a_node() -> None:
    nonsense: Any = 1
    ref = add.remote(1, 1)
    ray.shutdown()
    with pytest.raises(OwnerDiedError, match="belongs to another session"):
        ray.get(ref)
    assert not ray.is_initialized()
    ray.set_auto_init(False)
    try:
        uses: list[Callable[[], object]] = [
            lambda: add.remote(1, 1), lambda: ray.put(1), lambda: ray.get(ref), lambda: ray.wait([ref]),
            lambda: ray.cancel(ref), ray.get_gpu_ids, ray.nodes, lambda: ray.get_actor("x"), lambda: ray.get([]),
            lambda: ray.get(nonsense, timeout=-1), lambda: ray.put(ref), lambda: ray.wait([]),
            lambda: ray.wait(nonsense), lambda: ray.cancel(nonsense), lambda: ray.kill(nonsense),
            lambda: ray.get_actor(""), ref.future, lambda: asyncio.run(asyncray.get([])),
            lambda: asyncio.run(asyncray.wait([])), lambda: asyncio.run(asyncray.get_actor("")),
            lambda: asyncray.put(ref), ray.get_runtime_context,
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(NotStartedError, match=r"Ray has not been started yet\."):
                use()
    finally:
        ray.set_auto_init(True)
    assert (ray.get([]), ray.wait([])) == ([], ([], []))  # nothing is used, so nothing starts
    assert not ray.is_initialized()
    assert get(add.remote(1, 1)) == 2
    assert ray.is_initialized()


def test_time_of_a_blocked_get_is_not_lost() -> None:
    started = time.monotonic()
    never = add.options(resources={"nowhere": 1}).remote(1, 1)
    with pytest.raises(GetTimeoutError):
        ray.get(never, timeout=0.2)
    assert time.monotonic() - started >= 0.2
