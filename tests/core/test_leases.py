"""The records of workers and queues: the order of queued tasks, and the tasks of a worker."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.leases import Lease, Shape, Worker
from asyncray.core.records import HERE, Client, Job, Task, Template
from asyncray.core.resources import Resources
from asyncray.core.states import FINISHED, QUEUED, SENT

JOB = Job(b"\0\0\0\1", "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
ACCOUNT = Resources({"CPU": 4, "GPU": 1})
CALLER = Client(1, b"caller", "driver", 1)


def task(number: int, depth: int = 0) -> Task:
    spec: Any = {"name": "f", "returns": 1, "retries": 0, "demand": [("CPU", 10_000)]}
    made = Task(number.to_bytes(4, "big"), Template(1, b"digest", JOB, None, spec), CALLER, 0, b"")
    made.state, made.depth = QUEUED, depth
    return made


def shape(*demand: tuple[str, int]) -> Shape:
    return Shape(JOB, demand, HERE, ACCOUNT, lives=False)


def served(queue: Shape) -> list[int]:
    """The tasks in the order in which the queue serves them."""
    order = []
    while (following := queue.peek()) is not None:
        queue.pop()
        order.append(int.from_bytes(following.id, "big"))
    return order


def test_deeper_tasks_come_first_and_equals_in_the_order_of_their_coming() -> None:
    queue = shape(("CPU", 10_000))
    for number, depth in ((1, 0), (2, 2), (3, 0), (4, 1), (5, 2)):
        queue.push(task(number, depth), first=False)
    assert queue.count == 5
    assert served(queue) == [2, 5, 4, 1, 3]
    assert (queue.count, queue.depths, queue.queues) == (0, [], {})


def test_a_task_that_comes_back_is_the_first_of_its_depth() -> None:
    queue = shape(("CPU", 10_000))
    queue.push(task(1), first=False)
    queue.push(task(2), first=True)
    queue.push(task(3, depth=1), first=True)
    assert served(queue) == [3, 2, 1]


def test_tasks_that_were_taken_back_are_passed_over() -> None:
    queue = shape(("CPU", 10_000))
    tasks = [task(number) for number in range(4)]
    for each in tasks:
        queue.push(each, first=False)
    tasks[0].state = tasks[2].state = tasks[3].state = FINISHED
    assert queue.count == 4
    assert served(queue) == [1]
    assert queue.count == 0


def test_a_shape_knows_what_kind_of_worker_it_needs() -> None:
    assert [shape(("GPU", 1)).gpu, shape(("CPU", 1)).gpu] == [True, False]
    assert [shape().free_of_charge, shape(("CPU", 1)).free_of_charge] == [True, False]


def test_leases_with_a_task_that_waits_do_not_serve() -> None:
    queue = shape(("CPU", 10_000))
    for _ in range(2):
        grant = ACCOUNT.acquire(queue.demand)
        assert grant is not None
        queue.leases.append(Lease(Worker(1), queue, grant, 0.0))
    queue.leases[0].blocked[b"task"] = 1
    assert queue.serving == 1


@pytest.mark.parametrize("nested", [True, False])
def test_a_worker_has_what_it_was_sent_until_it_ends(nested: bool) -> None:
    worker, sent, ended = Worker(1), task(1), task(2)
    sent.state, ended.state = SENT, FINISHED
    (worker.nested if nested else worker.inflight).update({sent.id: sent, ended.id: ended})
    assert list(worker.sent) == [sent]


def test_a_worker_is_an_actors_host_by_its_lease_also_after_the_death_of_the_actor() -> None:
    grant = ACCOUNT.acquire((("CPU", 10_000),))
    assert grant is not None
    worker = Worker(1)
    hosts = [worker.is_actor_host]
    worker.lease = Lease(worker, shape(("CPU", 1)), grant, 0.0)
    hosts.append(worker.is_actor_host)
    worker.lease = Lease(worker, None, grant, 0.0)
    hosts.append(worker.is_actor_host)
    assert hosts == [False, False, True]
