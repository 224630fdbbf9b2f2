"""The node's notices to the driver: errors that nobody reads, and demands that it cannot meet."""

from __future__ import annotations

import asyncio
import json
import logging
import logging.handlers
import os
import queue
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import asyncray
import asyncray.sync as ray

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0


@ray.remote
def fail(what: Any = "nothing") -> None:
    raise ValueError(what)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="asyncray"):
        yield caplog


def errors(log: pytest.LogCaptureFixture) -> list[str]:
    """The last line of each error in the log."""
    return [record.getMessage().splitlines()[-1] for record in log.records if record.levelno == logging.ERROR]


def test_errors_that_nobody_reads_are_logged(log: pytest.LogCaptureFixture) -> None:
    with ray.init(num_cpus=1):
        fail.remote("at once")
        late = fail.remote("later")
        ray.wait([late])
        del late
        kept = fail.options(name="keeper").remote("kept")
        ray.wait([kept])
    assert sorted(errors(log)) == ["ValueError: at once", "ValueError: kept", "ValueError: later"]
    first = log.records[0].getMessage().splitlines()
    hint = "ASYNCRAY_IGNORE_UNHANDLED_ERRORS=1 hides these"
    assert first[0] == f"Unhandled error of fail, which nobody has read ({hint}):"
    assert "in fail" in "".join(first)
    assert any(record.getMessage().startswith("Unhandled error of keeper") for record in log.records)


def test_errors_that_are_read_are_not_logged(log: pytest.LogCaptureFixture) -> None:
    @ray.remote
    def catch(refs: Any) -> str:
        try:
            ray.get(refs)
        except ValueError as error:
            return str(error.args[0])
        return ""

    with ray.init(num_cpus=2):
        with pytest.raises(ValueError, match="get"):
            ray.get(fail.remote("get"))
        with pytest.raises(ValueError, match="list"):
            ray.get([fail.remote("list") for _ in range(5)])
        assert isinstance(fail.remote("future").future().exception(DEADLINE), ValueError)
        with pytest.raises(ValueError, match="argument"):
            ray.get(catch.remote(fail.remote("argument")))
        assert ray.get(catch.remote([fail.remote("nested")])) == "nested"
    assert errors(log) == []


async def test_errors_that_are_awaited_are_not_logged(log: pytest.LogCaptureFixture) -> None:
    async with asyncray.init(num_cpus=2):
        with pytest.raises(ValueError, match="await"):
            await fail.remote("await")
        found = await asyncio.gather(*[fail.remote("gather") for _ in range(5)], return_exceptions=True)
        assert all(isinstance(error, ValueError) for error in found)
        with pytest.raises(ExceptionGroup):
            async with asyncray.TaskGroup() as group:
                group.add(fail.remote("group"))
    assert errors(log) == []


def test_what_a_task_leaves_unread_is_told_to_the_driver(log: pytest.LogCaptureFixture) -> None:
    @ray.remote
    def parent() -> None:
        ray.wait([fail.remote("child")])

    with ray.init(num_cpus=1):
        ray.get(parent.remote())
    assert errors(log) == ["ValueError: child"]


def test_an_actor_that_nobody_calls_tells_why_it_is_dead(log: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("broken")

        def call(self) -> None: ...

    told: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(told)
    logging.getLogger("asyncray").addHandler(handler)
    with ray.init(num_cpus=1):
        handle = ray.remote(Broken).remote()
        assert told.get(timeout=DEADLINE).getMessage().endswith("ValueError: broken")
        with pytest.raises(ray.exceptions.ActorDiedError):
            ray.get(handle.call.remote())
    logging.getLogger("asyncray").removeHandler(handler)
    assert errors(log) == ["ValueError: broken"]


def test_the_exit_of_a_program_tells_and_a_variable_hides() -> None:
    program = dedent("""
        import asyncray.sync as ray

        @ray.remote
        def fail():
            raise ValueError("lost")

        ray.init(num_cpus=1)
        ref = fail.remote()
        ray.wait([ref])
        """)

    def run(**variables: str) -> str:
        environment = {**os.environ, **variables}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=DEADLINE
        )
        assert done.returncode == 0
        return done.stderr

    assert re.fullmatch(r"Unhandled error of fail, .*ValueError: lost\n", run(), re.DOTALL)
    assert run(ASYNCRAY_IGNORE_UNHANDLED_ERRORS="1") == ""


def test_what_the_node_cannot_serve_is_warned_of_and_shown(log: pytest.LogCaptureFixture) -> None:
    @ray.remote(num_gpus=2)
    def train() -> None: ...

    with ray.init(num_cpus=1, num_gpus=1) as context:
        ref = train.remote()
        assert ray.wait([ref], timeout=0) == ([], [ref])
        command = [sys.executable, "-m", "asyncray", "status", "--json", "--address", context["address"]]
        status = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE).stdout)
    why = "needs 2 GPU, more than this node has (1 GPU)"
    assert status["waiting"] == [{"name": "train", "needs": {"CPU": 1, "GPU": 2}, "tasks": 1, "why": why}]
    assert [record.getMessage() for record in log.records] == [f"train {why}, and waits until it has."]
