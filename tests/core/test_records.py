"""The records of templates and tasks: mean run times, demands, retries, and names."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.core.lives import Actor
from asyncray.core.records import Client, Job, ObjectEntry, Task, Template
from asyncray.core.states import NOT_CANCELLED, WAITING

JOB = Job(b"\0\0\0\1", "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
CALLER = Client(1, b"caller", "driver", 1)


def template(**spec: Any) -> Template:
    whole: Any = {"name": "add", "returns": 1, "retries": 3, "demand": [("CPU", 10_000)], **spec}
    return Template(1, b"digest", JOB, None, whole)


def test_the_mean_follows_run_times_and_the_first_one_is_the_mean() -> None:
    it = template()
    means = [it.mean]
    for microseconds in (100, 100, 200, 200, 200, 200, 200, 200, 200, 200):
        it.ran(microseconds)
        means.append(it.mean)
    assert means[:3] == [None, 100, 100]
    rising = [mean for mean in means[2:] if mean is not None]
    assert rising == sorted(set(rising))
    assert 150 < rising[-1] < 200


@pytest.mark.parametrize(
    "spec", [{"demand": [("CPU", 0)]}, {"demand": [("CPU", -1)]}, {"life": [("CPU", 10_001)]}, {"life": [("GPU", 1)]}]
)
def test_a_life_needs_no_more_than_the_start_and_every_demand_is_of_something(spec: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="add needs"):
        template(**spec)


def test_a_task_begins_to_wait_with_the_retries_of_its_template() -> None:
    task = Task(b"\1", template(), CALLER, 0, b"")
    assert (task.state, task.retries, task.cancelled) == (WAITING, 3, NOT_CANCELLED)


def test_a_task_and_the_object_that_it_makes_are_small() -> None:
    """A million of them wait in a daemon. The allocator rounds up to 16 bytes, and the collector adds 16."""
    assert Task.__basicsize__ + 16 <= 192
    assert ObjectEntry.__basicsize__ + 16 <= 144


def test_a_task_has_the_name_of_its_call_or_of_its_function() -> None:
    names = [Task(b"\1", template(), CALLER, 0, b"", given).name for given in (None, "mine")]
    assert names == ["add", "mine"]
    assert Task(b"\1", template(), CALLER, 0, b"").cancelled_fault() == ["TaskCancelledError", {"task_id": "01"}]


def test_only_the_task_that_makes_an_actor_is_its_constructor() -> None:
    constructor, call, plain = (Task(bytes([n]), template(), CALLER, 0, b"") for n in range(3))
    constructor.actor = call.actor = Actor(constructor, CALLER)
    assert [task.is_constructor for task in (constructor, call, plain)] == [True, False, False]
