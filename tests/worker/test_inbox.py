"""The inbox: every message is taken out once, and a closed one takes in nothing but the end."""

from __future__ import annotations

import threading

from asyncray.messages import LEAVE, RUN
from asyncray.worker.inbox import Inbox

DEADLINE = 10.0

ONE, TWO, THREE = (RUN, b"one"), (RUN, b"two"), (RUN, b"three")


def test_messages_come_out_in_order() -> None:
    inbox = Inbox()
    assert inbox.empty()
    assert inbox.put(ONE)
    assert inbox.put(TWO)
    assert inbox.filled()
    assert [inbox.take(), inbox.take()] == [ONE, TWO]
    assert inbox.empty()


def test_one_task_is_taken_out_and_the_others_keep_their_order() -> None:
    inbox = Inbox()
    for message in (ONE, TWO, THREE):
        inbox.put(message)
    assert inbox.remove(b"two") == TWO
    assert inbox.remove(b"two") is None
    assert inbox.drain() == [ONE, THREE]
    assert inbox.drain() == []


def test_a_closed_inbox_takes_in_the_end_only() -> None:
    inbox = Inbox()
    inbox.put(ONE)
    assert inbox.close("wait") == [ONE]
    assert not inbox.put(TWO)
    assert inbox.put((LEAVE, "why"))
    assert inbox.take() == (LEAVE, "why")
    inbox.reopen("wait")
    assert inbox.put(TWO)


def test_it_opens_with_the_end_of_the_last_wait_or_of_the_task() -> None:
    inbox = Inbox()
    inbox.put(ONE)
    assert inbox.close("task") == [ONE]
    assert inbox.close("signal handler") == []
    inbox.reopen("signal handler")
    inbox.reopen("signal handler")
    assert not inbox.put(TWO)
    inbox.reopen("task")
    assert inbox.put(TWO)
    inbox.close("left behind")
    inbox.reopen_for_next()
    assert inbox.put(THREE)


def test_a_thread_in_the_middle_of_it_knows() -> None:
    inbox = Inbox()
    assert not inbox.held_by_this_thread()
    with inbox._lock:
        assert inbox.held_by_this_thread()


def test_a_forked_child_reopens_it_where_another_thread_of_its_parent_was_in_the_middle_of_it() -> None:
    inbox = Inbox()
    inbox.close("wait")
    thread = threading.Thread(target=inbox.reopen, args=("wait",), daemon=True)
    with inbox._lock:
        thread.start()
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert inbox.put(ONE)
