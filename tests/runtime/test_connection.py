"""The connection: its beginning, requests, waits, and the end of the other side."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from asyncray.exceptions import AsyncraySystemError, LocalNodeDiedError
from asyncray.ids import is_call
from asyncray.messages import (
    BLOCKED,
    DISCONNECT,
    FUNCTION,
    PLAIN,
    REFUSED,
    REPLY,
    REPLY_FAULT,
    REQUEST,
    UNBLOCKED,
    VALUE,
)
from asyncray.runtime.blocking import BlockReporter
from asyncray.runtime.connection import Connection, IdSource
from asyncray.runtime.context import TaskContext
from asyncray.runtime.refs import own
from tests.points import at_point
from tests.runtime.daemon_side import DEADLINE, DaemonSide, connected


def answer(daemon: DaemonSide, *reply: Any) -> threading.Thread:
    """Answers the next request, on a thread."""

    def run() -> None:
        number = daemon.next(REQUEST)[1]
        daemon.send((reply[0], number, *reply[1:]))

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_refusal_and_the_end_before_the_welcome_are_errors() -> None:
    for message, error in (((REFUSED, "too old"), AsyncraySystemError), (None, LocalNodeDiedError)):
        ours, its = socket.socketpair()
        connection, daemon = Connection(ours, "driver", {}, lambda reason: None), DaemonSide(its)
        if message is not None:
            daemon.send(message)
        else:
            daemon.close()
        with pytest.raises(error):
            connection.start()
        connection.stop(DEADLINE)
        daemon.close()


def test_requests_are_answered_and_stale_answers_dropped() -> None:
    with connected() as (connection, daemon):
        daemon.send((REPLY, 4711, "nobody asked"))
        thread = answer(daemon, REPLY, [1, 2])
        assert connection.request("status") == (1, 2)
        thread.join()
        thread = answer(daemon, REPLY_FAULT, "ActorAlreadyExistsError", {"message": "no"})
        with pytest.raises(ValueError, match="no"):
            connection.request("status")
        thread.join()
        thread = answer(daemon, REPLY, "hi")
        assert asyncio.run(connection.request_async("status")) == "hi"
        thread.join()
        assert connection.replies == {}


def test_a_request_ends_by_its_deadline_and_with_the_daemon() -> None:
    with connected() as (connection, daemon):
        with pytest.raises(TimeoutError, match="did not answer"):
            connection.request("status", deadline=0.001)
        assert not connection.waiters.has_waiters()
        daemon.close()
        with pytest.raises(LocalNodeDiedError):
            connection.request("status")
        with pytest.raises(LocalNodeDiedError):
            connection.check_alive()


@pytest.mark.parametrize("defect", [True, False])
def test_the_end_has_the_reason_of_the_daemon_and_its_log_if_that_says_more(tmp_path: Path, defect: bool) -> None:
    (tmp_path / "logs").mkdir()
    log = tmp_path / "logs" / "node.log"
    log.write_text("12:00 INFO serving\n12:01 ERROR no memory\n")
    with connected() as (connection, daemon):
        connection.facts["session_dir"] = str(tmp_path)
        daemon.send((DISCONNECT, "it got SIGTERM", defect))
        daemon.close()
        with pytest.raises(LocalNodeDiedError) as caught:
            connection.request("status")
    more = f"\nThe end of its log, {log}:\n12:00 INFO serving\n12:01 ERROR no memory" if defect else ""
    assert str(caught.value) == f"The node of this process has ended: it got SIGTERM.{more}"


def test_an_end_without_a_goodbye_is_no_death_of_the_node() -> None:
    """A second signal may come before the goodbye."""
    with connected() as (connection, _):
        connection.stop(DEADLINE)
        with pytest.raises(LocalNodeDiedError, match="This process has left its node"):
            connection.request("status")


def test_messages_of_a_thread_stay_in_order() -> None:
    with connected() as (connection, daemon):
        for number in range(2000):
            connection.post((FUNCTION, number))  # type: ignore[arg-type]  # a number for the digest
        assert [daemon.next(FUNCTION)[1] for _ in range(2000)] == list(range(2000))


def test_values_come_before_the_replies_that_follow_them() -> None:
    with connected() as (connection, daemon):
        ref = own(connection.references, b"o" * 26)

        def run() -> None:
            number = daemon.next(REQUEST)[1]
            daemon.send((VALUE, b"o" * 26, PLAIN, b"value"), (VALUE, b"p" * 26, PLAIN, b""), (REPLY, number, None))

        thread = threading.Thread(target=run)
        thread.start()
        connection.round_trip()
        thread.join()
        assert ref._local.payload == b"value"


def test_a_function_is_called_after_a_round_trip_in_the_thread_that_reads() -> None:
    called: queue.SimpleQueue[str] = queue.SimpleQueue()
    with connected() as (connection, daemon):
        connection.call_after_round_trip(lambda: called.put(threading.current_thread().name))
        number = daemon.next(REQUEST)[1]
        assert called.empty()
        daemon.send((REPLY, number, None))
        assert called.get(timeout=10) == "asyncray-io"


def test_a_task_that_waits_is_reported() -> None:
    with connected() as (connection, daemon):
        local = connection.new_reply()
        task = TaskContext(b"task", "f", "m.f")
        assert not connection.block_on((local,), timeout=0.001, task=task)
        assert [daemon.next(BLOCKED)[1], daemon.next(UNBLOCKED)[1]] == [b"task", b"task"]
        assert local.waiters is None


class Interrupted(Exception):
    """Of a signal handler, in an event loop that survives it."""


@pytest.mark.parametrize("face", ["sync", "async"])
def test_each_wait_ends_once_wherever_a_signal_handler_raises(face: str) -> None:
    events: list[Any] = []
    interrupts: list[int] = []

    def interrupt() -> None:
        interrupts.append(len(events))
        raise Interrupted

    with connected() as (connection, _):
        blocking = connection.blocking = BlockReporter(events.append, lambda: None)
        blocking.before = lambda task, waiter: events.append(("closed", waiter))
        blocking.after = lambda waiter: events.append(("reopened", waiter))

        def wait() -> None:
            events.clear()
            with contextlib.suppress(Interrupted):
                connection.block_on((connection.new_reply(),), timeout=0, task=TaskContext(b"task", "f", "m.f"))

        async def wait_in_loop() -> None:
            events.clear()
            with contextlib.suppress(Interrupted):
                task = TaskContext(b"task", "f", "m.f")
                await connection.wait_async((connection.new_reply(),), timeout=0, task=task)

        number = 0
        with asyncio.Runner() as runner:
            runner.run(asyncio.sleep(0))
            work = wait if face == "sync" else lambda: runner.run(wait_in_loop())
            while at_point(number := number + 1, interrupt, work):
                kinds = [event[0] for event in events]
                assert kinds.count(BLOCKED) == kinds.count(UNBLOCKED) <= 1
                assert kinds.count("closed") <= kinds.count("reopened")
                assert not connection.waiters.has_waiters()
    assert {0, 1, 2, 4} <= set(interrupts)


def test_a_cancelled_wait_in_a_loop_leaves_nothing() -> None:
    async def main(connection: Connection) -> None:
        local = connection.new_reply()
        waiting = asyncio.create_task(connection.wait_async((local,)))
        await asyncio.sleep(0)
        assert connection.waiters.has_waiters()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        assert not await connection.wait_async((local,), timeout=0.001)
        assert not connection.waiters.has_waiters()
        assert local.waiters is None

    with connected() as (connection, _):
        asyncio.run(main(connection))
        assert not connection._flushing_loops


def test_ids_begin_with_client_and_job_and_are_never_given_twice() -> None:
    ids = IdSource()
    ids.prefix = b"c" * 12 + b"job1"
    given = [ids.next_task_id() for _ in range(3)] + [ids.next_call_id() for _ in range(3)]
    assert len(set(given)) == 6
    assert all(task_id.startswith(ids.prefix) for task_id in given)
    assert [is_call(task_id + bytes(4)) for task_id in given] == [False] * 3 + [True] * 3
