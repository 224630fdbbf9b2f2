"""The runtime context of a driver, a task and an actor, without a node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from asyncray.api.handle import ActorType
from asyncray.api.information import get_gpu_ids, get_runtime_context, node_ip_address
from asyncray.exceptions import NotStartedError
from asyncray.runtime import context, current
from asyncray.runtime.context import TaskContext
from asyncray.runtime.runtime import Runtime
from tests.runtime.daemon_side import DaemonSide

TASK = b"t" * 22


@pytest.fixture
def workplace(daemon: DaemonSide) -> Any:
    """The facts that a worker with an actor offers to its code."""
    facts = SimpleNamespace(
        actor_id=TASK,
        actor_name="ann",
        descriptor=ActorType("A", "m.A", {}, 0, -1).pickled(),
        restarted=True,
        devices=[3, "gpu-4"],
        demand=[("CPU", 5000), ("GPU", 20_000)],
    )
    cast(Runtime, current.session).workplace = cast(Any, facts)
    return facts


@pytest.fixture
def task() -> Any:
    task = TaskContext(TASK, "given name", "module.Class.method")
    context.enter(task)
    yield task
    context.leave(task)


def test_a_driver_has_a_node_and_a_job_and_no_task(daemon: DaemonSide) -> None:
    here = get_runtime_context()
    assert here.get() == {"node_id": (b"n" * 8).hex(), "job_id": b"job1".hex(), "namespace": "here"}
    assert here.get_worker_id() == (b"c" * 12).hex()
    assert (here.get_task_id(), here.get_task_name(), here.get_task_function_name()) == (None, None, None)
    assert (here.get_actor_id(), here.get_actor_name()) == (None, None)
    assert (here.get_assigned_resources(), here.get_accelerator_ids(), get_gpu_ids()) == ({}, {"GPU": []}, [])
    assert not here.was_current_actor_reconstructed
    assert not here.is_canceled()
    with pytest.raises(RuntimeError, match="only available in an actor"):
        _ = here.current_actor


def test_code_of_a_task_learns_its_names_and_that_it_is_cancelled(daemon: DaemonSide, task: TaskContext) -> None:
    here = get_runtime_context()
    assert here.get_task_id() == here.get()["task_id"] == TASK.hex()
    assert (here.get_task_name(), here.get_task_function_name()) == ("given name", "module.Class.method")
    assert not here.is_canceled()
    task.cancelled = True
    assert here.is_canceled()


def test_code_of_an_actor_learns_what_it_is_and_holds(workplace: Any) -> None:
    here = get_runtime_context()
    assert here.get_actor_id() == here.get()["actor_id"] == TASK.hex()
    assert here.get_actor_name() == "ann"
    assert here.get_assigned_resources() == {"CPU": 0.5, "GPU": 2}
    assert here.get_accelerator_ids() == {"GPU": ["3", "gpu-4"]}
    assert get_gpu_ids() == [3, "gpu-4"]
    assert get_gpu_ids() is not workplace.devices
    assert here.was_current_actor_reconstructed
    handle = here.current_actor
    assert (handle._actor_id.hex(), handle._asyncray_life) == (TASK.hex(), None)


def test_the_address_is_that_of_the_node(daemon: DaemonSide) -> None:
    assert node_ip_address() == "127.0.0.1"
    cast(Runtime, current.session).facts["ip"] = "10.0.0.7"
    assert node_ip_address() == "10.0.0.7"


def test_without_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(current, "session", None)
    monkeypatch.setattr(current, "start_implicitly", None)
    for ask in (get_runtime_context, get_gpu_ids, node_ip_address):
        with pytest.raises(NotStartedError):
            ask()
