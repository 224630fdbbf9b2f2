"""The runtime: this process's connection to its daemon. One per process, the same in drivers and workers.

Owns the channel, the references and the waiters. Every method may be called from any thread. What arrives is handled
in the io thread; the handlers are quick and never call user code.
"""

from __future__ import annotations

import gc
import itertools
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

from asyncray.config import FRAME_LIMIT, REQUEST_DEADLINE, START_DEADLINE
from asyncray.exceptions import AsyncraySystemError, LocalNodeDiedError
from asyncray.ids import CALL_MARK
from asyncray.io.channel import Channel
from asyncray.io.interrupts import with_signals_deferred
from asyncray.messages import (
    ABANDON,
    ALLOCATE,
    ALLOCATED,
    FAULT,
    HELLO,
    PLAIN,
    REFUSED,
    REPLY,
    REPLY_FAULT,
    REQUEST,
    RETIRED,
    RUN_GC,
    SHARED,
    UNRESOLVED,
    VALUE,
    VERSION,
    WELCOME,
    Message,
)
from asyncray.runtime import current
from asyncray.runtime.context import WorkerInfo
from asyncray.runtime.errors import system_fault
from asyncray.runtime.object_client import ObjectClient
from asyncray.runtime.references import LocalObject, References
from asyncray.runtime.submission import Submitter
from asyncray.runtime.values import Place, Values, in_one_piece
from asyncray.runtime.waiters import ThreadWaiter, Waiters

Handler = Callable[[Message], None]


class Runtime:
    """The connection.

    Args:
        connection: a connected stream socket to the daemon.
        role: "driver", "worker" or "observer".
        info: what the daemon must know of this process.
        ended: called in the io thread when the connection has ended, with the reason.
    """

    def __init__(
        self, connection: socket.socket, role: str, info: dict[str, Any], ended: Callable[[str], None]
    ) -> None:
        self._ended = ended
        self.references = References(self._poke)
        self.waiters = Waiters()
        self.values = Values(self.references, self._allocate)
        self.channel = Channel(
            connection, FRAME_LIMIT, self.references.collect, self._received, self._closed, self.waiters.has_waiters
        )
        self.handlers: dict[int, Handler] = {
            WELCOME: self._welcome,
            REFUSED: self._refused,
            ALLOCATED: self._allocated,
            REPLY: lambda m: self._answer(m[1], PLAIN, m[2]),
            REPLY_FAULT: lambda m: self._answer(m[1], FAULT, (m[2], m[3])),
            RETIRED: lambda m: self.values.forget_segment(m[1]),
            RUN_GC: lambda m: self._collect(),
        }
        self.objects = ObjectClient(
            self.references, self.waiters, self.values, self.post, self.channel, self.next_task_id, self._ping
        )
        self.submitter = Submitter(
            self.objects, self.references, self.values, self.waiters, self.post, self.next_task_id, self.next_call_id
        )
        self.workplace: WorkerInfo | None = None
        self.facts: dict[str, Any] = {}
        self.prefix = b""
        self._counter = itertools.count(1)
        self._requests: dict[int, LocalObject] = {}
        self._request_numbers = itertools.count(1)
        self._allocating = threading.RLock()  # a finalizer may come here in a thread that has it
        self._places: dict[int, Place] = {}  # given, and not filled yet
        self._greeting = LocalObject(b"", self.references, True)
        self.references.posted.append((HELLO, VERSION, role, info))

    def __repr__(self) -> str:
        return f"<Runtime {self.prefix.hex()} {self.references} {self.waiters.broken or 'connected'}>"

    # Starting and ending ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Greets the daemon and waits for its welcome.

        Raises:
            AsyncraySystemError: refused.
            LocalNodeDiedError: the daemon ended meanwhile.
            TimeoutError: no welcome within the deadline.
        """
        self.channel.start()
        self.channel.flush()
        waiter = ThreadWaiter(1, False)
        if self.waiters.register(waiter, (self._greeting,)) and not waiter.wait(START_DEADLINE):
            raise TimeoutError(f"The node did not answer within {START_DEADLINE:g} seconds.")
        if self._greeting.kind == FAULT:
            raise AsyncraySystemError(f"The node refused the connection: {self._greeting.payload}")
        self._check_alive(self._greeting)

    def _welcome(self, message: Message) -> None:
        self.facts = message[1]
        self.work_for(self.facts.get("job_id", b"\0\0\0\0"))
        self.waiters.resolved([(self._greeting, PLAIN, None)])

    def _refused(self, message: Message) -> None:
        self.waiters.resolved([(self._greeting, FAULT, message[1])])

    def work_for(self, job_id: bytes) -> None:
        """IDs that are made from now on belong to this job."""
        self.prefix = self.facts["client_id"] + job_id

    def stop(self, timeout: float) -> None:
        """Ends the connection. Whoever waits gets an error."""
        self.references.close()
        self.channel.stop(timeout)
        self.values.close()

    def _closed(self, reason: str) -> None:
        self.waiters.fail(reason)
        self._ended(reason)

    def _check_alive(self, local: LocalObject) -> None:
        if local.kind == UNRESOLVED and self.waiters.broken is not None:
            raise LocalNodeDiedError(f"The node of this process is gone: {self.waiters.broken}.")

    # Messages ---------------------------------------------------------------------------------------------------------

    def _poke(self) -> None:
        self.channel.request_flush()

    def post(self, message: Message) -> None:
        """Sends a message soon. Messages of one thread stay in order."""
        self.references.posted.append(message)
        self.channel.request_flush()

    def flush(self) -> None:
        """Sends what was posted, now; what the socket does not take at once is sent soon."""
        self.objects.flush()

    def _received(self, messages: list[Message]) -> None:
        values: list[tuple[LocalObject, int, Any]] = []
        references, handlers = self.references, self.handlers
        table = references.table
        for message in messages:
            kind = message[0]
            if kind != VALUE:
                if values:  # an answer that comes after a value finds it there
                    self.waiters.resolved(values)
                    values = []
                handlers[kind](message)
                continue
            _, object_id, value_kind, payload = message
            local = references.on_shared_value(object_id) if value_kind == SHARED else table.get(object_id)
            if local is not None and local.kind == UNRESOLVED:
                values.append((local, value_kind, payload))
        if values:
            self.waiters.resolved(values)

    @staticmethod
    def _collect() -> None:
        # On a thread of its own: finalizers are user code, and may even wait for objects.
        try:
            threading.Thread(target=gc.collect, name="asyncray-collect", daemon=True).start()
        except RuntimeError:
            pass  # the interpreter ends, and all garbage with it

    def _answer(self, number: int, kind: int, payload: Any) -> None:
        reply = self._requests.pop(number, None)
        if reply is not None:
            self.waiters.resolved([(reply, kind, payload)])

    def _ask(self, message: Callable[[int], Message]) -> LocalObject:
        number = next(self._request_numbers)
        reply, request = LocalObject(b"", self.references, True), message(number)
        self._requests[number] = reply
        self.references.posted.append(request)  # here, for an interrupt that comes between the two leaves the first
        self.channel.request_flush()
        return reply

    def _reply(self, reply: LocalObject) -> Any:
        self._check_alive(reply)
        if reply.kind == FAULT:
            raise system_fault(reply.payload)
        return reply.payload

    def _ping(self) -> LocalObject:
        return self._ask(lambda number: (REQUEST, number, "ping", ()))

    def request(self, method: str, *arguments: Any, deadline: float = REQUEST_DEADLINE) -> Any:
        """Asks the daemon, and waits for the answer.

        Raises:
            LocalNodeDiedError: it ended meanwhile.
            TimeoutError: no answer within so many seconds.
        """
        reply = self._ask(lambda number: (REQUEST, number, method, arguments))
        if not self._wait_in_thread((reply,), deadline):
            raise TimeoutError(f"The node did not answer within {deadline:g} seconds.")
        return self._reply(reply)

    async def request_async(self, method: str, *arguments: Any) -> Any:
        """The same for coroutines."""
        reply = self._ask(lambda number: (REQUEST, number, method, arguments))
        await self.objects.wait_async((reply,), 1, False)
        return self._reply(reply)

    def _allocate(self, size: int, fill: Callable[[Place], bool]) -> Place:
        number = next(self._request_numbers)
        reply = LocalObject(b"", self.references, True)
        try:
            self._requests[number] = reply
            self.post((ALLOCATE, number, size))
            self._wait_in_thread((reply,), None)
            place = cast(Place, self._reply(reply))
            # Room is given up only when nobody writes there: copying takes two threads.
            in_one_piece(lambda: self._fill(number, place, fill))
        except BaseException:  # a signal handler that raised: the room must not be lost, be it given already or not
            with_signals_deferred(lambda: self._give_up(number))
            raise
        self._places.pop(number, None)
        return place

    def _fill(self, number: int, place: Place, fill: Callable[[Place], bool]) -> None:
        if fill(place):
            self._places.pop(number, None)

    def _give_up(self, number: int) -> None:
        with self._allocating:
            self._requests.pop(number, None)
            place = self._places.pop(number, None)
        if place is not None:
            self.post((ABANDON, place[0], place[1]))

    def _allocated(self, message: Message) -> None:
        _, number, segment, offset, warm = message
        with self._allocating:
            reply = self._requests.pop(number, None)
            if reply is not None:
                self._places[number] = place = segment, offset, warm
        if reply is None:
            self.post((ABANDON, segment, offset))
        else:
            self.waiters.resolved([(reply, PLAIN, place)])

    # Objects ----------------------------------------------------------------------------------------------------------

    def next_task_id(self) -> bytes:
        """A new ID. Safe in any thread."""
        return self.prefix + next(self._counter).to_bytes(6, "big")

    def next_call_id(self) -> bytes:
        """The same for a call of an actor."""
        return self.prefix + (CALL_MARK | next(self._counter)).to_bytes(6, "big")

    def _wait_in_thread(self, replies: Sequence[LocalObject], timeout: float | None) -> bool:
        waiter = ThreadWaiter(len(replies), False)
        if not self.waiters.register(waiter, replies):
            return True
        try:
            return self.objects.block_on(waiter, timeout)
        finally:
            if not waiter.fired:
                self.waiters.withdraw(waiter, replies)


def require() -> Runtime:
    """The runtime of this process; starts one if programs may rely on that."""
    return cast(Runtime, current.require())
