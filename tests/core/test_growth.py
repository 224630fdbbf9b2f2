"""An event costs what it concerns: it takes as many steps beside many tasks and actors as beside few."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from asyncray.cli.benchmark.crowd_rows import Crowd, Queue


class Table(dict[Any, Any]):
    """A dict that counts what is looked at by iterating over it: C code does that in one step."""

    looked_at = 0

    def __iter__(self) -> Iterator[Any]:
        Table.looked_at += len(self)
        return super().__iter__()

    def values(self) -> Any:
        Table.looked_at += len(self)
        return super().values()

    def items(self) -> Any:
        Table.looked_at += len(self)
        return super().items()


def watch_tables(crowd: Crowd) -> None:
    """Puts a ``Table`` in place of each dict that the machine, or one of its parts, has as an attribute."""
    machine = crowd.machine
    parts = [machine, *(part for part in vars(machine).values() if hasattr(part, "__dict__"))]
    parts += [part for part in vars(machine.work).values() if hasattr(part, "__dict__") and part not in parts]
    parts += [machine.scheduler.shapes]
    tables: dict[int, Table] = {}
    found = [(part, name, value) for part in parts for name, value in vars(part).items() if type(value) is dict]
    for part, name, value in found:
        setattr(part, name, tables.setdefault(id(value), Table(value)))
    for job in machine.jobs.table.values():
        job.tasks, job.actors, job.workers = Table(job.tasks), Table(job.actors), Table(job.workers)
    assert isinstance(machine.jobs.table, Table)
    assert machine.work.tasks._jobs is machine.jobs.table


@contextmanager
def steps() -> Iterator[list[int]]:
    """Counts the instructions of Python code in the block, and what it looks at in tables.

    Garbage is not collected meanwhile: finalizers and callbacks of the collector (Hypothesis has one) are Python code.
    """
    count = [0]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count[0] += event == "opcode"
        return trace

    before, Table.looked_at = sys.gettrace(), 0
    gc.disable()
    # Python 3.12 sends no opcodes unless a frame wants them at this moment.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        yield count
    finally:
        sys.settrace(before)
        gc.enable()
    count[0] += Table.looked_at


def costs(tasks: int, actors: int) -> dict[str, int]:
    """The steps of each event at a node with so many tasks and actors."""
    crowd = Crowd(tasks, actors)
    watch_tables(crowd)
    for event in crowd.events().values():  # once before: what happens the first time only is not counted
        event()
        crowd.settle()
    found = {}
    for name, event in crowd.events().items():
        with steps() as count:
            event()
            crowd.machine.flush()
        crowd.settle()
        found[name] = count[0]
    crowd.machine.check()
    return found


def test_an_event_costs_the_same_beside_many_tasks_and_actors() -> None:
    assert costs(tasks=400, actors=100) == costs(tasks=20, actors=10)


def costs_of_ends(demands: int, *, processes: bool) -> list[int]:
    """Counts the steps for the end of a task, twenty times, beside ``demands`` waiting tasks of different demands.

    Args:
        processes: the node gets those that it asks for.
    """
    queue = Queue(demands)
    scheduler = queue.machine.scheduler
    found = []
    for _ in range(20):
        if processes:
            queue.take_messages()
            queue.machine.flush()
        with steps() as count:
            queue.finish()
        found.append(count[0])
        scheduler.check_round()
    queue.machine.check()
    assert len(scheduler.shapes.parking) > demands // 2
    return found


@pytest.mark.parametrize("processes", [True, False])
def test_the_end_of_a_task_costs_no_more_beside_many_demands(*, processes: bool) -> None:
    few, many = costs_of_ends(100, processes=processes), costs_of_ends(3000, processes=processes)
    assert max(many) < 2 * max(few)


@pytest.mark.parametrize("scan", [lambda m: list(m.work.tasks.values()), lambda m: sum(1 for _ in m.actors.table)])
def test_a_scan_would_be_seen(scan: Callable[[Any], object]) -> None:
    found = []
    for size in (10, 20):
        crowd = Crowd(2 * size, size)
        watch_tables(crowd)
        with steps() as count:
            scan(crowd.machine)
        found.append(count[0])
    assert found[1] >= found[0] + 10
