"""Finalizers of garbage use the session, and come at any moment in any thread: nothing is taken that they want, too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from asyncray.ids import OBJECT_SIZE
from asyncray.runtime.connection import IdSource
from asyncray.runtime.references import References
from asyncray.runtime.refs import borrow
from asyncray.runtime.submission import Submitter
from asyncray.worker.inbox import Inbox
from tests.points import at_every_point

DEADLINE = 10.0


def in_time(work: Callable[[], object]) -> None:
    """On a thread, which is left behind if it hangs."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def held_by_others(lock: Any) -> bool:
    """True if other threads would have to wait for it."""
    found: list[bool] = []

    def look() -> None:
        found.append(not lock.acquire(blocking=False))
        if not found[0]:
            lock.release()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_who_has_the_references_is_known() -> None:
    references = References(lambda: None)
    found: list[bool] = []
    numbers = iter(range(10**6))

    def work() -> None:
        object_id = next(numbers).to_bytes(OBJECT_SIZE, "big")
        for _ in range(2):
            borrow(references, object_id)
        references.collect()

    def finalizer() -> None:
        found.append(references.held_by_this_thread() == held_by_others(references._lock))

    at_every_point(finalizer, work)
    assert found
    assert all(found)
    assert not references.held_by_this_thread()


def test_who_has_the_inbox_is_known() -> None:
    inbox = Inbox()
    found: list[bool] = []

    def work() -> None:
        inbox.put((1, b"task"))
        inbox.close("wait")
        inbox.reopen("wait")

    def finalizer() -> None:
        found.append(inbox.held_by_this_thread() == held_by_others(inbox._lock))

    in_time(lambda: at_every_point(finalizer, work))
    assert found
    assert all(found)


def test_templates_have_numbers_of_their_own_whoever_comes_in_between() -> None:
    sent: list[Any] = []
    names = iter(range(10**6))
    references = References(lambda: None)
    connection: Any = SimpleNamespace(post=sent.append, references=references, waiters=None, ids=IdSource())
    nothing: Any = None
    submitter = Submitter(connection, nothing, nothing)

    def describe() -> None:
        submitter.template({"name": str(next(names)), "function": b"", "returns": 1, "retries": 0, "demand": ()})

    in_time(lambda: at_every_point(describe, describe))
    assert len({message[1] for message in sent}) == len({message[2] for message in sent}) == len(sent) > 2
