"""A lock that knows whether the calling thread holds it."""

from __future__ import annotations

import os
import threading

import pytest

from asyncray.io.owned_lock import OwnedRLock


def test_only_the_thread_that_holds_the_lock_is_told_so() -> None:
    lock = OwnedRLock()
    found: list[bool] = []
    assert not lock.held_by_this_thread()
    with lock, lock:
        assert lock.held_by_this_thread()
        other = threading.Thread(target=lambda: found.append(lock.held_by_this_thread()))
        other.start()
        other.join()
    assert found == [False]
    assert not lock.held_by_this_thread()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_releases_what_a_thread_of_its_parent_holds() -> None:
    lock = OwnedRLock()
    held, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            forked.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = os.fork()
    if not pid:
        lock.reset_in_child()
        os._exit(not lock.acquire(blocking=False))
    forked.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
