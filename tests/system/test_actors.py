"""Actors as programs use them: making, calling, passing, options, errors, resources."""

from __future__ import annotations

import asyncio
import functools
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import asyncray.sync as ray
from asyncray.exceptions import (
    ActorClassInheritanceException,
    ActorDiedError,
    ActorError,
    ActorHandleNotFoundError,
    PendingCallsLimitExceeded,
    TaskError,
)
from asyncray.runtime.runtime import require
from tests.system import actors
from tests.system.actors import add_to, identity, until

pytestmark = pytest.mark.usefixtures("node")

Gate: Any = actors.Gate  # type checkers do not see what a decorator makes of a class
Log: Any = actors.Log


# Making and calling ---------------------------------------------------------------------------------------------------


def test_constructors_take_what_functions_take() -> None:
    ref = ray.put("there")
    log = Log.remote(1, ref, [ref], key=identity.remote("value"))
    first, there, nested, named = ray.get(log.all.remote())
    assert (first, there, named) == (1, "there", ("key", "value"))
    assert ray.get(nested) == ["there"]


def test_arguments_are_checked_when_they_are_given() -> None:
    class Strict:
        def __init__(self, x: int) -> None:
            self.x = x

        def m(self, y: int, *, z: int = 0) -> int:
            return self.x + y + z

        def odd(self, /, **self_and_all: Any) -> Any:
            return self_and_all

    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        ray.remote(Strict).remote()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        ray.remote(Strict).remote(1, 2)  # type: ignore[call-overload]
    strict: Any = ray.remote(Strict).remote(x=1)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
        strict.m.remote()
    with pytest.raises(TypeError, match="unexpected keyword argument 'q'"):
        strict.m.remote(1, q=2)
    assert ray.get(strict.m.remote(1, z=3)) == 5
    assert ray.get(strict.odd.remote(self=1, message=2, name=3, args=4)) == {
        "self": 1, "message": 2, "name": 3, "args": 4,
    }  # fmt: skip


def test_what_is_no_call_says_what_to_do() -> None:
    with pytest.raises(TypeError, match="cannot be instantiated directly"):
        Log()
    log = Log.remote()
    with pytest.raises(TypeError, match=r"try 'object.add.remote\(\)'"):
        log.add(1)
    with pytest.raises(AttributeError, match=r"'Log' has no method 'subtract'\. Attributes cannot"):
        log.subtract.remote(1)
    with pytest.raises(AttributeError, match=r"'Log' has no method 'ad'\. Did you mean 'add'\?"):
        log.ad.remote(1)
    with pytest.raises(
        ActorClassInheritanceException, match="Inheriting from actor classes is not currently supported"
    ):

        class Sub(actors.Log):
            pass

    with pytest.raises(ValueError, match="only supported for actors"):
        ray.kill("log")  # type: ignore[arg-type]
    assert {"add", "all", "pair", "twice", "__ray_ready__"} <= set(dir(log))


def test_the_class_stays_usable_through_its_name() -> None:
    assert (Log.kept, Log.twice(4)) == ("a class attribute", 8)
    local = Log.plain(1)
    assert local.add(2) == 2
    assert {"kept", "add", "twice", "plain", "remote", "options"} <= set(dir(Log))
    log = Log.remote()
    assert ray.get(log.twice.remote(5)) == 10
    assert ray.get(log.plain.remote(7)).all() == [7]


def test_methods_may_have_any_names() -> None:
    names = ["_id", "_life", "_pending", "_descriptor", "_check_pending", "_info", "_handle", "_class", "_options"]
    Named: Any = ray.remote(type("Named", (), {name: staticmethod(lambda name=name: name) for name in names}))
    handle = ray.get(identity.remote(Named.remote()))
    assert ray.get([getattr(handle, name).remote() for name in names]) == names
    assert [getattr(Named, name)() for name in names] == names


@pytest.mark.parametrize("kind", ["plain", "threaded", "async"])
def test_attributes_of_the_instance_do_not_hide_methods(kind: str) -> None:
    class Account:
        def __init__(self) -> None:
            vars(self).update(balance=5, currency="none", kind=3)

        def balance(self) -> Any:
            return self.balance

        @staticmethod
        def currency() -> str:
            return "pounds"

        @classmethod
        def kind(cls) -> str:
            return cls.__name__

        twice = functools.partialmethod(lambda self, factor: self.balance * factor, 2)

    class AsyncAccount(Account):
        async def nothing(self) -> None: ...

    cls = AsyncAccount if kind == "async" else Account
    account: Any = ray.remote(max_concurrency=2 if kind == "threaded" else None)(cls).remote()
    calls = [account.balance, account.currency, account.kind, account.twice, account.balance]
    assert ray.get([call.remote() for call in calls]) == [5, "pounds", cls.__name__, 10, 5]


def test_a_class_may_be_defined_again_and_inherit() -> None:
    class Base:
        def __init__(self) -> None:
            self.name = "base"

        def who(self) -> str:
            return self.name

    def version(number: int) -> Any:
        @ray.remote
        class Versioned(Base):
            def __init__(self) -> None:
                super().__init__()
                self.name += str(number)

            def again(self) -> Any:
                again: Any = Versioned
                return again.options(num_cpus=0).remote()

        made: Any = Versioned
        return made.remote()

    actors = [version(number) for number in range(3)]
    assert ray.get([actor.who.remote() for actor in actors]) == ["base0", "base1", "base2"]
    assert ray.get(ray.get(actors[1].again.remote()).who.remote()) == "base1"


def test_copies_with_options_make_what_the_first_call_has_sent() -> None:
    value = "first"

    class LocalClass:
        def told(self) -> str:
            return value

    Local: Any = ray.remote(LocalClass)
    early = Local.options(max_pending_calls=5)
    made = [Local.remote()]
    value = "later"
    made += [early.remote(), Local.options(num_cpus=0, max_task_retries=1).remote(), early.options(name="x").remote()]
    assert ray.get([actor.told.remote() for actor in made]) == ["first"] * 4
    # The class once, its constructor with three sets of options, its method with two.
    assert repr(require().submitter) == "<Submitter <Exports 6>>"
    limits = [actor._asyncray_descriptor.limit for actor in made]
    assert limits == [-1, 5, -1, 5]


def test_calls_of_one_caller_keep_their_order_behind_slow_arguments() -> None:
    gate, log = Gate.remote(), Log.remote()
    slow = gate.wait.remote("slow")
    refs = [log.add.remote(entry) for entry in (0, slow, 2, [slow], 4)]
    assert ray.get(add_to.remote(log, "another caller")) == 2  # is not held back by what ours waits for
    assert ray.wait(refs, num_returns=2, timeout=0)[0] == refs[:1]
    gate.open.remote()
    assert ray.get(refs) == [1, 3, 4, 5, 6]
    assert [e for e in ray.get(log.all.remote()) if not isinstance(e, list)] == [0, "another caller", "slow", 2, 4]


def test_a_failed_or_cancelled_argument_fails_its_call_only() -> None:
    gate, log = Gate.remote(), Log.remote()
    failing = log.fail.remote(ValueError("bad"))
    waiting = gate.wait.remote()
    refs = [log.add.remote(entry) for entry in (failing, waiting, 3)]
    ray.cancel(waiting)
    with pytest.raises(ValueError, match="bad"):
        ray.get(refs[0])
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(refs[1])
    assert ray.get(refs[2]) == 1


def test_many_threads_and_tasks_call_one_actor() -> None:
    log = Log.remote()

    def call(thread: int) -> list[int]:
        return ray.get([log.add.remote((thread, number)) for number in range(200)])

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(call, range(5)))
    ray.get([add_to.remote(log, ("task", number)) for number in range(20)])
    entries = ray.get(log.all.remote())
    assert len(entries) == 1020
    for thread in range(5):
        assert [number for who, number in entries if who == thread] == list(range(200))


def test_threads_may_be_the_first_to_use_each_of_many_methods() -> None:
    class Wide:
        pass

    for number in range(60):
        setattr(Wide, f"m{number}", eval(f"lambda self: {number}"))
    wide: Any = ray.remote(Wide).remote()

    def call(start: int) -> bool:
        numbers = range(start, 60, 6)
        return ray.get([getattr(wide, f"m{number}").remote() for number in numbers]) == list(numbers)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(6)))


# Options of methods ---------------------------------------------------------------------------------------------------


def test_numbers_of_returns() -> None:
    log = Log.remote()
    assert ray.get(log.pair.remote()) == ["left", "right"]
    assert ray.get(log.pair.options(num_returns=1).remote()) == ("left", "right")
    assert log.add.options(num_returns=0).remote(1) is None
    assert ray.get(log.all.remote()) == [1]
    for ref in log.pair.options(num_returns=3).remote():
        with pytest.raises(ValueError, match=r"num_returns=3 but returned 2 values"):
            ray.get(ref)
    with pytest.raises(ValueError, match="options by keyword"):
        ray.method()
    with pytest.raises(TypeError):
        ray.method("num_returns")  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="nonsense"):
        log.add.options(nonsense=1)


def test_options_do_not_get_mixed_up() -> None:
    log = Log.remote()
    for turn in range(50):  # method objects come and go at the same addresses
        assert len(log.give.options(num_returns=2, name=f"two{turn}").remote((1, 2))) == 2
        assert ray.get(log.twice.options(name=f"twice{turn}").remote(turn)) == 2 * turn


def test_retry_exceptions() -> None:
    class FlakyClass:
        def __init__(self) -> None:
            self.calls = 0

        def fail(self, times: int) -> int:
            self.calls += 1
            if self.calls <= times:
                raise KeyError(self.calls)
            return self.calls

        @ray.method(max_task_retries=1, retry_exceptions=[KeyError])
        def once(self, times: int) -> int:
            return self.fail(times)

    Flaky = ray.remote(max_task_retries=2)(FlakyClass)
    with pytest.raises(KeyError):
        ray.get(Flaky.remote().fail.remote(1))
    flaky = Flaky.remote()
    assert ray.get(flaky.fail.options(retry_exceptions=True).remote(2)) == 3
    assert ray.get(Flaky.remote().once.remote(1)) == 2
    with pytest.raises(KeyError):
        ray.get(Flaky.remote().once.remote(2))
    assert ray.get(Flaky.remote().once.options(max_task_retries=-1).remote(20)) == 21
    with pytest.raises(KeyError):
        ray.get(Flaky.remote().once.options(retry_exceptions=[ValueError]).remote(1))


def test_max_pending_calls() -> None:
    gate = Gate.remote()
    log = Log.options(max_pending_calls=3).remote()
    log.give.remote(gate.wait.remote())  # its ref is dropped, which ends nothing
    refs = [log.add.remote(number) for number in range(2)]
    with pytest.raises(PendingCallsLimitExceeded):
        log.add.remote(2)
    gate.open.remote()
    assert ray.get(refs) == [1, 2]
    for number in range(3, 30):
        assert ray.get(log.add.remote(number)) == number


def test_max_pending_calls_without_results() -> None:
    gate = Gate.remote()
    log = Log.options(max_pending_calls=2).remote()
    wait, lock = log.give.options(num_returns=0), log.__ray_call__.options(num_returns=0)
    assert wait.remote(gate.wait.remote()) is None
    assert lock.remote(lambda self: threading.Lock()) is None  # no result, so no matter what it is
    for method in (log.all, log.pair, log.all.options(num_returns=0)):
        with pytest.raises(PendingCallsLimitExceeded, match="has 2 pending calls; max_pending_calls is 2"):
            method.remote()
    another = ray.get(identity.remote(log))
    behind = another.all.remote()  # the limit is of a handle
    gate.open.remote()
    assert ray.get(behind) == []
    for _ in range(5):
        assert wait.remote(1) is None
        ray.get(log.pair.remote())


def test_built_in_methods() -> None:
    log = Log.remote(1)
    assert ray.get(log.__ray_ready__.remote()) is True
    extra = np.arange(3)
    result = ray.get(
        log.__ray_call__.remote(lambda self, x, *, function: (self.entries, x.sum(), function), extra, function=4)
    )
    assert result == ([1], 3, 4)
    before = log.add.remote(2)
    end, after = log.__ray_terminate__.remote(), log.add.remote(3)
    assert ray.get(before) == 2
    for ref in (end, after, log.add.remote(4)):
        with pytest.raises(ActorDiedError, match="__ray_terminate__"):
            ray.get(ref)


# Handles --------------------------------------------------------------------------------------------------------------


def test_handles_travel() -> None:
    log, other = Log.remote(), Log.remote()
    copies = [
        ray.get(identity.remote(log)),
        ray.get(identity.remote({"deep": [(log,)]}))["deep"][0][0],
        ray.get(ray.put(log)),
        ray.get(other.give.remote([log]))[0],
        pickle.loads(pickle.dumps(log)),
    ]
    for number, copy in enumerate(copies, 1):
        assert copy == log
        assert hash(copy) == hash(log)
        assert copy != other
        assert ray.get(copy.add.remote(number)) == number
    assert len({log, *copies, other}) == 2
    assert log._actor_id.hex() == log._ray_actor_id.hex() == copies[0]._actor_id.hex()
    assert repr(log) == f"Actor(Log, {log._actor_id.hex()})"


def test_a_handle_inside_a_value_keeps_the_actor_alive() -> None:
    @ray.remote
    def make() -> list[Any]:
        log = Log.remote("made in a task")
        return [log, ray.get(log.pid.remote())]

    boxes = ray.put([Log.remote("boxed")])
    held = Log.remote(Log.remote("held by an actor"))
    assert ray.get(ray.get(boxes)[0].all.remote()) == ["boxed"]
    assert ray.get(ray.get(held.all.remote())[0].all.remote()) == ["held by an actor"]
    made, pid = ray.get(make.remote())
    assert ray.get(made.pid.remote()) == pid


def test_handles_and_classes_of_an_earlier_session() -> None:
    old = Log.remote()
    assert ray.get(old.add.remote(1)) == 1
    ray.shutdown()
    ray.init(num_cpus=1)
    log = Log.remote("new")
    assert ray.get([log.add.remote(1), log.pair.remote()[0]]) == [2, "left"]
    with pytest.raises(ActorDiedError, match="belongs to another session"):
        ray.get(old.add.remote(2))
    with pytest.raises(ActorHandleNotFoundError, match="not valid across Ray sessions") as caught:
        ray.kill(old)
    assert isinstance(caught.value, ValueError)
    ray.kill(log)


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "threaded", "async"])
def test_a_failing_constructor(kind: str) -> None:
    class Broken:
        def __init__(self) -> None:
            self.fails_here()

        def fails_here(self) -> None:
            raise ZeroDivisionError("no luck")

        def m(self) -> None:
            pass

    class Looped(Broken):
        async def n(self) -> None:
            pass

    threads = 3 if kind == "threaded" else None
    broken: Any = ray.remote(max_concurrency=threads)(Looped if kind == "async" else Broken).remote()
    early, ready = broken.m.remote(), broken.__ray_ready__.remote()
    for ref in (early, ready):
        with pytest.raises(ActorDiedError, match="because of an error raised in its creation task"):
            ray.get(ref)
    for ref in (broken.m.remote(), early):
        with pytest.raises(ActorError, match="no luck") as again:
            ray.get(ref)
        assert "in fails_here" in str(again.value)
        assert "hosting.py" not in str(again.value)
        assert again.value.actor_id == broken._actor_id.hex()


@pytest.mark.parametrize("kind", ["sync", "threaded", "async"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, asyncio.CancelledError, GeneratorExit])
def test_what_else_a_constructor_may_raise(kind: str, error: type[BaseException]) -> None:
    class Interrupted:
        def __init__(self) -> None:
            raise error("this late")

        def m(self) -> None:
            pass

    class Looped(Interrupted):
        async def n(self) -> None:
            pass

    threads = 3 if kind == "threaded" else None
    broken: Any = ray.remote(max_concurrency=threads)(Looped if kind == "async" else Interrupted).remote()
    with pytest.raises(ActorDiedError, match="because of an error raised in its creation task") as caught:
        ray.get(broken.m.remote())
    assert "in __init__" in str(caught.value)
    assert f"{error.__name__}: this late" in str(caught.value)


def test_a_constructor_whose_argument_fails_or_cannot_be_unpickled() -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return int, ("not a number",)

    log = Log.remote()
    for argument in (log.fail.remote(ValueError("bad argument")), Trap()):
        with pytest.raises(ActorDiedError, match=r"bad argument|not a number"):
            ray.get(Log.remote(argument).all.remote())
    for concurrency in (1, 3):
        with pytest.raises(TaskError, match="not a number"):
            ray.get(Log.options(max_concurrency=concurrency).remote().add.remote(Trap()))


def test_errors_of_methods_leave_the_actor_alone() -> None:
    log = Log.remote()
    with pytest.raises(ValueError, match="mine") as caught:
        ray.get(log.fail.remote(ValueError("mine")))
    assert isinstance(caught.value, TaskError)
    assert "Log.fail()" in str(caught.value)
    assert f"pid={ray.get(log.pid.remote())}" in str(caught.value)
    with pytest.raises(TaskError, match="cannot be pickled"):
        ray.get(log.__ray_call__.remote(lambda self: threading.Lock()))
    with pytest.raises(ExceptionGroup) as group:
        ray.get(log.fail.remote(ExceptionGroup("several", [KeyError(1)])))
    assert isinstance(group.value.exceptions[0], KeyError)
    with pytest.raises(AttributeError, match="nowhere"):
        ray.get(log.__ray_call__.remote(lambda self: self.nowhere))
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(log.fail.remote(KeyboardInterrupt()))
    assert ray.get(log.add.remote(1)) == 1


# Abilities of actors --------------------------------------------------------------------------------------------------


def test_actors_make_actors_and_tasks() -> None:
    class Boss:
        def __init__(self, depth: int) -> None:
            self.below: Any = ray.remote(Boss).remote(depth - 1) if depth else None

        def work(self) -> int:
            refs: list[Any] = [identity.remote(1) for _ in range(5)]
            if self.below is not None:
                refs.append(self.below.work.remote())
            return sum(ray.get(refs))

    assert ray.get(ray.remote(Boss).remote(3).work.remote()) == 20


def test_an_actor_that_waits_lends_its_cpu() -> None:
    class Greedy:
        def __init__(self) -> None:
            self.value: str = ray.get(identity.remote("got in the constructor"))

        def get(self) -> Any:
            return ray.get([identity.remote(i) for i in range(4)])

        def value_of(self) -> str:
            return self.value

    class GreedyLoop:
        async def get(self) -> Any:
            return ray.get(identity.remote("in a coroutine"))

    greedy = ray.remote(num_cpus=2)(Greedy).remote()
    assert ray.get(greedy.value_of.remote()) == "got in the constructor"
    assert ray.get(greedy.get.remote()) == [0, 1, 2, 3]
    ray.kill(greedy)
    assert ray.get(ray.remote(num_cpus=2)(GreedyLoop).remote().get.remote()) == "in a coroutine"


def test_the_runtime_context_of_an_actor() -> None:
    class AsksClass:
        def __init__(self) -> None:
            self.at_start = ray.get_runtime_context().get()
            self.constructor = ray.get_runtime_context().get_task_function_name()

        def ask(self) -> dict[str, Any]:
            here = ray.get_runtime_context()
            other = {}
            thread = threading.Thread(target=lambda: other.update(ray.get_runtime_context().get()))
            thread.start()
            thread.join()
            assert other == here.get()
            return {
                **here.get(),
                "name": here.get_actor_name(),
                "task": here.get_task_name(),
                "functions": (here.get_task_function_name(), self.constructor),
                "me": here.current_actor,
                "again": here.was_current_actor_reconstructed,
                "resources": here.get_assigned_resources(),
                "at_start": self.at_start,
            }

    Asks: Any = ray.remote(AsksClass)
    asks = Asks.options(name="asker").remote()
    ref = asks.ask.remote()
    told = ray.get(ref)
    here = ray.get_runtime_context()
    assert told["actor_id"] == told["at_start"]["actor_id"] == asks._actor_id.hex()
    assert told["task_id"] == ref.task_id().hex()
    assert (told["job_id"], told["node_id"]) == (here.get_job_id(), here.get_node_id())
    assert asks._actor_id.job_id.hex() == here.get_job_id()
    assert (told["name"], told["task"], told["me"]) == ("asker", "AsksClass.ask", asks)
    path = f"{__name__}.{AsksClass.__qualname__}"
    assert told["functions"] == (f"{path}.ask", f"{path}.__init__")
    assert (told["again"], told["resources"]) == (False, {})
    assert ray.get(asks.ask.options(name="my task").remote())["task"] == "my task"
    plain = Asks.options(num_cpus=0.5).remote()
    assert ray.get(plain.ask.remote())["name"] == ""
    assert ray.get(plain.ask.remote())["resources"] == {"CPU": 0.5}
    assert (here.get_actor_id(), here.get_actor_name()) == (None, None)
    with pytest.raises(RuntimeError):
        _ = here.current_actor


def test_one_megabyte_both_ways() -> None:
    log = Log.remote(np.ones(131072))
    array = np.arange(131072)
    back = ray.get([log.give.remote(array) for _ in range(20)])
    assert all((one == array).all() and not one.flags.writeable for one in back)
    assert ray.get(log.add.remote(b"x" * 1_000_000)) == 2
    ones, text = ray.get(log.all.remote())
    assert (ones.sum(), len(text)) == (131072, 1_000_000)
    named = Log.options(name="large").remote(np.ones(131072), [ray.put(array)])
    assert ray.get(named.all.remote())[0].sum() == 131072


def test_output_is_marked_with_the_actor(capfd: pytest.CaptureFixture[str]) -> None:
    class Base:
        def __repr__(self) -> str:
            return f"Named({getattr(self, 'name', '?')})"

        def say(self, text: str) -> int:
            print(text)
            return os.getpid()

    class Named(Base):
        def __init__(self, name: str) -> None:
            self.name = name

    class Plain:
        def say(self, text: str) -> int:
            print(text)
            return os.getpid()

    class Shy(Base):
        def __repr__(self) -> str:
            raise ValueError("no name")

    actors: list[Any] = [ray.remote(Named).remote("ann"), ray.remote(Plain).remote(), ray.remote(Shy).remote()]
    pids = ray.get([actor.say.remote(f"text {number}") for number, actor in enumerate(actors)])
    with pytest.raises(TaskError, match=r"repr=Named\(ann\)"):
        ray.get(actors[0].__ray_call__.remote(lambda self: 1 / 0))
    ray.shutdown()
    out = capfd.readouterr().out
    for line in (f"(Named(ann) pid={pids[0]}) text 0", f"(Plain pid={pids[1]}) text 1", f"(Shy pid={pids[2]}) text 2"):
        assert line in out


# Resources ------------------------------------------------------------------------------------------------------------


def test_default_actors_need_a_cpu_to_be_placed_and_none_to_live() -> None:
    logs = [Log.remote(number) for number in range(8)]
    assert [ray.get(log.all.remote()) for log in logs] == [[number] for number in range(8)]
    until(lambda: ray.available_resources().get("CPU") == 2)
    whole = Log.options(num_cpus=2).remote()
    ray.get(whole.__ray_ready__.remote())
    assert "CPU" not in ray.available_resources()
    late = Log.remote()
    ready = late.__ray_ready__.remote()
    assert ray.wait([ready], timeout=0)[0] == []
    ray.kill(whole)
    assert ray.get(ready) is True
    until(lambda: ray.available_resources().get("CPU") == 2)


def test_none_on_a_node_without_cpus() -> None:
    ray.shutdown()
    ray.init(num_cpus=0, resources={"thing": 1})
    stuck, free = Log.remote(), Log.options(num_cpus=0, resources={"thing": 1}).remote("free")
    assert ray.get(free.all.remote()) == ["free"]
    waiting = stuck.all.remote()
    assert ray.wait([waiting], timeout=0)[0] == []
    ray.kill(stuck)
    with pytest.raises(ActorDiedError, match=r"it was killed by `ray\.kill`"):
        ray.get(waiting)


def test_fifty_actors_made_and_dropped() -> None:
    pids = ray.get([Log.remote().pid.remote() for _ in range(50)])
    assert len(set(pids)) == 50
    logs = [Log.remote() for _ in range(50)]
    del logs  # before they are placed, most of them
    until(lambda: ray.available_resources().get("CPU") == 2)
    assert ray.get(Log.remote().add.remote(1)) == 1
