"""A worker's life, rehearsed in the zygote: its workers find the interpreter warm.

1. **Goal.** An actor answers its first call 5 ms of CPU time after the fork of its process, and most of that is Python
   code of ours which runs there for the first time.
2. **Why it is slow.** A forked process shares the zygote's pages until it writes to them. Code that runs for the first
   time writes: the interpreter counts calls, puts faster instructions into the code after eight of them, and fills its
   caches of attributes. Each worker would do that again, for itself.
3. **Solution.** The zygote plays a worker some times before it forks more of them: with a stream to itself, and the
   messages that a daemon sends for an actor and its first call. In each worker that saves 0.7 ms and 60 page faults.
4. **Nothing stays.** There is no thread: the main thread reads the stream, as it does in workers. The changes to this
   process are undone; LEASE, which changes its environment variables, has no part. The script ends with LEAVE, and is
   in the socket before the worker begins, so it never waits.
"""

from __future__ import annotations

import contextvars
import gc
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from asyncray.config import STOP_DEADLINE
from asyncray.ids import CALL_MARK
from asyncray.messages import CONSTRUCT, DEFINE, INVOKE, LEAVE, PLAIN, SETUP, WELCOME, Message
from asyncray.runtime.arguments import NO_ARGUMENTS
from asyncray.runtime.interpreters import this_interpreter
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import serialize, serialize_in_band
from asyncray.wire.frames import encode
from asyncray.worker import ending
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.work_loop import WorkLoop

if TYPE_CHECKING:
    from asyncray.words import JobSetup, NodeWelcome, WorkerSpec

_TIMES = 10
"""Python 3.11 makes code faster after eight calls."""


def rehearse() -> Iterator[None]:
    """Plays a worker in this process, which must be free of sessions: once for each ``next``."""
    script = encode(_script())
    # Otherwise the end of each play looks at all objects of this process.
    gc.collect()
    gc.freeze()
    for _ in range(_TIMES):
        _play(script)
        yield


def _play(script: bytes) -> None:
    ours, daemons = socket.socketpair()
    path, stdout, stderr, hook = sys.path.copy(), sys.stdout, sys.stderr, sys.unraisablehook
    with daemons:
        daemons.sendall(script)
        runtime = Runtime(ours, "worker", {"pid": os.getpid(), "number": 0}, _ended)
        try:
            environment = ProcessEnvironment()
            environment.mark_output(lambda why: None)
            work_loop = WorkLoop(runtime, environment, Leftovers())
            # In a context of its own, because a worker does not leave the last one that it enters.
            contextvars.copy_context().run(work_loop.run)
            work_loop.let_go()
        finally:
            sys.path[:] = path
            sys.stdout, sys.stderr, sys.unraisablehook = stdout, stderr, hook
            runtime.stop(STOP_DEADLINE)
    ending.flush_files()


def _ended(reason: str) -> None:
    pass


def _script() -> list[Message]:
    """The messages for a worker that becomes an actor, runs a method, and leaves."""
    # As a class of ``__main__``, which travels by value: so do most classes of programs.
    part = type("Part", (), {"__module__": "__main__", "speak": lambda self, text: text})
    client, job_id = bytes(12), bytes(4)
    welcome = cast("NodeWelcome", {"client_id": client})
    job: JobSetup = {
        "code_paths": {"before": [], "between": [], "after": [], "shadowed": []},
        "directory": None,
        "interpreter": this_interpreter(),
        "log_to_driver": True,
        "namespace": "",
    }
    ids = [client + job_id + number.to_bytes(6, "big") for number in (1, CALL_MARK | 2)]
    constructor: WorkerSpec = {"name": "Part", "function": 1, "returns": 1, "shown": "__main__.Part", "concurrency": 1}
    method: WorkerSpec = {"name": "Part.speak", "function": 0, "returns": 1, "method": "speak"}
    arguments = serialize((("a text",), {})).pickled
    return [
        (WELCOME, welcome),
        (SETUP, job_id, job),
        (DEFINE, 1, constructor, serialize_in_band(part).pickled),
        (CONSTRUCT, ids[0], 1, PLAIN, NO_ARGUMENTS, None, None, 0, ""),
        (DEFINE, 2, method, None),
        (INVOKE, ids[1], 2, PLAIN, arguments, None, None),
        (LEAVE, "the rehearsal ends"),
    ]
