"""A lock that tells whether the calling thread holds it."""

from __future__ import annotations

import threading

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
