"""The daemon's shell: sockets, processes and clocks around ``asyncray.core.machine.NodeMachine``.

Every event goes to the machine at once. The machine's messages and commands are carried out once per turn of the event
loop, so that all events of a turn are answered in one batch per client. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from asyncray.config import STOP_DEADLINE
from asyncray.core.machine import NodeMachine
from asyncray.core.outbox import (
    Command,
    CreateSegment,
    FlushOutput,
    KillWorker,
    LogLine,
    RetireSegment,
    StartWorker,
    StopNode,
)
from asyncray.core.records import Job
from asyncray.io import sessions
from asyncray.io.descriptors import shortage
from asyncray.io.janitor import TRACKER_GRACE, end_children
from asyncray.io.processes import trim_memory
from asyncray.io.segments import Segment
from asyncray.node.doors import Doors
from asyncray.node.logs import WorkerLogs
from asyncray.node.output import Output
from asyncray.node.start import start_zygote
from asyncray.node.zygotes import DeathRate, ExitStatus, MemoryKills, ZygoteLink

_TICK = 0.5
_QUICK_TICK = 0.01
_ROUND = 2
"""Ticks between two looks at the files of all workers and at the session directory: a look costs system calls.

An idle daemon wakes up for every second tick only, because most of its CPU time goes by waking up."""

_STANDSTILL = 3.0
"""Seconds between two ticks from which on the daemon was stopped (SIGSTOP, a frozen container) and not only busy."""

_CHECK_SECONDS = 0.005
"""Between two looks for killed processes that have not ended."""

_BACKLOG = 1024
"""Connections that wait until they are accepted, in a burst."""

_RESERVE = 8 * 1024 * 1024
"""Bytes of addresses that a daemon keeps for its last messages."""

_LIFELINE_READ = 4096

_LAST_WORDS = 1.0
"""Seconds in which clients may read the rest, and why the node ends."""

_TIDY_AFTER = 2.0
"""Seconds after the start until old session directories and free memory go: the first tasks do not wait for that."""

if TYPE_CHECKING:
    from asyncray.node.cluster_shell import ClusterPlan, ClusterShell

log = logging.getLogger("asyncray.node")


class Daemon:
    """One node's daemon.

    A defect of its own (an exception where none can be) ends the node: every waiting process gets an error.

    Args:
        machine: decides.
        directory: the session's.
        lock: the descriptor that holds the session's lock.
        plan: how the node takes part in a cluster; None: it is alone.
    """

    def __init__(self, machine: NodeMachine, directory: str, lock: int, plan: ClusterPlan | None = None) -> None:
        self._machine = machine
        self._directory = directory
        # The program that has started this node for itself, if one has: the session directory names it.
        self._program = sessions.program_of(directory)
        self._lock = lock
        self._address = sessions.socket_of(directory)
        self._logs = WorkerLogs(os.path.join(directory, "logs"))
        self._doors = Doors(machine, self._request_flush)
        self._output = Output(self._logs, machine.pool, self._doors.stream_of)
        # Segments that exist, by name, to be unlinked.
        self._segments: dict[str, Segment] = {}
        # True from the first event of a turn of the loop until ``_flush`` has run.
        self._flush_requested = False
        # True while a quick tick is scheduled.
        self._quick = False
        self._stopped = asyncio.Event()
        # Why the node stops, for its log and its clients. The first reason counts.
        self._why = ""
        # True if that is a defect, about which the log says more.
        self._failed = False
        # Given up when memory has run out, so that there is some for the log and the reason. It was never touched, so
        # it takes addresses and no memory.
        self._reserve: bytes | None = bytes(_RESERVE)
        self._zygote = ZygoteLink(self)
        self._deaths = DeathRate()  # of zygotes
        self._memory_kills = MemoryKills()
        # The start of a new zygote, after one has died.
        self._replacing: asyncio.Task[None] | None = None
        # Accepts connections. None before ``run``.
        self._server: asyncio.Server | None = None
        # The latest repair of the session directory.
        self._restoring: asyncio.Task[None] | None = None
        # The timer of the next slow tick.
        self._ticking: asyncio.TimerHandle | None = None
        # How many slow ticks, with those left out, there were since the last look around.
        self._ticks = 0
        # How many slow ticks later than the last one the next one comes.
        self._ticks_ahead = 1
        self._loop = asyncio.get_running_loop()
        # When the machine had its last tick.
        self._looked_at = self._loop.time()
        self._perform: dict[type[Command], Callable[[Any], None]] = {
            StartWorker: self._start_worker,
            KillWorker: self._kill_worker,
            CreateSegment: self._create_segment,
            RetireSegment: self._retire_segment,
            FlushOutput: lambda command: self._read_for(command.job),
            StopNode: lambda command: self._leave_and_stop(command.reason),
            LogLine: lambda command: log.log(command.level, command.text),
        }
        self.cluster = None if plan is None else plan.shell(machine, self._request_flush, self._stop)
        if self.cluster is not None:
            self._perform.update(self.cluster.perform)
            self._doors.write_elsewhere = self.cluster.write
            self.cluster.output = self._output

    def __repr__(self) -> str:
        return f"<Daemon {self._address} {self._doors}>"

    # Running ----------------------------------------------------------------------------------------------------------

    async def run(
        self, zygote: tuple[socket.socket, int], driver: socket.socket | None, ready: Callable[[], None]
    ) -> None:
        """Serves until the node is asked to stop, and cleans up.

        Args:
            zygote: the stream to the zygote, and its pid.
            driver: the connection of a driver that started this node for itself: the node ends with it.
            ready: called when clients may connect.
        """
        self._loop.set_exception_handler(self._defect)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Ignored by nohup, or by a script that starts a background job: the signal is meant for others.
            if number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._loop.add_signal_handler(number, self._machine_stop, f"it got {signal.Signals(number).name}")
        try:
            await self._zygote.connect(*zygote)
            if self.cluster is not None:
                # The numbers of jobs come from the head: no driver may begin one before the node is a member.
                self._doors.keep_closed()
            if driver is not None:
                await self._doors.let_in(driver)
            if self.cluster is not None:
                await self._join(self.cluster)
                if self._stopped.is_set():
                    failure = self.cluster.failure
                    self._doors.refuse(self._why if failure is None else failure[1])
                    return
            await self._listen()
            self._doors.open()
            self._looked_at = self._loop.time()
            self._ticking = self._loop.call_later(_TICK, self._tick)
            self._loop.call_later(_TIDY_AFTER, self._tidy)
            log.info("serving at %s", self._address)
            ready()
            await self._stopped.wait()
            log.info("stopping: %s", self._why)
        finally:
            # Also after a failure: from now on the end of the zygote is no accident.
            self._stopped.set()
            await self._clean_up()

    def end_with(self, lifeline: int) -> None:
        """Stops the node when the stream of a descriptor ends. A thread reads it, because a loop cannot read files."""

        def read() -> None:
            with contextlib.suppress(OSError):
                while os.read(lifeline, _LIFELINE_READ):
                    pass
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._machine_stop, "its lifeline has ended")

        threading.Thread(target=read, name="asyncray-lifeline", daemon=True).start()

    async def _join(self, cluster: ClusterShell) -> None:
        """Returns when the node is a member, or stops."""
        joining = [self._loop.create_task(cluster.join()), self._loop.create_task(self._stopped.wait())]
        await asyncio.wait(joining, return_when=asyncio.FIRST_COMPLETED)
        joining[1].cancel()
        if self._stopped.is_set():
            log.info("stopping: %s", self._why)
            joining[0].cancel()
        await asyncio.gather(joining[0], return_exceptions=self._stopped.is_set())

    async def _listen(self) -> None:
        self._server = await self._loop.create_unix_server(self._doors.new_stream, self._address, backlog=_BACKLOG)

    async def _clean_up(self) -> None:
        if self._server is not None:
            self._server.close()
        async with contextlib.AsyncExitStack() as steps:  # the last one first; if one fails, the others are still done
            steps.callback(sessions.ended, self._directory)
            steps.callback(sessions.remove, sessions.garbage_of(self._directory))
            steps.push_async_callback(self._doors.wait_until_empty, _LAST_WORDS)
            steps.callback(self._close_all)
            steps.push_async_callback(self._end_processes)
            if self.cluster is not None:
                steps.push_async_callback(self.cluster.close, self._why)
            if self._ticking is not None:
                self._ticking.cancel()
            self._output.read_all()
            self._flush()

    async def _end_processes(self) -> None:
        for task in (self._replacing, self._restoring):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        await self._zygote.end()
        await self._end_children()

    async def _end_children(self) -> None:
        """Ends the processes that a killed zygote has left: they are our children, because we are a subreaper."""
        spare_until = self._loop.time() + TRACKER_GRACE
        try:
            async with asyncio.timeout(STOP_DEADLINE):
                # No event announces the ends of other processes' children.
                while not end_children(spare_trackers=self._loop.time() < spare_until):  # noqa: ASYNC110
                    await asyncio.sleep(_CHECK_SECONDS)
        except TimeoutError:
            log.error("some processes have been killed and do not end")

    def _close_all(self) -> None:
        for segment in self._segments.values():
            segment.unlink()
        self._close_doors()
        self._output.close()

    def _close_doors(self) -> None:
        self._doors.close(self._why or "it failed", defect=self._failed or not self._why)

    def _machine_stop(self, why: str) -> None:
        self._machine.stop(why)
        self._request_flush()

    def _leave_and_stop(self, why: str) -> None:
        """Stops the node, once the cluster knows of it."""
        if self.cluster is None or not self.cluster.leave(why):
            self._stop(why)

    def _stop(self, why: str) -> None:
        self._why = self._why or why
        self._stopped.set()

    def _defect(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An exception came up in a callback. A connection that breaks is no defect; any other exception is."""
        error = context.get("exception")
        if isinstance(error, MemoryError):
            self._reserve = None
        log.error("%s", context.get("message"), exc_info=error)
        if error is not None and not isinstance(error, OSError):
            self._failed = True
            lack = "its memory has run out: " if isinstance(error, MemoryError) else ""
            self._stop(f"a defect: {lack}{error!r}")
            if lack:  # reading on would take what is left of it
                self._close_doors()

    def _tidy(self) -> None:
        trim_memory()
        base = os.path.dirname(self._directory)
        try:
            threading.Thread(target=sessions.prune, args=(base,), name="asyncray-prune", daemon=True).start()
        except RuntimeError as error:
            log.warning("old session directories stay until another node starts: %s", error)

    # Workers ----------------------------------------------------------------------------------------------------------

    def worker_started(self, number: int, pid: int) -> None:
        """A worker was forked."""
        self._machine.now = self._loop.time()
        self._machine.worker_started(number, pid)

    def worker_lacks_log(self, number: int, why: str) -> None:
        """A worker starts without a log file."""
        self._machine.now = self._loop.time()
        self._machine.output_lost(why)
        self._request_flush()

    def worker_ended(self, number: int, status: ExitStatus) -> None:
        """A worker has ended."""
        if self._stopped.is_set():
            return  # all workers end now, and drivers learn of the node's end
        worker = self._machine.pool.workers.get(number)
        stream = None if worker is None or worker.client is None else self._doors.stream_of(worker.client)
        if stream is not None:
            stream.drain_input()  # results that it sent before its end count
        log_tail = "" if worker is None else self._output.ended(worker)
        how = self._memory_kills.explain(status)
        if worker is not None and worker.client is None and (lacking := shortage()) is not None:
            how = f"{how}: no worker and no driver can connect: {lacking}"
        self._machine.now = self._loop.time()
        self._machine.worker_exited(number, how, log_tail, with_zygote=status is None)
        self._request_flush()

    def zygote_ended(self) -> None:
        """The zygote has ended: starts a new one, unless the node ends."""
        if self._stopped.is_set():
            return
        log.error("the zygote has died, and all workers with it")
        if self._deaths.is_too_high(self._loop.time()):
            self._machine_stop("its zygote died again and again")
            return
        old, self._zygote = self._zygote, ZygoteLink(self)  # requests wait in the new one
        self._replacing = self._loop.create_task(self._replace(old, self._zygote))
        self._replacing.add_done_callback(self._replaced)

    async def _replace(self, old: ZygoteLink, new: ZygoteLink) -> None:
        await old.end()
        await self._end_children()
        await new.connect(*await self._start_zygote())

    async def _start_zygote(self) -> tuple[socket.socket, int]:
        """Tries until the system starts one: what it lacks now, such as processes or memory, it may have later."""
        reported = False
        while True:
            try:
                return start_zygote(self._directory, self._lock)
            except OSError as error:
                log.exception("no new zygote could be started")
                if not reported:
                    reported = True
                    self._machine.notify_drivers(f"no worker can start: no zygote could be started: {error}")
                    self._request_flush()
            await asyncio.sleep(_TICK)

    def _replaced(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("no new zygote could be started", exc_info=error)
            self._machine_stop(f"no new zygote could be started: {error}")

    def _start_worker(self, command: Any) -> None:
        self._logs.add(command.number)
        self._zygote.fork(command.number)

    def _kill_worker(self, command: Any) -> None:
        self._zygote.kill_worker(command.number)

    # The session directory --------------------------------------------------------------------------------------------

    async def _restore_directory(self) -> None:
        """The socket was removed, and without it no worker and no driver can connect. Tries again at the next tick."""
        try:
            lock = sessions.restore(self._directory, self._program)
            for handler in logging.getLogger().handlers:
                handler.close()  # its file is opened again, by its name
            if self._server is not None:
                self._server.close()
            await self._listen()
        except OSError as error:
            log.error("the session directory was removed and cannot be made again: %s", error)
            return
        if lock is not None:
            self._lock = lock  # the zygote has only the old one
        self._machine.now = self._loop.time()
        self._machine.notify_drivers(
            f"the session directory {self._directory} was removed while the node runs. It was made again, without the "
            "logs until now"
        )
        self._request_flush()

    # Commands ---------------------------------------------------------------------------------------------------------

    def _create_segment(self, command: Any) -> None:
        try:
            segment = Segment.create(command.name, command.size)
        except OSError as error:
            self._machine.store.segment_failed(command.name, str(error))
            return
        segment.close()  # the daemon needs only the name
        self._segments[command.name] = segment
        self._machine.store.segment_created(command.name)

    def _read_for(self, job: Job) -> None:
        self._output.read_last_of(job)

    def _retire_segment(self, command: Any) -> None:
        self._segments.pop(command.name).unlink()
        if self.cluster is not None:
            self.cluster.segment_retired(command.name)

    def _request_flush(self) -> None:
        if not self._flush_requested:
            self._flush_requested = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Once per turn: hands out work, performs commands, writes each client's messages as one batch."""
        self._flush_requested = False
        machine = self._machine
        outbox = machine.outbox
        machine.flush()
        if self.cluster is not None:
            self.cluster.flush()
        while outbox.commands:
            commands, outbox.commands = outbox.commands, []
            for command in commands:
                self._do(command)
        dirty, outbox.dirty = outbox.dirty, []
        self._doors.write(dirty)
        if dirty:
            self._output.expect(dirty)
        if not self._quick and machine.needs_fast_tick:
            self._quick = True
            self._loop.call_later(_QUICK_TICK, self._quick_tick)

    def _do(self, command: Command) -> None:
        self._perform[type(command)](command)

    # Time -------------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._ticks += self._ticks_ahead
        self._ticks_ahead = _ROUND if self._machine.is_idle else 1
        self._ticking = self._loop.call_later(self._ticks_ahead * _TICK, self._tick)
        self._tick_machine()
        self._doors.tick()
        if self._ticks >= _ROUND:
            self._ticks = 0
            self._look_around()
        if self._zygote.is_stuck():
            log.error("the zygote does not fork: it is killed")
            self._zygote.kill()
        self._flush()

    def _tick_machine(self) -> None:
        now = self._machine.now = self._loop.time()
        passed, self._looked_at = now - self._looked_at, now
        late = passed if passed > _STANDSTILL else 0.0
        if late:
            log.info("the daemon stood still for %.1f s", late)
            self._zygote.stood_still(late)
        self._machine.tick(late)

    def _look_around(self) -> None:
        """Looks for changes without events: output of threads and child processes, a removed session directory."""
        self._output.read_all()
        if not os.path.exists(self._address) and (self._restoring is None or self._restoring.done()):
            self._restoring = self._loop.create_task(self._restore_directory())
        elif self.cluster is not None:
            self.cluster.notes.keep()

    def _quick_tick(self) -> None:
        self._quick = False
        self._tick_machine()
        self._request_flush()
