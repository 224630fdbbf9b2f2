"""The way of each line to its drivers: real files, workers without processes, and streams that keep the lines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import asyncray.node.logs as logs_module
import asyncray.node.output as output_module
from asyncray.core.cluster.far_output import FarOutput
from asyncray.core.cluster.links import Link
from asyncray.core.cluster.peers import Peer
from asyncray.core.machine import NodeMachine
from asyncray.core.records import Job, Party
from asyncray.io.streams import MessageStream
from asyncray.messages import OUTPUT
from asyncray.node.logs import Line, WorkerLogs
from asyncray.node.output import Output
from asyncray.words import JobSetup


class Stream:
    """A connection that keeps the lines that the node sends."""

    def __init__(self) -> None:
        self.backlog = 0
        self.lines: list[str] = []

    def send(self, messages: list[Any]) -> None:
        for kind, lines in messages:
            assert kind == OUTPUT
            self.lines += [f"{stream} {text}" for stream, _, text in lines]


class CountedLogs(WorkerLogs):
    """Counts how often the node reads."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.reads: list[int] = []

    def read(self, number: int, name: str, pid: int, *, last: bool = False, pause: bool = False) -> list[Line]:
        self.reads.append(number)
        return super().read(number, name, pid, last=last, pause=pause)


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
        self.logs = CountedLogs(str(directory))
        self.logs.add(self.number)
        self.output = Output(self.logs, self.machine.pool, self._stream_of)
        self.path = directory / f"worker-{self.number}.out"

    def _stream_of(self, party: Party) -> MessageStream | None:
        return cast(MessageStream, self.stream) if party is self.driver else None


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def turns(count: int = 5) -> None:
    """Lets the loop run the callbacks that are due."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_module, "_PAUSE", 0.0)


async def test_lines_go_to_the_driver_of_the_workers_job(node: Node) -> None:
    node.path.write_text("one\ntwo\n")
    node.output.read_all()
    assert node.stream.lines == ["out one", "out two"]
    node.output.close()


async def test_a_driver_that_does_not_read_gets_them_later(node: Node) -> None:
    assert node.driver.job is not None
    node.path.write_text("one\n")
    node.stream.backlog = 1 << 30
    node.output.read_all()
    await turns()
    assert node.stream.lines == []
    node.output.read_last_of(node.driver.job)
    assert node.stream.lines == ["out one"]
    node.output.close()


async def test_a_driver_that_reads_again_gets_what_waits(node: Node) -> None:
    node.path.write_text("one\n")
    node.stream.backlog = 1 << 30
    node.output.read_all()
    node.stream.backlog = 0
    await turns()
    assert node.stream.lines == ["out one"]
    node.output.close()


async def test_output_for_a_driver_that_does_not_read_takes_bounded_space(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs_module, "MOST_SPACE", 1 << 20)
    monkeypatch.setattr(logs_module, "SPACE_STEP", 1 << 18)
    node.stream.backlog = 1 << 30
    with node.path.open("ab", buffering=0) as writer:
        for _ in range(50):
            writer.write(b"x" * 99_999 + b"\n")
            node.output.read_all()
    assert node.path.stat().st_blocks * 512 < 1.5 * (1 << 20)
    node.output.close()


async def test_a_worker_is_read_while_it_has_work_and_once_more(node: Node) -> None:
    reads = node.logs.reads
    node.output.expect([node.driver])
    await turns()
    assert not reads, "nothing was sent to the worker"
    assert node.worker.client is not None
    node.worker.inflight[b"task"] = cast(Any, SimpleNamespace(name="f"))
    node.output.expect([node.worker.client])
    await turns()
    assert len(reads) > 1
    node.path.write_text("one")
    await turns()
    assert node.stream.lines == [], "the task may finish the line"
    node.worker.inflight.clear()
    await turns()
    assert node.stream.lines == ["out one"]
    reads.clear()
    await turns()
    assert not reads, "nothing more is expected"
    node.path.write_text("one two")
    node.output.read_all()
    assert node.stream.lines == ["out one", "out  two"]
    node.output.close()


async def test_the_last_words_of_a_worker_come_with_its_end(node: Node) -> None:
    assert node.worker.client is not None
    node.output.expect([node.worker.client])
    node.path.write_text("no line feed")
    node.path.with_suffix(".err").write_text("why it ended")
    assert node.output.ended(node.worker) == "why it ended"
    assert node.stream.lines == ["out no line feed", "err why it ended"]
    assert node.path.exists()
    node.path.write_text("a name that another file got")
    await turns()
    assert len(node.stream.lines) == 2
    node.output.close()


async def test_a_driver_may_want_none(tmp_path: Path) -> None:
    node = Node(tmp_path, log_to_driver=False)
    node.path.write_text("one\n")
    node.output.read_all()
    assert node.stream.lines == []
    node.output.close()


# Other nodes ----------------------------------------------------------------------------------------------------------


class Far:
    """The cluster's side: it keeps the lines."""

    def __init__(self, node: Node) -> None:
        self.full = False
        self.sent: list[str] = []
        self.owed: dict[str, int] = {}
        self.flushes = 0
        node.output.join(cast(FarOutput, self), self._request_flush)

    def _request_flush(self) -> None:
        self.flushes += 1

    def is_full(self, job: Job) -> bool:
        return self.full

    def send(self, job: Job, lines: list[Line]) -> None:
        self.sent += [f"{stream} {text}" for stream, _, text in lines]

    def acknowledge(self, is_behind: Callable[[Party], bool]) -> None:
        if not is_behind(self.reader):
            self.owed.clear()

    reader: Party = Party(99)


def serve_other_node(node: Node) -> Far:
    """The job of the worker belongs to a driver at another node."""
    assert node.worker.job is not None
    node.worker.job.reports_to = Peer(77, b"othrnode", Link(node.machine.outbox, b"thisnode", b"othrnode", 0.0))
    return Far(node)


async def test_lines_for_a_driver_at_another_node_go_there(node: Node) -> None:
    far = serve_other_node(node)
    node.path.write_text("one\n")
    node.output.read_all()
    assert far.sent == ["out one"]
    assert far.flushes == 1, "the daemon may have nothing else to do in this turn"
    assert node.stream.lines == []
    node.output.close()


async def test_lines_for_another_node_wait_while_much_is_under_way_but_not_the_last_ones(node: Node) -> None:
    far = serve_other_node(node)
    far.full = True
    node.path.write_text("one\n")
    node.output.read_all()
    await turns()
    assert far.sent == []
    assert node.worker.job is not None
    node.output.read_last_of(node.worker.job)
    assert far.sent == ["out one"]
    node.output.close()


async def test_a_driver_at_another_node_may_want_none(tmp_path: Path) -> None:
    node = Node(tmp_path, log_to_driver=False)
    far = serve_other_node(node)
    node.path.write_text("one\n")
    node.output.read_all()
    assert far.sent == []
    node.output.close()


async def test_other_nodes_learn_what_a_driver_has_read_once_it_has(node: Node) -> None:
    far = Far(node)
    far.reader = node.driver
    node.driver.out.clear()  # the welcome
    far.owed = {"node": 1}
    node.stream.backlog = 1 << 30
    node.output.expect([])
    await turns()
    assert far.owed, "the driver is behind"
    node.stream.backlog = 0
    await turns()
    assert not far.owed
    node.output.close()


async def test_messages_that_wait_for_a_driver_count_as_unread(node: Node) -> None:
    assert node.driver.out
    assert node.output._is_behind(node.driver)
    node.driver.out.clear()
    assert not node.output._is_behind(node.driver)
    assert not node.output._is_behind(Party(99)), "it has ended"
    node.output.close()
