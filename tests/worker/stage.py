"""A worker in the test's own process: real runtime, real socket; the test is its daemon."""

from __future__ import annotations

import pickle
import signal
import socket
import sys
import threading
from typing import Any

import pytest

from asyncray.io.interrupts import Deferrable
from asyncray.messages import (
    CONSTRUCT,
    DEFINE,
    DONE,
    FAILED,
    INVOKE,
    LEAVE,
    LEAVING,
    PLAIN,
    RUN,
    WELCOME,
    Received,
)
from asyncray.runtime.context import leave, running_task
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import serialize_in_band
from asyncray.wire.frames import Decoder, encode
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.work_loop import WorkLoop

DEADLINE = 10.0
"""Seconds after which a worker that does not end fails the test."""

WELCOMED = {"client_id": b"client-id-12", "node_id": b"nodeid12"}


class Stage:
    """One worker. It lives until ``play`` returns."""

    def __init__(self) -> None:
        ours, self._socket = socket.socketpair()
        self._socket.settimeout(DEADLINE)
        self._decoder = Decoder(1 << 30)
        self._said: list[Any] = []
        self._templates = 0
        self._tasks = 0
        self.runtime = Runtime(ours, "worker", {"pid": 1, "number": 1}, lambda reason: None)
        self.environment = ProcessEnvironment()
        self.work_loop = WorkLoop(self.runtime, self.environment, Leftovers())

    def define(self, function: Any, **options: Any) -> Received:
        """A template of this function or class."""
        self._templates += 1
        number = 100 + self._templates
        spec = {"name": getattr(function, "__name__", "method"), "returns": 1, "function": number, **options}
        return (DEFINE, self._templates, spec, serialize_in_band(function).pickled)

    def _order(self, kind: int, template: Received, arguments: tuple[Any, ...], *more: Any) -> Received:
        self._tasks += 1
        task = b"task-%d" % self._tasks
        return (kind, task, template[1], PLAIN, pickle.dumps((arguments, {})), None, None, *more)

    def run(self, template: Received, *arguments: Any) -> Received:
        """A task."""
        return self._order(RUN, template, arguments)

    def construct(self, template: Received, *arguments: Any) -> Received:
        """The worker becomes an actor."""
        return self._order(CONSTRUCT, template, arguments, 0, "")

    def invoke(self, template: Received, *arguments: Any) -> Received:
        """A call of the actor."""
        return self._order(INVOKE, template, arguments)

    def play(self, *messages: Received, ends: bool = True) -> list[Any]:
        """Lets the worker handle all messages, and end; returns the messages that it has sent.

        The stage sends them as a daemon does: messages before a constructor arrive before the worker begins, and
        messages after it arrive after its reply.
        """
        script = [*messages, (LEAVE, "the play is over")] if ends else list(messages)
        at_once = next((place for place, message in enumerate(script, 1) if message[0] == CONSTRUCT), len(script))
        for message in script[:at_once]:
            self.runtime.handlers[message[0]](message)
        self._socket.sendall(encode([(WELCOME, WELCOMED)]))
        later = threading.Thread(target=self._send_after_a_reply, args=(script[at_once:],), daemon=True)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)}
        hook = sys.unraisablehook
        signal.signal(signal.SIGINT, Deferrable(self.work_loop.interrupted))
        signal.signal(signal.SIGALRM, lambda number, frame: pytest.fail("the worker does not end"))
        signal.setitimer(signal.ITIMER_REAL, DEADLINE)
        try:
            self.runtime.start()
            if at_once < len(script):
                later.start()
            self.work_loop.run()
            self.runtime.channel.drain(DEADLINE)
            if later.ident is not None:
                later.join()
            self._hear(LEAVING)
            return self._said[1:]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sys.unraisablehook = hook
            leave_all()
            self.runtime.stop(DEADLINE)
            self._socket.close()

    def _send_after_a_reply(self, messages: list[Received]) -> None:
        self._hear(DONE, FAILED)
        self._socket.sendall(encode(messages))

    def _hear(self, *kinds: int) -> None:
        """Until a message of such a kind has come."""
        while not any(message[0] in kinds for message in self._said):
            data = self._socket.recv(1 << 20)
            if not data:
                return
            self._said += map(list, self._decoder.feed(data))


def leave_all() -> None:
    """This thread runs no task any more, even if a worker's end has left one."""
    while (task := running_task()) is not None:
        leave(task)


def results(said: list[Any]) -> dict[bytes, Any]:
    """The value of each task that has succeeded, and the kind of error of each task that has failed."""
    done = {message[1]: pickle.loads(message[4]) for message in said if message[0] == DONE}
    return done | {message[1]: message[3] for message in said if message[0] == FAILED}
