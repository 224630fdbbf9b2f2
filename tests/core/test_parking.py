"""The order of parked shapes, compared with a model that walks all of them."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from asyncray.core.leases import Shape
from asyncray.core.parking import Parking, Precedence, worker_kind
from asyncray.core.records import HERE, Job, Task
from asyncray.core.resources import Resources
from asyncray.core.states import QUEUED
from asyncray.ids import TASK_SIZE
from asyncray.messages import CANCEL
from asyncray.units import Demand, fixed
from tests.core.programs import Recipe
from tests.core.world import World

DEMANDS = st.tuples(st.sampled_from(["CPU", "R"]), st.integers(1, 12)) | st.tuples(
    st.just("GPU"), st.integers(1, 10) | st.sampled_from([20, 30])
)


class Waiting:
    """Shapes of one job that wait for one account."""

    def __init__(self) -> None:
        self.account = Resources({"CPU": 1, "R": 1, "GPU": 2})
        self.job = cast(Job, object())
        self.parking = Parking()
        self.shapes: list[Shape] = []

    def add(self, demand: Demand, depth: int) -> Shape:
        shape = Shape(self.job, demand, HERE, self.account, lives=False)
        shape.turn = len(self.shapes)
        task: Any = type("Waits", (), {"depth": depth, "state": QUEUED, "is_guest": False})()
        shape.push(cast(Task, task), first=False)
        self.shapes.append(shape)
        self.parking.park(shape)
        return shape

    def first(self) -> Shape | None:
        found = self.parking.first({})
        return None if found is None else found[1]

    def expected(self) -> Shape | None:
        """Walks all parked shapes to the first that fits."""
        fitting = [shape for shape in self.shapes if shape in self.parking and self.account.fits(shape.demand)]
        return min(fitting, key=place, default=None)


def place(shape: Shape) -> Precedence:
    return -shape.depths[-1], shape.turn


@given(
    demands=st.lists(st.tuples(DEMANDS, st.integers(0, 3)), max_size=300),
    room=st.lists(DEMANDS, max_size=30),
    gone=st.lists(st.integers(0, 300)),
)
def test_the_first_shape_that_fits_is_found(
    demands: list[tuple[tuple[str, int], int]], room: list[tuple[str, int]], gone: list[int]
) -> None:
    waiting = Waiting()
    rest = waiting.account.acquire(fixed({"CPU": 1, "R": 1, "GPU": 2}))
    assert rest is not None
    for (name, amount), depth in demands:
        waiting.add(((name, amount * 1000),), depth)
    waiting.parking.check()
    assert waiting.first() is None
    rest.release()
    for number in gone:
        if number < len(waiting.shapes) and waiting.shapes[number] in waiting.parking:
            waiting.parking.remove(waiting.shapes[number])
    grants = [waiting.account.acquire(((name, amount * 1000),)) for name, amount in room]
    while (shape := waiting.first()) is not None:
        assert shape is waiting.expected()
        waiting.parking.remove(shape)
        waiting.parking.check()
        grants.append(waiting.account.acquire(shape.demand))
    assert waiting.expected() is None


def test_a_kind_without_processes_is_skipped() -> None:
    waiting = Waiting()
    shape = waiting.add(fixed({"CPU": 0.5}), 0)
    assert waiting.first() is shape
    assert waiting.parking.first({worker_kind(shape): None}) is None


def test_shapes_that_never_fit_neither_come_nor_starve() -> None:
    waiting = Waiting()
    shape = waiting.add(fixed({"CPU": 2}), 0)
    assert (waiting.first(), shape in waiting.parking) == (None, True)
    assert not waiting.parking.starves(processes_start=False)
    waiting.parking.remove(shape)
    assert not len(waiting.parking)


def test_a_shape_that_lacks_only_a_process_starves_if_none_can_start() -> None:
    waiting = Waiting()
    waiting.add(fixed({"CPU": 1}), 0)
    assert waiting.parking.starves(processes_start=False)
    assert not waiting.parking.starves(processes_start=True)
    grant = waiting.account.acquire(fixed({"CPU": 0.5}))
    assert grant is not None
    waiting.parking.remove(waiting.shapes[0])
    waiting.parking.park(waiting.shapes[0])
    assert waiting.parking.starves(processes_start=True)


def test_a_parked_shape_whose_task_is_cancelled_leaves() -> None:
    world = World(CPU=1)
    driver = world.driver()
    driver.submit(takes=10_000)
    world.deliver()
    waits = [driver.submit(cpus=cpus) for cpus in (0.5, 0.25)]
    world.deliver()
    shapes = world.machine.scheduler.shapes
    first, second = shapes.parking
    world.host.order(CANCEL, waits[0][:TASK_SIZE], False, False)
    world.deliver()
    assert list(shapes.parking) == [second]
    assert first not in shapes.ready
    world.settle()
    assert waits[1] in driver.values


def test_a_child_moves_its_parked_shape_to_the_front() -> None:
    world = World(CPU=1)
    driver = world.driver()
    parent = driver.submit(steps=(("spawn", Recipe(cpus=0.5)),), takes=10_000)
    for cpus in (0.25, 0.5):
        driver.submit(cpus=cpus)
    world.deliver()
    (worker,) = world.workers
    while parent not in driver.values:
        worker.step()
        world.talk()  # no process starts, so one shape gets the worker
    (order,) = worker.queue
    assert order.recipe.cpus == 0.5
    assert world.machine.work.tasks[order.task].depth == 1
