"""The connection of this process to its daemon, the same in drivers and workers.

Owns the stream (``asyncray.io.channel``), the table of references, the waiters, the IDs that this process gives, and
the questions that it has asked. ``ObjectClient``, ``Submitter`` and ``Values`` are given this one object.

Promises:

1. Messages that one thread posts are sent in that order.
2. Every request and every wait ends: by its answer, by its deadline, or with LocalNodeDiedError when the stream ends.
3. A wait that a signal handler, a timeout or a cancellation ends leaves no waiter behind: registering, waiting and
   withdrawing happen in one place, ``block_on`` for threads and ``wait_async`` for event loops.

It does not know what values, tasks or actors are. Handlers run in the io thread, or in a thread that waits and reads in
its place; they are quick and call no code of the user's.
"""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from asyncray.config import FRAME_LIMIT, LOOP_DEADLINE, REQUEST_DEADLINE, START_DEADLINE
from asyncray.exceptions import AsyncraySystemError, WouldDeadlockError
from asyncray.ids import CALL_MARK
from asyncray.io import signal_checks
from asyncray.io.channel import Channel
from asyncray.messages import (
    AWAY,
    DISCONNECT,
    FAULT,
    HELLO,
    PLAIN,
    REFUSED,
    REPLY,
    REPLY_FAULT,
    REQUEST,
    SHARED,
    SUBSCRIBE,
    UNRESOLVED,
    VALUE,
    VERSION,
    WELCOME,
    AwayMessage,
    DisconnectMessage,
    Message,
    Received,
    RefusedMessage,
    RequestMessage,
    WelcomeMessage,
)
from asyncray.runtime.blocking import BlockReporter, is_finished
from asyncray.runtime.context import TaskContext, in_event_loop, running_task
from asyncray.runtime.daemon_log import complaints
from asyncray.runtime.errors import system_fault
from asyncray.runtime.references import TOGETHER, LocalObject, References
from asyncray.runtime.waiters import IoThreadCallback, LoopWaiter, ThreadWaiter, Waiter, Waiters

if TYPE_CHECKING:
    import asyncio

    from asyncray.words import NodeWelcome

MessageHandler = Callable[[Received], None]


class IdSource:
    """Makes the IDs that this process gives. Safe in any thread and in finalizers: a number is taken in one C call."""

    def __init__(self) -> None:
        # Client and job: the first bytes of every ID. Set at the welcome, and in workers with each job.
        self.prefix = b""
        self._counter = itertools.count(1)

    def __repr__(self) -> str:
        return f"<IdSource {self.prefix.hex()}>"

    def next_task_id(self) -> bytes:
        """A new ID."""
        return self.prefix + next(self._counter).to_bytes(6, "big")

    def next_call_id(self) -> bytes:
        """A new ID for a call of an actor."""
        return self.prefix + (CALL_MARK | next(self._counter)).to_bytes(6, "big")


class Connection:
    """The connection.

    Args:
        stream: a connected stream socket to the daemon.
        role: "driver", "worker" or "observer".
        info: the facts about this process that the daemon needs.
        ended: called in the io thread when the stream has ended, with the reason.
    """

    def __init__(self, stream: socket.socket, role: str, info: dict[str, Any], ended: Callable[[str], None]) -> None:
        self._ended = ended
        self._is_driver = role == "driver"
        self.references = References(self._request_flush)
        self.waiters = Waiters()
        self.waiters.ask_for = self._ask_for
        self.channel = Channel(
            stream,
            FRAME_LIMIT,
            self.references.collect,
            self._received,
            self._closed,
            self.waiters.has_waiters,
            self.waiters.end_in_child,
        )
        self.references.request_flush = self.channel.request_flush  # two calls less at the end of each ref
        # The handler of each kind of message. Others add theirs before ``start``.
        self.handlers: dict[int, MessageHandler] = {
            WELCOME: self._welcomed,
            REFUSED: self._refused,
            REPLY: lambda m: self._replied(m[1], PLAIN, m[2]),
            REPLY_FAULT: lambda m: self._replied(m[1], FAULT, (m[2], m[3])),
            DISCONNECT: self._disconnected,
            AWAY: self._went_away,
        }
        self.blocking = BlockReporter(self.references.posted.append, self.channel.request_flush)
        # Filled by the io thread at the welcome. A worker's job and namespace change with its tasks.
        self.facts = cast("NodeWelcome", {})
        self.ids = IdSource()
        # Numbers of requests are never reused: a stale answer finds no entry, and is dropped. Entries are made by the
        # thread that asks, and taken out by the io thread, or by ``asyncray.runtime.reservation`` when it gives up.
        self.request_numbers = itertools.count(1)
        self.replies: dict[int, LocalObject] = {}
        # Loops in which a flush at the end of the current turn is scheduled. Each entry belongs to its loop's thread.
        self._flushing_loops: set[asyncio.AbstractEventLoop] = set()
        self._loop_checks = signal_checks.LoopChecks(self.waiters.has_waiters)
        # The reason of the daemon for the end of the stream, and whether its log says more. None: it has sent none.
        self._farewell: tuple[str, bool] | None = None
        # Why the daemon has refused this process. None before.
        self.refusal: str | None = None
        self._greeting = self.new_reply()
        self.references.posted.append((HELLO, VERSION, role, info))

    def __repr__(self) -> str:
        return f"<Connection {self.ids.prefix.hex()} {self.references} {self.waiters.broken or 'connected'}>"

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
        waiter = ThreadWaiter(1)
        if self.waiters.register(waiter, (self._greeting,)) and not waiter.wait_for_signals_too(START_DEADLINE):
            raise TimeoutError(f"The node did not answer within {START_DEADLINE:g} seconds.")
        if self._greeting.kind == FAULT:
            raise AsyncraySystemError(f"The node refused the connection: {self._greeting.payload}")
        self.check_alive(self._greeting)

    def work_for(self, job_id: bytes) -> None:
        """IDs that are made from now on belong to this job."""
        self.ids.prefix = self.facts["client_id"] + job_id

    def stop(self, timeout: float) -> None:
        """Ends the stream. Everything that waits gets an error."""
        self.waiters.leaving = True
        self.references.close()
        self.channel.stop(timeout)

    def check_alive(self, missing: LocalObject | None = None) -> None:
        """Raises LocalNodeDiedError if the stream has ended; given an object, only if that has no value."""
        if missing is None or missing.kind == UNRESOLVED:
            self.waiters.check_alive()

    # In the io thread, or the thread that reads in its place ----------------------------------------------------------

    def _received(self, messages: list[Received]) -> None:
        values: list[tuple[LocalObject, int, Any]] = []
        references, handlers = self.references, self.handlers
        table = references.table
        for message in messages:
            kind = message[0]
            if kind != VALUE:
                if values:  # deliver values first: replies may rely on them
                    self.waiters.resolved(values)
                    values = []
                handlers[kind](message)
                continue
            _, object_id, value_kind, payload = message
            if value_kind == SHARED:
                may_leave = len(payload) > 3
                if may_leave:
                    self.waiters.values_may_leave()
                local = references.on_shared_value(object_id, payload, may_leave=may_leave)
            else:
                local = table.get(object_id)
            if local is not None and local.kind == UNRESOLVED:
                values.append((local, value_kind, payload))
        if values:
            self.waiters.resolved(values)

    def _welcomed(self, message: WelcomeMessage) -> None:
        _, facts = message
        self.facts.update(facts)
        self.work_for(self.facts.get("job_id", b"\0\0\0\0"))
        self.waiters.resolved([(self._greeting, PLAIN, None)])

    def _refused(self, message: RefusedMessage) -> None:
        _, self.refusal = message
        self.waiters.resolved([(self._greeting, FAULT, self.refusal)])

    def _replied(self, number: int, kind: int, payload: Any) -> None:
        reply = self.replies.pop(number, None)
        if reply is not None:
            self.waiters.resolved([(reply, kind, payload)])

    def _went_away(self, message: AwayMessage) -> None:
        _, object_id, comes = message
        local = self.references.table.get(object_id)
        if local is not None and local.kind == UNRESOLVED and self.waiters.went_away(local, comes=comes):
            self._ask_for((local,))

    def _ask_for(self, objects: Sequence[LocalObject]) -> None:
        """Asks for values together, as they are needed together."""
        self.post((SUBSCRIBE, [local.id for local in objects]))
        # Mark after posting: if an interrupt comes in between, they are asked for again.
        how = TOGETHER if len(objects) > 1 else True
        for local in objects:
            local.push_expected = how

    def _disconnected(self, message: DisconnectMessage) -> None:
        _, why, defect = message
        self._farewell = why, defect

    def _closed(self, reason: str) -> None:
        why, log_says_more = self._farewell or (reason, True)
        directory = self.facts.get("session_dir")
        # Nobody asks why a session ends that this process ends itself, and a child forked now would have the open log.
        wants_log = log_says_more and self._is_driver and not self.waiters.leaving
        self.waiters.fail(why, complaints(directory) if wants_log and directory else "")
        self._ended(why)

    # Sending: any thread ----------------------------------------------------------------------------------------------

    def _request_flush(self) -> None:
        self.channel.request_flush()

    def post(self, message: Message) -> None:
        """Queues a message, which is sent within a moment. Messages of one thread stay in order."""
        self.references.posted.append(message)
        self.channel.request_flush()

    def flush(self) -> None:
        """Sends the queue now. The io thread sends later what the socket does not take at once."""
        if self.references.held_by_this_thread():
            # In a finalizer: the thread that is writing may wait for a lock that this thread holds.
            return
        task = running_task()
        if task is None or task.shield is None:
            self.channel.flush()
        else:
            with task.shield:
                self.channel.flush()

    def flush_after_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Sends what this turn of the loop submits, in one batch at its end. Called in the loop's thread."""
        if loop not in self._flushing_loops:
            if self._is_driver:
                self._loop_checks.begin(loop)
            loop.call_soon(self._flush_turn, loop)
            # Record last: an interrupt between the two lines leaves a superfluous flush, and not a missing one.
            self._flushing_loops.add(loop)

    def _flush_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._flushing_loops.discard(loop)
        self.flush()

    # Waiting: any thread but the io thread ----------------------------------------------------------------------------

    def block_on(
        self,
        objects: Sequence[LocalObject],
        enough: int = 1,
        *,
        timeout: float | None = None,
        fails_fast: bool = False,
        fetch: bool = True,
        task: TaskContext | None = None,
    ) -> bool:
        """Sends the queue, and waits in this thread until ``enough`` of the objects have arrived.

        Args:
            fails_fast: the first error among them ends the wait.
            fetch: objects must come here. Otherwise they must exist, on any node.
            task: reported to the daemon as blocked meanwhile.

        Returns:
            False if the time is up first. True also if the stream has ended: see ``check_alive``.

        Raises:
            WouldDeadlockError: a finalizer would wait for its own thread.
        """
        was_finished = is_finished(task)
        waiter = ThreadWaiter(enough, fails_fast=fails_fast, fetches=fetch)
        if not self.waiters.register(waiter, objects):
            return True
        # No call between these lines, so no signal handler can raise before ``finally`` would withdraw the waiter.
        try:
            self.blocking.begin(task, waiter)
            return self._read_until(waiter, timeout)
        finally:
            linked = not waiter.fired or fails_fast or enough < len(objects)
            try:
                self._end_wait(waiter, objects if linked else (), task, was_finished=was_finished)
            except BaseException:  # of a handler; the next line does what it has prevented
                self._end_wait(waiter, objects, task, was_finished=was_finished)
                raise

    def _end_wait(
        self, waiter: Waiter, linked: Iterable[LocalObject], task: TaskContext | None, *, was_finished: bool
    ) -> None:
        """Reports that the wait has ended, and withdraws the waiter. Does nothing the second time."""
        try:
            self.blocking.end(task, waiter, was_finished=was_finished)
        finally:
            self.waiters.withdraw(waiter, linked)

    def _read_until(self, waiter: ThreadWaiter, timeout: float | None) -> bool:
        if (
            self.channel.held_by_this_thread()
            or self.waiters.held_by_this_thread()
            or self.references.held_by_this_thread()
        ):
            raise WouldDeadlockError
        self.flush()
        task = running_task()
        if task is not None and task.shield is not None:  # a thread that may be interrupted must not read
            return waiter.wait(timeout)
        spins = waiter.remaining == 1
        if not self._is_driver:
            return self.channel.read_until(lambda: waiter.fired, waiter.wait, timeout, spins=spins)
        sleep, longest_poll = waiter.wait_for_signals_too, signal_checks.longest_poll()
        return self.channel.read_until(lambda: waiter.fired, sleep, timeout, spins=spins, longest_poll=longest_poll)

    async def wait_async(
        self,
        objects: Sequence[LocalObject],
        enough: int = 1,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as in ``block_on``
        fails_fast: bool = False,
        fetch: bool = True,
        task: TaskContext | None = None,
    ) -> bool:
        """The same for coroutines. Cancelling it only stops the waiting."""
        import asyncio  # start-up cost: a program that awaits has imported it

        loop = asyncio.get_running_loop()
        waiter = LoopWaiter(enough, loop, fails_fast=fails_fast, fetches=fetch)
        was_finished = is_finished(task)
        if not self.waiters.register(waiter, objects):
            return True
        # No call between these lines, so no signal handler can raise before ``finally`` would withdraw the waiter.
        try:
            self.blocking.begin(task, waiter)
            self.flush_after_turn(loop)
            if timeout is None:
                await waiter.future
                return True
            return bool((await asyncio.wait((waiter.future,), timeout=timeout))[0])
        finally:
            linked = not waiter.fired or fails_fast or enough < len(objects)
            try:
                self._end_wait(waiter, objects if linked else (), task, was_finished=was_finished)
            except BaseException:  # of a handler; the next line does what it has prevented
                self._end_wait(waiter, objects, task, was_finished=was_finished)
                raise

    # Requests: any thread but the io thread ---------------------------------------------------------------------------

    def new_reply(self) -> LocalObject:
        """An object without an ID that stands for an answer of the daemon."""
        return LocalObject(b"", self.references)

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> LocalObject:
        number = next(self.request_numbers)
        reply = self.new_reply()
        request: RequestMessage = (REQUEST, number, method, arguments)
        self.replies[number] = reply
        # Not ``self.post()``: a signal handler that raises at its beginning would leave a reply that never comes.
        self.references.posted.append(request)
        self.channel.request_flush()
        return reply

    def _answer(self, reply: LocalObject) -> Any:
        self.check_alive(reply)
        if reply.kind == FAULT:
            raise system_fault(reply.payload)
        return reply.payload

    def request(self, method: str, *arguments: Any, deadline: float = REQUEST_DEADLINE) -> Any:
        """Asks the daemon, and waits for the answer.

        Raises:
            LocalNodeDiedError: the daemon ended meanwhile.
            TimeoutError: no answer within ``deadline`` seconds. In the thread of a running event loop, which stands
                still meanwhile, the deadline is shorter.
        """
        if in_event_loop():
            deadline = min(deadline, LOOP_DEADLINE)
        reply = self._ask(method, arguments)
        if not self.block_on((reply,), timeout=deadline):
            raise TimeoutError(f"The node did not answer within {deadline:g} seconds.")
        return self._answer(reply)

    async def request_async(self, method: str, *arguments: Any) -> Any:
        """The same for coroutines, with no deadline: a caller may cancel it."""
        reply = self._ask(method, arguments)
        await self.wait_async((reply,))
        return self._answer(reply)

    def round_trip(self) -> None:
        """Waits for the answer to a ping. The daemon sends every value that it already has before that answer."""
        self.block_on((self._ask("ping", ()),))

    def call_after_round_trip(self, function: Callable[[], None]) -> None:
        """The thread that reads calls the function, which must be quick, when the daemon has answered a ping.

        For finalizers: takes no thread, and does not wait. Calls nothing where the stream has ended.
        """
        self.waiters.register(IoThreadCallback(function), (self._ask("ping", ()),))

    async def round_trip_async(self) -> None:
        """The same for coroutines."""
        await self.wait_async((self._ask("ping", ()),))
