"""Which driver gets which line: real files, workers of a machine without processes, streams that keep what is sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import pytest

from asyncray.core.machine import NodeMachine
from asyncray.core.records import Party
from asyncray.io.streams import MessageStream
from asyncray.messages import OUTPUT
from asyncray.node.logs import WorkerLogs
from asyncray.node.output import Output
from asyncray.words import JobSetup


class Stream:
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.backlog = 0
        self.lines: list[str] = []

    def send(self, messages: list[Any]) -> None:
        for kind, lines in messages:
            assert kind == OUTPUT
            self.lines += [f"{stream} {text}" for stream, _, text in lines]


class Node:
    """One driver, and one worker that serves it."""

    def __init__(self, directory: Path, *, log_to_driver: bool = True) -> None:
        self.machine = NodeMachine(os.urandom(8), {"CPU": 1}, "seg", 8192, {})
        self.stream = Stream()
        self.driver = self.machine.driver_connected(1, "", cast(JobSetup, {"log_to_driver": log_to_driver}))
        self.number = next(iter(self.machine.pool.workers))
        assert self.machine.worker_connected(self.number, 2) is not None
        assert self.driver.job is not None
        taken = self.machine.pool.take(self.driver.job, gpu=False)
        assert taken is not None
        self.worker = taken
        self.logs = WorkerLogs(str(directory))
        self.logs.add(self.number)
        self.output = Output(self.logs, self.machine.pool, self._stream_of)
        self.path = directory / f"worker-{self.number}.out"

    def _stream_of(self, party: Party) -> MessageStream | None:
        return cast(MessageStream, self.stream) if party is self.driver else None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_lines_go_to_the_driver_of_the_workers_job(node: Node) -> None:
    node.path.write_text("one\ntwo\n")
    assert node.output.read()
    assert node.stream.lines == ["out one", "out two"]
    assert not node.output.read()


def test_a_driver_that_does_not_read_gets_them_later(node: Node) -> None:
    node.path.write_text("one\n")
    node.stream.backlog = 1 << 30
    assert node.output.read()
    assert node.stream.lines == []
    node.output.read(last_of=node.driver.job)
    assert node.stream.lines == ["out one"]


def test_the_last_words_of_a_worker_come_with_its_end(node: Node) -> None:
    node.path.write_text("no line feed")
    node.path.with_suffix(".err").write_text("why it ended")
    assert node.output.ended(node.worker) == "why it ended"
    assert node.stream.lines == ["out no line feed", "err why it ended"]
    assert node.path.exists()


def test_a_driver_may_want_none(tmp_path: Path) -> None:
    node = Node(tmp_path, log_to_driver=False)
    node.path.write_text("one\n")
    node.output.read()
    assert node.stream.lines == []
    node.output.close()
