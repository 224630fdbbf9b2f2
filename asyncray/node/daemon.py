"""The daemon's shell: sockets, processes and clocks around ``asyncray.core.node.NodeMachine``.

Every event is handed to the machine at once; what the machine wants done is done once per turn of the event loop, so
that all that came in a turn is answered in one batch per client. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from typing import Any

from asyncray.config import FRAME_LIMIT, GREETING_LIMIT, START_DEADLINE, STOP_DEADLINE
from asyncray.core.node import NodeMachine
from asyncray.core.outbox import (
    CloseClient,
    Command,
    CreateSegment,
    KillWorker,
    Note,
    ReadLogs,
    RetireSegment,
    StartWorker,
    StopNode,
)
from asyncray.core.records import Client
from asyncray.io.segments import Segment
from asyncray.io.streams import MessageStream
from asyncray.messages import HELLO, OUTPUT, REFUSED, VERSION, Message
from asyncray.node.logs import Line, WorkerLogs
from asyncray.node.start import start_zygote
from asyncray.node.zygotes import ZygoteLink, describe_end

_TICK = 0.5
_QUICK_TICK = 0.01
_LOG_TICK = 0.1
_MOST_ZYGOTES = 5
"""Zygotes that may die on a node before it gives up: one is bad luck, five are a broken machine."""

log = logging.getLogger("asyncray.node")


class Daemon:
    """One node's daemon.

    Args:
        machine: decides.
        address: path of the socket to serve.
        logs: directory of the workers' output.
        garbage: what the zygote removes when everything has ended.
    """

    def __init__(self, machine: NodeMachine, address: str, logs: str, garbage: list[str]) -> None:
        self._machine = machine
        self._address = address
        self._logs_directory = logs
        self._logs = WorkerLogs(logs)
        self._garbage = garbage
        self._owner: MessageStream | None = None  # the connection of the driver that started this node
        self._streams: dict[int, MessageStream] = {}
        self._clients: dict[MessageStream, Client] = {}
        self._greeting: dict[MessageStream, asyncio.TimerHandle] = {}
        self._segments: dict[str, Segment] = {}
        self._flushing = False
        self._quick = False
        self._stopped = asyncio.Event()
        self._why = ""
        self._zygotes = 1
        self._zygote: ZygoteLink | None = None
        self._loop = asyncio.get_running_loop()
        self._background: set[asyncio.Task[None]] = set()
        self._perform: dict[type[Command], Callable[[Any], None]] = {
            StartWorker: self._start_worker,
            KillWorker: self._kill_worker,
            CreateSegment: self._create_segment,
            RetireSegment: self._retire_segment,
            CloseClient: self._close_client,
            ReadLogs: lambda command: self._read_logs(),
            StopNode: self._stop_node,
            Note: lambda command: log.log(command.level, command.text),
        }

    def __repr__(self) -> str:
        return f"<Daemon {self._address} {len(self._streams)} clients>"

    # Running ----------------------------------------------------------------------------------------------------------

    async def run(self, zygote: tuple[socket.socket, int], driver: socket.socket | None) -> None:
        """Serves until the node is told to stop, and cleans up.

        Args:
            zygote: the stream to the zygote, and its pid.
            driver: the connection of a driver that started this node for itself: the node ends with it.
        """
        self._zygote = ZygoteLink(self, zygote[1])
        await self._zygote.connect(zygote[0])
        server = await self._loop.create_unix_server(self._new_stream, self._address)
        if driver is not None:
            driver.setblocking(False)
            _, self._owner = await self._loop.create_connection(self._new_stream, sock=driver)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._machine_stop, f"it got {signal.Signals(number).name}")
        ticks = [self._loop.call_later(_TICK, self._tick), self._loop.call_later(_LOG_TICK, self._tick_logs)]
        self._ticks = ticks
        log.info("serving at %s", self._address)
        await self._stopped.wait()
        log.info("stopping: %s", self._why)
        server.close()
        await self._clean_up()

    async def _clean_up(self) -> None:
        for tick in self._ticks:
            tick.cancel()
        self._read_logs()
        self._flush()
        zygote = self._zygote
        assert zygote is not None
        zygote.release()
        await zygote.wait(STOP_DEADLINE)
        for segment in self._segments.values():
            segment.unlink()
        for stream in [*self._streams.values(), *self._greeting]:
            stream.close()
        self._logs.close()
        _remove_files(self._garbage)

    def _machine_stop(self, why: str) -> None:
        self._machine.stop(why)
        self._flush_soon()

    def _stop_node(self, command: Any) -> None:
        self._why = command.reason
        self._stopped.set()

    # Connections ------------------------------------------------------------------------------------------------------

    def _new_stream(self) -> MessageStream:
        stream = MessageStream(GREETING_LIMIT, self._received, self._closed)
        self._greeting[stream] = self._loop.call_later(START_DEADLINE, stream.abort)
        return stream

    def _received(self, stream: MessageStream, messages: list[Message]) -> None:
        self._machine.now = self._loop.time()
        client = self._clients.get(stream)
        if client is None:
            client = self._greet(stream, messages[0])
            messages = messages[1:]
            if client is None:
                return
        try:
            self._machine.receive(client, messages)
        except Exception:  # the messages of one client make no sense: it ends, the node does not
            log.exception("%s sent what makes no sense: its connection is closed", client)
            stream.abort()
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _greet(self, stream: MessageStream, message: Message) -> Client | None:
        refusal = self._check_greeting(stream, message)
        if refusal is not None:
            log.warning("a connection was refused: %s", refusal)
            stream.send([(REFUSED, refusal)])
            stream.close()
            return None
        _, _, role, info = message
        client: Client | None
        if role == "driver":
            client = self._machine.driver_connected(info["pid"], info["namespace"], info["setup"])
        elif role == "worker":
            client = self._machine.worker_connected(info["number"], info["pid"])
        else:
            client = self._machine.observer_connected(info["pid"])
        if client is None:
            stream.send([(REFUSED, "this worker is not expected")])
            stream.close()
            return None
        self._greeting.pop(stream).cancel()
        stream.set_limit(FRAME_LIMIT)
        self._streams[client.number] = stream
        self._clients[stream] = client
        return client

    def _check_greeting(self, stream: MessageStream, message: Message) -> str | None:
        if len(message) != 4 or message[0] != HELLO:
            return "it did not say hello"
        if message[1] != VERSION:
            return f"it speaks version {message[1]!r} of the protocol, this node {VERSION}: upgrade the older one"
        role, info = message[2], message[3]
        wanted = {"driver": {"pid", "namespace", "setup"}, "worker": {"pid", "number"}, "observer": {"pid"}}
        if role not in wanted or not isinstance(info, dict) or not wanted[role] <= info.keys():
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
        client = self._clients.pop(stream, None)
        if why is not None:
            log.warning("the connection of %s was closed: %s", client or "a stranger", why)
        if client is None:
            return
        self._streams.pop(client.number, None)
        self._machine.now = self._loop.time()
        self._machine.client_gone(client)
        if stream is self._owner:
            self._machine.stop("its driver has ended")
        self._flush_soon()

    # Workers ----------------------------------------------------------------------------------------------------------

    def worker_started(self, number: int, pid: int) -> None:
        """A worker was forked."""
        self._machine.worker_started(number, pid)

    def worker_ended(self, number: int, pid: int, status: int | None) -> None:
        """A worker is gone."""
        worker = self._machine.pool.workers.get(number)
        if worker is not None:
            self._send_output(worker.number, last=True)
        how = describe_end(status, self._logs.tail(number))
        self._logs.remove(number)
        self._machine.now = self._loop.time()
        self._machine.worker_exited(number, how)
        self._flush_soon()

    def zygote_ended(self) -> None:
        """The zygote is gone: a new one, unless the node ends."""
        if self._machine.stopping:
            return
        log.error("the zygote has died, and all workers with it")
        self._zygotes += 1
        if self._zygotes > _MOST_ZYGOTES:
            self._machine_stop("its zygote died again and again")
            return
        task = self._loop.create_task(self._new_zygote())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _new_zygote(self) -> None:
        old = self._zygote
        connection, pid = start_zygote(self._address, self._logs_directory, self._garbage)
        link = self._zygote = ZygoteLink(self, pid)
        await link.connect(connection)
        if old is not None:
            await old.wait(STOP_DEADLINE)
        self._machine.now = self._loop.time()
        self._machine.pool.fill(self._machine.now)
        self._flush_soon()

    def _start_worker(self, command: Any) -> None:
        assert self._zygote is not None
        self._logs.add(command.number)
        self._zygote.fork(command.number)

    def _kill_worker(self, command: Any) -> None:
        assert self._zygote is not None
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
            if stream is not None and messages:
                stream.send(messages)
        if not self._quick and machine.restless:
            self._quick = True
            self._loop.call_later(_QUICK_TICK, self._quick_tick)

    def _do(self, command: Command) -> None:
        self._perform[type(command)](command)

    # Time and output --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticks[0] = self._loop.call_later(_TICK, self._tick)
        self._machine.now = self._loop.time()
        self._machine.tick()
        self._flush()

    def _quick_tick(self) -> None:
        self._quick = False
        self._machine.now = self._loop.time()
        self._machine.tick()
        self._flush_soon()

    def _tick_logs(self) -> None:
        self._read_logs()
        self._ticks[1] = self._loop.call_later(_LOG_TICK, self._tick_logs)

    def _read_logs(self) -> None:
        for number in list(self._machine.pool.workers):
            self._send_output(number)

    def _send_output(self, number: int, last: bool = False) -> None:
        worker = self._machine.pool.workers[number]
        lines: list[Line] = self._logs.read(number, worker.pid, last)
        if not lines or worker.job is None or worker.job.driver is None:
            return
        driver = worker.job.driver
        stream = self._streams.get(driver.number)
        if stream is not None and worker.job.setup.get("log_to_driver", True):
            stream.send([(OUTPUT, lines)])


def _remove_files(garbage: list[str]) -> None:
    """What the zygote would have removed, had it not been killed."""
    for path in garbage:
        try:
            os.unlink(path.removeprefix("unlink:"))
        except OSError:
            pass  # it is gone, or is a prefix of segments, which are all unlinked by name


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
