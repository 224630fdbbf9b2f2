"""The runtime of this process: the parts of a session, put together. One per process, the same in drivers and workers.

Owns nothing but the order in which the parts are made and ended. Every method may be called from any thread.
"""

from __future__ import annotations

import gc
import socket
import threading
from collections.abc import Callable
from typing import Any

from asyncray.messages import RETIRED, RUN_GC, Received
from asyncray.runtime import current
from asyncray.runtime.connection import Connection
from asyncray.runtime.context import WorkerInfo
from asyncray.runtime.deadlines import share
from asyncray.runtime.object_client import ObjectClient
from asyncray.runtime.submission import Submitter
from asyncray.runtime.values import Values


class Runtime:
    """A session's parts.

    Args:
        stream: a connected stream socket to the daemon.
        role: "driver", "worker" or "observer".
        info: the facts about this process that the daemon needs.
        ended: called in the io thread when the connection has ended, with the reason.
    """

    def __init__(self, stream: socket.socket, role: str, info: dict[str, Any], ended: Callable[[str], None]) -> None:
        self.connection = connection = Connection(stream, role, info, ended)
        self.values = Values(connection)
        self.objects = ObjectClient(connection, self.values)
        self.submitter = Submitter(connection, self.objects, self.values)
        # The facts that a worker offers to the code that runs in it. None in other processes.
        self.workplace: WorkerInfo | None = None
        connection.handlers[RETIRED] = lambda m: self.values.forget_segment(m[1])
        connection.handlers[RUN_GC] = _collect_garbage
        self.references = connection.references
        self.waiters = connection.waiters
        self.channel = connection.channel
        self.handlers = connection.handlers
        self.facts = connection.facts
        self.start = connection.start
        self.work_for = connection.work_for
        self.post = connection.post
        self.flush = connection.flush
        self.request = connection.request
        self.request_async = connection.request_async

    def __repr__(self) -> str:
        return f"<Runtime {self.connection}>"

    def say_goodbye(self, deadline: float) -> None:
        """Announces to the node that this driver leaves it, and waits until the node has ended its job.

        Args:
            deadline: seconds.

        Raises:
            LocalNodeDiedError: the node has ended.
            TimeoutError: it does not answer.
        """
        self.waiters.leaving = True
        self.request("goodbye", deadline=deadline)

    def stop(self, timeout: float) -> None:
        """Ends the session. Everything that waits gets an error.

        Args:
            timeout: seconds, for all of it.
        """
        share(timeout, self.connection.stop, self.objects.close)
        self.values.close()


def _collect_garbage(message: Received) -> None:
    """Collects garbage on a thread of its own, because finalizers are user code and may even wait for objects."""
    try:
        threading.Thread(target=gc.collect, name="asyncray-collect", daemon=True).start()
    except RuntimeError:
        pass  # the interpreter ends, and all garbage with it


def require() -> Runtime:
    """The runtime of this process; starts one implicitly where that is allowed."""
    return current.require()  # type: ignore[return-value]  # ``cast`` is a call, and this one is made for each ``put``
