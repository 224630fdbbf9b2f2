"""Tasks are found by ID in the table of their job."""

from typing import Any

import pytest

from asyncray.core.records import Job
from asyncray.core.tasks import Tasks
from asyncray.ids import CLIENT_SIZE


def job_with_tasks(number: int, count: int) -> tuple[Job, dict[bytes, Any]]:
    job = Job(number.to_bytes(4, "big"), "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
    tasks: dict[bytes, Any] = {
        bytes(CLIENT_SIZE) + job.id + each.to_bytes(6, "big"): f"{number}/{each}" for each in range(count)
    }
    job.tasks.update(tasks)  # text in place of tasks
    return job, tasks


def test_a_task_is_found_by_the_job_in_its_id() -> None:
    table = {}
    expected: dict[bytes, Any] = {}
    for number in (1, 2):
        job, tasks = job_with_tasks(number, 3)
        table[job.id] = job
        expected |= tasks
    found = Tasks(table)
    assert [found[task_id] for task_id in expected] == list(expected.values())
    assert list(found) == list(expected)
    assert len(found) == 6
    assert repr(found) == "<Tasks 6 unfinished>"


def test_a_task_of_an_unknown_job_or_with_an_unknown_number_is_absent() -> None:
    job, tasks = job_with_tasks(1, 1)
    (known,) = tasks
    found = Tasks({job.id: job})
    assert known in found
    for stranger in (known[:-1] + b"\7", bytes(CLIENT_SIZE) + b"\0\0\0\7" + known[-6:]):
        assert stranger not in found
        assert found.get(stranger) is None
        with pytest.raises(KeyError):
            found[stranger]
