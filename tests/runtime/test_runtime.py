"""The parts of a session, put together and ended."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from asyncray.exceptions import LocalNodeDiedError
from asyncray.messages import REPLY, REQUEST, RETIRED, RUN_GC
from asyncray.runtime.refs import own
from tests.runtime.daemon_side import DEADLINE, started


class Cycle:
    def __init__(self) -> None:
        self.me = self


def test_garbage_is_collected_when_the_daemon_asks_for_it() -> None:
    gc.disable()
    try:
        gone = threading.Event()
        weakref.finalize(Cycle(), gone.set)
        with started() as (_, daemon):
            daemon.send((RUN_GC,), (RETIRED, "a segment that was never mapped"))
            assert gone.wait(DEADLINE)
            for thread in threading.enumerate():
                if thread.name == "asyncray-collect":
                    thread.join(DEADLINE)
    finally:
        gc.enable()


def test_its_end_ends_what_waits_and_its_threads() -> None:
    with started() as (runtime, daemon):
        future = runtime.objects.future(own(runtime.references, b"o" * 26))
        runtime.post((REQUEST, 7, "ping", ()))
        daemon.next(REQUEST)
        daemon.send((REPLY, 7, None))
        runtime.stop(DEADLINE)
        assert isinstance(future.exception(0), LocalNodeDiedError)
        with pytest.raises(LocalNodeDiedError):
            runtime.request("status")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncray-") and thread.is_alive()]
