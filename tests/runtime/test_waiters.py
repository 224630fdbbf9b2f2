"""Threads and callbacks that wait for objects: registering, firing once, withdrawing."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from asyncray.exceptions import LocalNodeDiedError
from asyncray.messages import FAULT, PLAIN
from asyncray.runtime.references import LocalObject, References
from asyncray.runtime.waiters import IoThreadCallback, LoopCallback, LoopWaiter, ThreadWaiter, Waiters
from tests.points import at_point


def new_objects(count: int) -> list[LocalObject]:
    references = References(lambda: None)
    return [LocalObject(bytes([number]), references) for number in range(count)]


def resolve(waiters: Waiters, *objects: LocalObject, kind: int = PLAIN) -> None:
    waiters.resolved([(local, kind, b"") for local in objects])


def callback(loop: Any, function: object, withdrawn: Callable[[], None] = lambda: None) -> LoopCallback:
    return LoopCallback(loop, function, lambda: None, withdrawn)


def test_a_waiter_fires_when_enough_objects_came() -> None:
    waiters, objects = Waiters(), new_objects(3)
    waiter = ThreadWaiter(2)
    assert waiters.register(waiter, objects)
    resolve(waiters, objects[2])
    assert not waiter.wait(0)
    resolve(waiters, objects[0])
    assert waiter.wait(0)
    assert not waiters.has_waiters()
    waiters.withdraw(waiter, objects)
    assert [local.waiters for local in objects] == [None] * 3


def test_objects_that_are_there_count_and_the_same_one_counts_twice() -> None:
    waiters, (there, late) = Waiters(), new_objects(2)
    resolve(waiters, there)
    assert not waiters.register(ThreadWaiter(1), (there, late))
    waiter, other = ThreadWaiter(3), ThreadWaiter(1)
    assert waiters.register(waiter, (late, there, late))
    assert waiters.register(other, (late,))
    resolve(waiters, late)
    assert waiter.fired
    assert other.fired


def test_an_error_is_enough_for_a_waiter_that_fails_fast() -> None:
    waiters, objects = Waiters(), new_objects(2)
    patient, hasty = ThreadWaiter(2), ThreadWaiter(2, fails_fast=True)
    assert waiters.register(patient, objects)
    assert waiters.register(hasty, objects)
    resolve(waiters, objects[0], kind=FAULT)
    assert (patient.fired, hasty.fired) == (False, True)
    assert not waiters.register(ThreadWaiter(2, fails_fast=True), objects)
    assert waiters.satisfied(objects, 2, fails_fast=True)
    assert not waiters.satisfied(objects, 2)


def test_a_withdrawn_waiter_leaves_the_others() -> None:
    waiters, (local,) = Waiters(), new_objects(1)
    all_of_them = [ThreadWaiter(1) for _ in range(5)]
    for waiter in all_of_them:
        assert waiters.register(waiter, (local,))
    for waiter in all_of_them[:4]:
        waiters.withdraw(waiter, (local,))
    resolve(waiters, local)
    assert [waiter.fired for waiter in all_of_them] == [False] * 4 + [True]
    assert not waiters.has_waiters()


def test_the_end_wakes_everything_once() -> None:
    waiters, objects = Waiters(), new_objects(2)
    called: list[int] = []
    assert waiters.register(IoThreadCallback(lambda: called.append(1)), objects[:1])
    waiters.fail("it ended")
    resolve(waiters, *objects)
    waiters.fail("again")
    assert called == [1]
    assert not waiters.register(ThreadWaiter(1), objects[1:])
    with pytest.raises(LocalNodeDiedError, match="ended: again"):
        waiters.check_alive()


def test_the_end_of_a_session_is_not_called_the_death_of_its_node() -> None:
    waiters = Waiters()
    waiters.leaving = True
    waiters.check_alive()
    waiters.fail("the connection was closed")
    with pytest.raises(LocalNodeDiedError, match="has left its node by shutdown"):
        waiters.check_alive()


def test_functions_of_the_io_thread_run_outside_of_the_lock() -> None:
    waiters, (local,) = Waiters(), new_objects(1)
    held: list[bool] = []
    assert waiters.register(IoThreadCallback(lambda: held.append(waiters.held_by_this_thread())), (local,))
    resolve(waiters, local)
    assert held == [False]


def test_a_loop_gets_one_call_for_a_batch() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        waiters, objects = Waiters(), new_objects(10)
        loop_waiters = [LoopWaiter(1, loop) for _ in objects]
        for waiter, local in zip(loop_waiters, objects, strict=True):
            assert waiters.register(waiter, (local,))
        calls: list[Any] = []
        call_soon = loop.call_soon_threadsafe

        def count(*arguments: Any, **options: Any) -> Any:
            calls.append(arguments)
            return call_soon(*arguments, **options)

        loop.call_soon_threadsafe = count  # type: ignore[method-assign, assignment]
        thread = threading.Thread(target=resolve, args=(waiters, *objects))
        thread.start()
        thread.join()
        await asyncio.gather(*(waiter.future for waiter in loop_waiters))
        assert len(calls) == 1

    asyncio.run(main())


def test_a_closed_loop_disturbs_nobody() -> None:
    waiters, (local,) = Waiters(), new_objects(1)
    loop = asyncio.new_event_loop()
    assert waiters.register(LoopWaiter(1, loop), (local,))
    loop.close()
    waiter = ThreadWaiter(1)
    assert waiters.register(waiter, (local,))
    resolve(waiters, local)
    assert waiter.fired


# Callbacks ------------------------------------------------------------------------------------------------------------


class Owner:
    def method(self, ref: object) -> None: ...


class Equal:
    """A callable with an ``==`` of its own, and so without a hash."""

    compared: list[bool]

    def __init__(self, name: str, waiters: Waiters) -> None:
        self.name = name
        self.waiters = waiters

    def __call__(self, ref: object) -> None: ...

    def __eq__(self, other: object) -> bool:
        assert not self.waiters.held_by_this_thread()
        return isinstance(other, Equal) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]


def test_callbacks_are_found_by_what_is_equal() -> None:
    waiters, (one, two) = Waiters(), new_objects(2)
    owner, withdrawn = Owner(), []
    for function in (print, owner.method, owner.method, Owner().method, Equal("a", waiters), Equal("b", waiters)):
        assert waiters.register_callback(callback(None, function, lambda: withdrawn.append(1)), one)
    assert waiters.register_callback(callback(None, owner.method), two)
    assert waiters.remove_callback(one, owner.method) == 2
    assert waiters.remove_callback(one, Equal("b", waiters)) == 1
    assert waiters.remove_callback(one, Equal("b", waiters)) == 0
    assert waiters.remove_callback(one, print) == 1
    assert waiters.remove_callback(one, len) == 0
    assert len(withdrawn) == 4
    assert len(waiters._all) == 3


def test_a_callback_that_has_fired_is_not_taken_back() -> None:
    waiters, (local,) = Waiters(), new_objects(1)
    loop = asyncio.new_event_loop()
    assert waiters.register_callback(callback(loop, print), local)
    resolve(waiters, local)
    assert waiters.remove_callback(local, print) == 0
    assert not waiters.register_callback(callback(loop, print), local)
    assert waiters._callbacks == {}
    loop.close()


def test_the_removal_of_one_callback_looks_at_no_other() -> None:
    waiters, (local,) = Waiters(), new_objects(1)
    functions = [Owner().method for _ in range(1000)]
    for function in functions:
        assert waiters.register_callback(callback(None, function), local)
    assert all(len(same) == 1 for same in waiters._callbacks.values())
    assert sum(waiters.remove_callback(local, function) for function in functions) == 1000
    assert local.waiters is None
    assert waiters._callbacks == {}


def test_a_forked_child_ends_the_waits_of_its_thread_and_wakes_no_event_loop() -> None:
    """A thread that exists only in the parent holds the lock, and both processes share the pipe of the event loop."""
    waiters, (local,) = Waiters(), new_objects(1)
    waiter = ThreadWaiter(1)
    called: list[object] = []
    loop: Any = SimpleNamespace(call_soon_threadsafe=called.append)
    assert waiters.register(waiter, [local])
    assert waiters.register_callback(callback(loop, print), local)
    stayed = threading.Thread(target=waiters._lock.acquire)
    stayed.start()
    stayed.join()
    waiters.end_in_child()
    assert waiter.wait(0)
    assert not waiters.has_waiters()
    assert not called
    with pytest.raises(LocalNodeDiedError, match=r"^The session belongs to the process that this one was forked from"):
        waiters.check_alive()


def test_no_wait_begins_in_a_child_that_is_forked_while_its_waiter_is_registered() -> None:
    """The signal handler that forks may come at any point; nothing would ever end the wait."""

    def waits_after_a_fork_at(number: int) -> tuple[bool, bool]:
        waiters, (local,), waiter = Waiters(), new_objects(1), ThreadWaiter(1)
        results: list[bool] = []
        forked = at_point(number, waiters.end_in_child, lambda: results.append(waiters.register(waiter, [local])))
        return forked, results[0] and not waiter.fired

    found = list(itertools.takewhile(lambda found: found[0], map(waits_after_a_fork_at, itertools.count(1))))
    assert found == [(True, False)] * len(found)
    assert len(found) > 1
    assert waits_after_a_fork_at(0) == (True, True)
