"""The daemon's shell: sockets, processes and clocks around ``asyncray.core.machine.NodeMachine``.

Every event is handed to the machine at once; what the machine wants done is done once per turn of the event loop, so
that all that came in a turn is answered in one batch per client. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from asyncray.config import BACKLOG_LIMIT, FRAME_LIMIT, GREETING_LIMIT, START_DEADLINE, STOP_DEADLINE
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import (
    CloseClient,
    Command,
    CreateSegment,
    FlushOutput,
    KillWorker,
    LogLine,
    RetireSegment,
    StartWorker,
    StopNode,
)
from asyncray.core.records import Client
from asyncray.io import sessions
from asyncray.io.descriptors import shortage
from asyncray.io.processes import end_children
from asyncray.io.segments import Segment
from asyncray.io.streams import MessageStream
from asyncray.messages import HELLO, REFUSED, VERSION, Message
from asyncray.node.logs import WorkerLogs
from asyncray.node.output import Output
from asyncray.node.start import start_zygote
from asyncray.node.zygotes import End, ZygoteLink, describe_end

_TICK = 0.5
_QUICK_TICK = 0.01
_ROUND = 0.005
_BACKLOG = 1024
"""Connections that wait until they are accepted, in a burst."""

_MOST_STRANGERS = 500
"""Connections that have not greeted yet. Who comes honestly greets at once, so the oldest gives way."""

_MOST_ZYGOTES = 5
"""Zygotes that may die on a node before it gives up: one is bad luck, five are a broken machine."""

_PRUNE_AFTER = 2.0
"""Seconds after the start until old session directories are removed: the first tasks do not wait for that."""

log = logging.getLogger("asyncray.node")


class Daemon:
    """One node's daemon.

    A defect of its own (an exception where none can be) ends the node: who waits gets an error, and nobody hangs.

    Args:
        machine: decides.
        directory: the session's.
        lock: the descriptor that holds the session's lock.
    """

    def __init__(self, machine: NodeMachine, directory: str, lock: int) -> None:
        self._machine = machine
        self._directory = directory
        self._lock = lock
        self._address = sessions.socket_of(directory)
        self._logs = WorkerLogs(os.path.join(directory, "logs"))
        self._output = Output(self._logs, machine.pool, lambda client: self._streams.get(client.number))
        self._owner: MessageStream | None = None  # the connection of the driver that started this node
        self._streams: dict[int, MessageStream] = {}
        self._clients: dict[MessageStream, Client] = {}
        self._greeting: dict[MessageStream, asyncio.TimerHandle] = {}
        self._segments: dict[str, Segment] = {}
        self._flushing = False
        self._quick = False
        self._stopped = asyncio.Event()
        self._why = ""
        self._zygote = ZygoteLink(self)
        self._zygotes = 1
        self._short = False  # of descriptors, and that was told
        self._replacing: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._perform: dict[type[Command], Callable[[Any], None]] = {
            StartWorker: self._start_worker,
            KillWorker: self._kill_worker,
            CreateSegment: self._create_segment,
            RetireSegment: self._retire_segment,
            CloseClient: self._close_client,
            FlushOutput: lambda command: self._read_for(command.client),
            StopNode: lambda command: self._stop(command.reason),
            LogLine: lambda command: log.log(command.level, command.text),
        }

    def __repr__(self) -> str:
        return f"<Daemon {self._address} {len(self._streams)} clients>"

    # Running ----------------------------------------------------------------------------------------------------------

    async def run(
        self, zygote: tuple[socket.socket, int], driver: socket.socket | None, ready: Callable[[], None]
    ) -> None:
        """Serves until the node is told to stop, and cleans up.

        Args:
            zygote: the stream to the zygote, and its pid.
            driver: the connection of a driver that started this node for itself: the node ends with it.
            ready: called when clients may connect.
        """
        self._loop.set_exception_handler(self._defect)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._machine_stop, f"it got {signal.Signals(number).name}")
        try:
            await self._zygote.connect(*zygote)
            server = await self._loop.create_unix_server(self._new_stream, self._address, backlog=_BACKLOG)
            if driver is not None:
                driver.setblocking(False)
                owner = self._owner = self._new_stream()
                await self._loop.create_connection(lambda: owner, sock=driver)
            self._ticking = self._loop.call_later(_TICK, self._tick)
            self._loop.call_later(_PRUNE_AFTER, self._prune)
            log.info("serving at %s", self._address)
            ready()
            await self._stopped.wait()
            log.info("stopping: %s", self._why)
            server.close()
        finally:
            await self._clean_up()

    async def _clean_up(self) -> None:
        async with contextlib.AsyncExitStack() as steps:  # the last one first; if one fails, the others are still done
            steps.callback(sessions.ended, self._directory)
            steps.callback(sessions.remove, sessions.garbage_of(self._directory))
            steps.callback(self._close_all)
            steps.push_async_callback(self._end_processes)
            if self._ticking is not None:
                self._ticking.cancel()
            self._output.read()
            self._flush()

    async def _end_processes(self) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
            await asyncio.wait([self._replacing])
        self._zygote.release()
        await self._zygote.wait(STOP_DEADLINE)
        await self._end_children()

    async def _end_children(self) -> None:
        """What a zygote that was killed has left. It is ours, for this process is a subreaper."""
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                while not end_children():  # noqa: ASYNC110 - no event tells of the ends of strangers' children
                    await asyncio.sleep(_ROUND)
        except TimeoutError:
            log.error("some processes do not even end when they are killed")

    def _close_all(self) -> None:
        for segment in self._segments.values():
            segment.unlink()
        for stream in [*self._streams.values(), *self._greeting]:
            stream.close()
        self._output.close()

    def _machine_stop(self, why: str) -> None:
        self._machine.stop(why)
        self._flush_soon()

    def _stop(self, why: str) -> None:
        self._why = self._why or why
        self._stopped.set()

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something was raised in a callback. A connection that breaks is no defect; anything else is."""
        error = context.get("exception")
        log.error("%s", context.get("message"), exc_info=error)
        if error is not None and not isinstance(error, OSError):
            self._stop(f"a defect: {error!r}")

    def _prune(self) -> None:
        base = os.path.dirname(self._directory)
        threading.Thread(target=sessions.prune, args=(base,), name="asyncray-prune", daemon=True).start()

    # Connections ------------------------------------------------------------------------------------------------------

    def _new_stream(self) -> MessageStream:
        stream = MessageStream(GREETING_LIMIT, self._received, self._closed)
        if len(self._greeting) >= _MOST_STRANGERS:
            oldest = next(iter(self._greeting))
            self._greeting.pop(oldest).cancel()
            oldest.abort(f"{_MOST_STRANGERS} others came and it had not said hello")
        self._greeting[stream] = self._loop.call_later(START_DEADLINE, stream.abort, "it did not say hello in time")
        return stream

    def _received(self, stream: MessageStream, messages: list[Message]) -> None:
        self._machine.now = self._loop.time()
        client = self._clients.get(stream)
        try:
            if client is None:
                client = self._greet(stream, messages[0])
                messages = messages[1:]
                if client is None:
                    return
            self._machine.receive(client, messages)
        except Exception:  # the messages of one client make no sense: it ends, the node does not
            log.exception("%s sent what makes no sense", client or "a stranger")
            stream.abort("it sent what makes no sense")
        self._flush_soon()

    def _greet(self, stream: MessageStream, message: Message) -> Client | None:
        refusal = self._check_greeting(stream, message)
        client = None if refusal is not None else self._admit(message)
        if client is None:
            refusal = refusal or "this worker is not expected"
            log.warning("a connection was refused: %s", refusal)
            stream.send([(REFUSED, refusal)])
            stream.close()
            return None
        timer = self._greeting.pop(stream, None)
        if timer is not None:
            timer.cancel()
        stream.set_limit(FRAME_LIMIT)
        self._streams[client.number] = stream
        self._clients[stream] = client
        return client

    def _admit(self, message: Message) -> Client | None:
        _, _, role, info = message
        if role == "driver":
            return self._machine.driver_connected(info["pid"], info["namespace"], info["setup"])
        if role == "worker":
            return self._machine.worker_connected(info["number"], info["pid"])
        return self._machine.observer_connected(info["pid"])

    def _check_greeting(self, stream: MessageStream, message: Message) -> str | None:
        if len(message) != 4 or message[0] != HELLO:
            return "it did not say hello"
        if message[1] != VERSION:
            return f"it speaks version {message[1]!r:.20} of the protocol, this node {VERSION}: upgrade the older one"
        role, info = message[2], message[3]
        wanted = _GREETINGS.get(role) if isinstance(role, str) else None
        if wanted is None or type(info) is not dict:
            return "its greeting is incomplete"
        if any(type(info.get(name)) is not kind for name, kind in wanted.items()):
            return "its greeting is incomplete"
        user = _peer_user(stream)
        if user is not None and user != os.getuid():
            return f"it belongs to user {user}"
        if self._machine.stopping:
            return "the node is stopping"
        return None

    def _closed(self, stream: MessageStream, why: str | None) -> None:
        timer = self._greeting.pop(stream, None)
        if timer is not None:
            timer.cancel()
        if stream in self._clients:
            stream.hear_out()
        client = self._clients.pop(stream, None)
        if why is not None:
            log.warning("the connection of %s was closed: %s", client or "a stranger", why)
        self._machine.now = self._loop.time()
        if client is not None:
            self._streams.pop(client.number, None)
            self._machine.client_gone(client)
        if stream is self._owner:
            self._machine.stop("its driver has ended")
        self._flush_soon()

    # Workers ----------------------------------------------------------------------------------------------------------

    def worker_started(self, number: int, pid: int) -> None:
        """A worker was forked."""
        self._machine.now = self._loop.time()
        self._machine.worker_started(number, pid)

    def worker_ended(self, number: int, end: End) -> None:
        """A worker is gone."""
        if self._stopped.is_set():
            return  # they all go: drivers hear of the node's end, not of that
        worker = self._machine.pool.workers.get(number)
        stream = None if worker is None or worker.client is None else self._streams.get(worker.client.number)
        if stream is not None:
            stream.hear_out()  # results that it gave before its end count
        log_tail = "" if worker is None else self._output.ended(worker)
        if worker is not None and worker.client is None:
            self._tell_shortage()
        self._machine.now = self._loop.time()
        self._machine.worker_exited(number, describe_end(end), log_tail)
        self._flush_soon()

    def _tell_shortage(self) -> None:
        """Workers that cannot connect have the system's word for it; why it is so, only the daemon can tell."""
        why = shortage()
        if why is not None and not self._short:
            self._machine.tell_drivers(f"no worker and no driver can connect: {why}")
        self._short = why is not None

    def zygote_ended(self) -> None:
        """The zygote is gone: a new one, unless the node ends."""
        if self._stopped.is_set():
            return
        log.error("the zygote has died, and all workers with it")
        self._zygotes += 1
        if self._zygotes > _MOST_ZYGOTES:
            self._machine_stop("its zygote died again and again")
            return
        old, self._zygote = self._zygote, ZygoteLink(self)  # what is wanted meanwhile waits in the new one
        self._replacing = self._loop.create_task(self._replace(old, self._zygote))
        self._replacing.add_done_callback(self._replaced)

    async def _replace(self, old: ZygoteLink, new: ZygoteLink) -> None:
        await old.wait(STOP_DEADLINE)
        await self._end_children()
        await new.connect(*start_zygote(self._directory, self._lock))

    def _replaced(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("no new zygote could be started", exc_info=error)
            self._machine_stop(f"no new zygote could be started: {error}")

    def _start_worker(self, command: Any) -> None:
        self._logs.add(command.number)
        self._zygote.fork(command.number)

    def _kill_worker(self, command: Any) -> None:
        self._zygote.strike(command.number)

    # Commands ---------------------------------------------------------------------------------------------------------

    def _create_segment(self, command: Any) -> None:
        try:
            segment = Segment.create(command.name, command.size)
        except OSError as error:
            self._machine.store.segment_failed(command.name, str(error))
            return
        segment.close()  # the daemon itself never looks inside; the name is what it needs
        self._segments[command.name] = segment
        self._machine.store.segment_created(command.name)

    def _read_for(self, client: Client) -> None:
        self._output.read(client)

    def _retire_segment(self, command: Any) -> None:
        self._segments.pop(command.name).unlink()

    def _close_client(self, command: Any) -> None:
        stream = self._streams.get(command.client.number)
        if stream is not None:
            stream.close()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Once per turn: hands out work, performs commands, writes each client's messages as one batch."""
        self._flushing = False
        machine = self._machine
        outbox = machine.outbox
        machine.flush()
        while outbox.commands:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                self._do(command)
        dirty, outbox.dirty = outbox.dirty, []
        for client in dirty:
            messages, client.out = client.out, []
            stream = self._streams.get(client.number)
            if stream is None or not messages:
                continue
            stream.send(messages)
            if stream.backlog > BACKLOG_LIMIT:
                stream.abort(f"it has left {stream.backlog} bytes unread")
        if dirty:
            self._output.soon()
        if not self._quick and machine.needs_fast_tick:
            self._quick = True
            self._loop.call_later(_QUICK_TICK, self._quick_tick)

    def _do(self, command: Command) -> None:
        self._perform[type(command)](command)

    # Time -------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticking = self._loop.call_later(_TICK, self._tick)
        self._machine.now = self._loop.time()
        self._machine.tick()
        self._output.read()
        if self._zygote.is_stuck():
            log.error("the zygote does not fork: it is killed")
            self._zygote.kill()
        self._flush()

    def _quick_tick(self) -> None:
        self._quick = False
        self._machine.now = self._loop.time()
        self._machine.tick()
        self._flush_soon()


_GREETINGS: dict[str, dict[str, type]] = {
    "driver": {"pid": int, "namespace": str, "setup": dict},
    "worker": {"pid": int, "number": int},
    "observer": {"pid": int},
}
"""What the greeting of each role must hold."""


@functools.cache
def _credentials() -> struct.Struct:
    return struct.Struct("3i")


def _peer_user(stream: MessageStream) -> int | None:
    """The user at the other end, where the system tells."""
    transport = stream.transport
    connection = None if transport is None else transport.get_extra_info("socket")
    if connection is None or not hasattr(socket, "SO_PEERCRED"):
        return None
    layout = _credentials()
    user: int = layout.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size))[1]
    return user
