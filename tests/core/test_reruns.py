"""Finished tasks that run again, because values that they returned are lost: objects go back to pending.

Nothing loses values on a lone node. The world here does, as the loss of another node would: of objects that only
waiting tasks depend on.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from random import Random
from typing import Any

import pytest

from asyncray.core.records import ObjectEntry, Task
from asyncray.core.states import FINISHED, WAITING
from asyncray.ids import return_id
from asyncray.messages import CANCEL, ERRORS, PLAIN, PUT, SHARED, UNPIN, UNRESOLVED
from tests.core.host import Host
from tests.core.processes import Driver
from tests.core.test_chaos import NODES, event
from tests.core.world import World


class Forgetful(World):
    """A world that keeps the arguments of finished functions and loses what these returned."""

    def __init__(self, **resources: float) -> None:
        self.kept: dict[bytes, Task] = {}
        self.homes: dict[bytes, Host] = {}  # by the ID of each task that a host has ever kept
        self.past: defaultdict[bytes, list[str]] = defaultdict(list)  # what objects were before they were lost
        super().__init__(**resources)

    def add_host(self, node_id: bytes, **resources: float) -> Host:
        host = super().add_host(node_id, **resources)
        host.machine.work.keep = partial(self.keep, host)
        return host

    def keep(self, host: Host, task: Task) -> bool:
        """While a return value of it exists, and could be made again."""
        self.homes[task.id] = host
        wanted = self._may_run_again(task)
        if wanted:
            self.kept[task.id] = task
        else:
            self.kept.pop(task.id, None)
        return wanted

    def _may_run_again(self, task: Task) -> bool:
        functional = task.actor is None and not task.cancelled and not task.template.job.driver_ended
        return functional and any(entry.kind not in ERRORS for entry in self.returns(task))

    def returns(self, task: Task) -> list[ObjectEntry]:
        table = self.homes[task.id].machine.objects.table
        ids = [return_id(task.id, index) for index in range(task.template.returns)]
        return [table[ref] for ref in ids if ref in table]

    def entry(self, ref: bytes) -> ObjectEntry:
        """The entry of an object on the first host."""
        return self.machine.objects.table[ref]

    def finished(self, host: Host) -> list[Task]:
        """The finished tasks that a host keeps."""
        return [task for task in self.kept.values() if task.state == FINISHED and self.homes[task.id] is host]

    def before_flush(self, host: Host) -> None:
        for task in self.finished(host):
            if not self._may_run_again(task):
                del self.kept[task.id]
                host.machine.work.let_go(task)
        host.machine.receive(host.tool, [])  # ends actors whose last handles were among the arguments

    def tasks_with_arguments(self, host: Host) -> list[Task]:
        return super().tasks_with_arguments(host) + self.finished(host)

    def agrees(self, ref: bytes, content: Any) -> None:
        if repr(content) not in self.past[ref]:
            super().agrees(ref, content)

    def losable(self, task: Task) -> list[ObjectEntry]:
        needed = {
            entry.id
            for other in self.homes[task.id].machine.work.tasks.values()
            for entry in other.dependencies
            if other.state != WAITING or not other.missing
        }
        return [
            entry
            for entry in self.returns(task)
            if entry.kind not in (UNRESOLVED, *ERRORS) and entry.id not in needed
            if entry.block is None or not entry.block.pins
        ]

    def lose(self, task: Task, *lost: ObjectEntry) -> None:
        host = self.homes[task.id]
        for entry in lost:
            value = host.look(entry.payload) if entry.kind == SHARED else entry.payload
            self.past[entry.id].append(repr(value))  # it may be on its way
            self.truth.pop(entry.id, None)
        self.starts[task.id] = 0
        host.machine.work.run_again(task, lost)
        host.after()


def kept(world: Forgetful) -> Task:
    (task,) = world.kept.values()
    return task


def finished(world: Forgetful, driver: Driver, **options: Any) -> Task:
    """A function that has run, with a ref among its arguments, so that it is kept."""
    driver.state.put(0)
    driver.submit(nested=(0,), **options)
    world.settle()
    return kept(world)


def test_a_lost_value_is_made_again_from_the_same_arguments() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    task = finished(world, driver, ending="refs")
    inner, ref = driver.state.refs
    driver.drop(inner)
    world.talk()
    before = driver.values[ref]
    world.lose(task, world.entry(ref))
    assert world.entry(ref).kind == UNRESOLVED
    assert world.entry(ref).task is task
    world.settle()
    assert world.entry(ref).kind == PLAIN
    assert driver.values[ref].tag > before.tag
    world.end()


def test_a_process_that_asks_for_a_lost_value_gets_the_new_one() -> None:
    world = Forgetful(CPU=1)
    maker, borrower = world.driver(), world.driver()
    task = finished(world, maker)
    ref = maker.state.refs[-1]
    borrower.hold(ref)
    world.talk()
    world.lose(task, world.entry(ref))
    borrower.subscribe(ref)
    world.talk()
    assert ref not in borrower.values
    world.settle()
    assert borrower.values[ref] == world.truth[ref]
    borrower.drop(ref)
    world.end()


def test_arguments_are_in_use_until_the_last_return_value_is_freed() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    finished(world, driver)
    inner, ref = driver.state.refs
    driver.drop(inner)
    world.talk()
    assert world.entry(inner).uses == 1
    driver.drop(ref)
    world.talk()
    assert not world.kept
    assert not world.machine.objects.table


def test_a_task_that_waits_for_another_value_waits_for_the_lost_one_too() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    task = finished(world, driver)
    ref = driver.state.refs[-1]
    promised = driver.next_id() + b"\0\0\0\0"
    world.machine.work.promise(driver.client, promised)
    driver.born(promised)
    driver.state.refs.append(promised)
    driver.state.waitable.add(promised)
    dependent = driver.submit(arguments=(1, 2))
    world.host.hear(driver, len(driver.wire))
    world.lose(task, world.entry(ref))
    driver.send((PUT, promised, PLAIN, b"", None))
    world.host.hear(driver, len(driver.wire))
    waiting = world.machine.work.tasks[dependent[:-4]]
    assert (waiting.state, waiting.missing) == (WAITING, 1)
    world.settle()
    assert dependent in driver.values
    world.end()


def test_what_was_lost_together_with_its_argument_waits_for_that() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    first = finished(world, driver)
    ref = driver.state.refs[-1]
    last = driver.submit(arguments=(1,))
    world.settle()
    second = world.kept[last[:-4]]
    for task in (first, second):
        world.lose(task, *world.returns(task))
        world.check()
    assert (second.state, second.missing) == (WAITING, 1)
    world.settle()
    assert {ref, last} <= driver.values.keys()
    world.end()


def test_of_several_return_values_only_the_lost_ones_are_made_again() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    task = finished(world, driver, returns=3, ending="refs")
    _, one, two, three = driver.state.refs
    driver.drop(three)
    world.talk()
    values = dict(driver.values)
    for ref in (two, one):
        world.lose(task, world.entry(ref))
        world.settle()
    assert driver.values[two].tag > values[two].tag
    assert driver.values[one].tag > driver.values[two].tag
    assert three not in world.machine.objects.table
    world.end()


def test_refs_inside_a_lost_value_are_in_use_until_the_object_goes() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    driver.state.put(0)
    driver.state.put(0)
    ref = driver.submit(nested=(0, 1), steps=(("forget", 0),), ending="refs")
    world.settle()
    inner = driver.values[ref].refs
    assert inner
    task = kept(world)
    world.lose(task, world.entry(ref))
    world.check()
    assert [entry.id for entry in world.entry(ref).contained] == list(inner)
    world.settle()
    assert [entry.id for entry in world.entry(ref).contained] == 2 * list(inner)
    world.end()


def test_memory_of_a_lost_value_is_free() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    task = finished(world, driver, ending="shared")
    ref = driver.state.refs[-1]
    entry = world.entry(ref)
    assert entry.kind == SHARED
    with pytest.raises(AssertionError, match="is pinned"):
        world.machine.objects.unresolve(task, [entry])
    driver.send((UNPIN, [[ref, driver.pins.pop(ref)[0]]]))
    world.talk()
    used = world.machine.store.allocator.used
    world.lose(task, entry)
    assert world.machine.store.allocator.used < used
    world.settle()
    assert world.machine.store.allocator.used == used
    world.end()


def test_a_second_run_that_fails_is_the_error_of_what_was_lost() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    task = finished(world, driver, returns=2)
    _, one, two = driver.state.refs
    kept_value = driver.values[two]
    world.lose(task, world.entry(one))
    world.host.order(CANCEL, task.id, False, False)
    world.settle()
    assert driver.error(one) == "TaskCancelledError"
    assert driver.values[two] == kept_value
    assert not world.kept
    world.end()


def test_an_error_and_a_pending_object_have_no_value_to_lose() -> None:
    world = Forgetful(CPU=1)
    driver = world.driver()
    failed = driver.submit(ending="raise")
    world.settle()
    pending = driver.submit(extra=("moon", 1))
    world.talk()
    (task,) = world.machine.work.tasks.values()
    for ref in (failed, pending):
        with pytest.raises(AssertionError, match="no value to lose"):
            world.machine.objects.unresolve(task, [world.entry(ref)])


def day(seed: int, events: int = 300) -> int:
    """A day as in ``test_chaos``, on which the node also loses values now and then.

    Every fourth has two nodes. Returns how many tasks ran again on the last one.
    """
    random = Random(seed)
    world = Forgetful(**random.choice(NODES))
    if seed % 4 == 3:
        world.add_host(b"another!", **random.choice(NODES))
    danger = random.choice([0, 0.01, 0.03])
    for _ in range(events):
        event(world, random, danger)
        tasks = [task for task in world.kept.values() if task.state == FINISHED]
        task = random.choice(tasks) if tasks and random.random() < 0.7 else None
        if task is not None and (lost := world.losable(task)):
            world.lose(task, *random.sample(lost, random.randint(1, len(lost))))
        world.check()
    world.end()
    assert not world.kept
    return world.hosts[-1].machine.work.reruns


def test_a_day_on_which_values_are_lost_ends_without_a_trace() -> None:
    reruns = [day(seed) for seed in range(40)]
    assert sum(reruns) > 15
    assert any(reruns[3::4])
