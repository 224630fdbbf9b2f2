"""The zygote: a small single-threaded process that has imported what every worker needs, and forks workers.

It obeys the daemon over one stream (FORK, KILL_WORKER) and reports the starts and ends of workers (FORKED, ENDED). It
is also the janitor of a daemon that was killed: when the stream ends, the zygote kills the workers and every process
that they started, removes the session's shared memory and sockets, and ends. A daemon that stops kills the zygote.

Workers die with the zygote (PR_SET_PDEATHSIG). It is their subreaper: processes that a dead worker leaves behind become
children of the zygote, and are killed, resource trackers last (``asyncray.io.janitor``). It must stay single-threaded:
a fork copies one thread only.
"""

from __future__ import annotations

# Without conversions to enums: 0.06 ms less in each worker.
import _signal  # type: ignore[import-not-found]
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

import asyncray.runtime.submission  # noqa: F401 - each worker needs it: loaded once for all
import asyncray.worker.lifetime
from asyncray.config import FRAME_LIMIT
from asyncray.io import forking, sessions
from asyncray.io.control_groups import usable_cpus
from asyncray.io.janitor import TRACKER_GRACE, cleans_up, end_children, end_group
from asyncray.io.processes import (
    WORKER_VARIABLE,
    become_subreaper,
    children,
    die_with_parent,
    environment,
    kill,
    trim_memory,
)
from asyncray.io.spawning import load
from asyncray.messages import (
    ENDED,
    FORK,
    FORKED,
    KILL_WORKER,
    LACKS_LOG,
    ForkMessage,
    KillWorkerMessage,
    Message,
)
from asyncray.wire.frames import Decoder, encode
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.random_numbers import RandomNumbers
from asyncray.worker.rehearsal import rehearse
from asyncray.worker.start_report import StartReports, describe

_WARM_AFTER = 0.15
"""Seconds of quiet after which ``_PRELOADED`` is loaded: the first workers must not wait for that."""

_LOADED_FIRST = ("cloudpickle", "decimal")
"""Loaded while the daemon starts, which takes longer. Nearly all tasks need cloudpickle: 12 ms and 3 MB in each worker
that loads it itself. The functions of decimal are wrapped before a program has them (1 ms)."""

_PRELOADED = ("cloudpickle", "asyncray.sync", "asyncray.api.asynchronous", "asyncio", "uvloop", "numpy.random")
"""Modules that most remote code uses. A worker that must load asyncray's own faces itself needs 27 ms more."""

_DONE = object()

_CHECK_SECONDS = 0.005
"""Between two looks for killed processes that have not ended."""


class Zygote:
    """The process.

    Args:
        control: the stream to the daemon.
        directory: the session's, with the socket for the workers and the files for their output.
        lock: the descriptor that holds the session's lock.
    """

    def __init__(self, control: socket.socket, directory: str, lock: int) -> None:
        self._control = control
        self._decoder = Decoder(FRAME_LIMIT)
        self._directory = directory
        self._lock = lock
        # By pid: the number that the daemon gave each living worker.
        self._workers: dict[int, int] = {}
        # By number: why workers could not start, until their ends are seen.
        self._failures: dict[int, str] = {}
        # By pid: when resource trackers that ended workers have left are killed.
        self._trackers: dict[int, float] = {}
        # Loads and rehearses ahead, one step with each ``next``. None once all is done.
        self._warming: Iterator[None] | None = self._warm_up()
        # Seconds of quiet before the next step: none after another step.
        self._pause = _WARM_AFTER
        self._reports = StartReports()
        # Watches the workers, which inherit it: wrapping its functions in each of them would take 0.2 ms.
        self._leftovers = Leftovers()
        self._random_numbers = RandomNumbers()

    def __repr__(self) -> str:
        return f"<Zygote {len(self._workers)} workers>"

    def run(self) -> None:
        """Works until the stream to the daemon ends."""
        become_subreaper()
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        # Ctrl-C in a terminal is the driver's. The end of a machine or container signals all processes, and the janitor
        # has to be the last.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        poll = select.poll()
        for descriptor in (self._control.fileno(), read, self._reports.read_end):
            poll.register(descriptor, select.POLLIN)
        self._inherited = (read, write)
        self._load(*_LOADED_FIRST)
        self._leftovers.watch()
        usable_cpus()  # known to the workers from now on
        try:
            self._serve(poll, read)
        finally:
            self._clean_up()

    def _serve(self, poll: select.poll, wakeup: int) -> None:
        while self._turn(poll, wakeup):
            pass

    def _turn(self, poll: select.poll, wakeup: int) -> bool:
        """Waits for events and handles them. False when the stream to the daemon has ended."""
        events = poll.poll(self._patience())
        if events:
            self._pause = _WARM_AFTER
        else:
            self._after_quiet()
        for descriptor, _ in events:
            if descriptor == wakeup:
                os.read(wakeup, 4096)
                self._reap()
            elif descriptor == self._reports.read_end:
                self._read_reports()
            elif not self._receive():
                return False
        return True

    def _patience(self) -> float | None:
        """Milliseconds until the next chore, if no event comes before it; None if no chore is due."""
        seconds = [] if self._warming is None else [self._pause]
        if self._trackers:
            seconds.append(max(0.0, min(self._trackers.values()) - time.monotonic()))
        return 1000 * min(seconds) + 1 if seconds else None

    def _after_quiet(self) -> None:
        if self._trackers:
            self._kill_orphans()
        if self._warming is not None:
            self._pause = 0.0
            if next(self._warming, _DONE) is _DONE:
                self._warming = None

    def _receive(self) -> bool:
        try:
            data = self._control.recv(65536)
        except OSError:
            return False
        for message in self._decoder.feed(data):
            self._obey(message)
        return bool(data)

    def _obey(self, message: ForkMessage | KillWorkerMessage) -> None:
        kind, number = message
        if kind == FORK:
            self._fork(number)
        elif kind == KILL_WORKER:
            for pid, forked in self._workers.items():
                if forked == number:
                    # The processes that it has started are killed when it is reaped.
                    kill(pid)

    def _report(self, *messages: Message) -> None:
        try:
            self._control.sendall(encode(list(messages)))
        except OSError:
            pass  # the stream has ended; the loop sees that next

    def _read_reports(self) -> None:
        for report in self._reports.read():
            if report.failed:
                self._failures[report.number] = report.text
            else:
                self._report((LACKS_LOG, report.number, report.text))

    def _warm_up(self) -> Iterator[None]:
        """In steps: on a busy machine all of it takes seconds, and the daemon may want a worker, or may have ended."""
        # Otherwise numpy starts threads, and a zygote must have none.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        for name in _PRELOADED:
            self._load(name)
            yield
        try:
            yield from rehearse()
        # Whatever it is: the workers begin cold. The end of the zygote would be theirs.
        except Exception:
            traceback.print_exc()
        trim_memory()

    @staticmethod
    def _load(*names: str) -> None:
        with warnings.catch_warnings():  # the program may have turned them into errors
            warnings.simplefilter("ignore")
            for name in names:
                try:
                    load(name)
                except (ImportError, MemoryError, OSError):  # the system may lack descriptors or memory for the moment
                    traceback.print_exc()  # workers load it themselves, or report why they cannot

    # Forking ----------------------------------------------------------------------------------------------------------

    def _fork(self, number: int) -> None:
        # These objects stay shared, because a child's collector skips them. Only a full collection empties the
        # interpreter's free lists; a child would touch the pages of all that is in them at its end.
        gc.collect()
        gc.freeze()
        self._random_numbers.renew()
        zygote = os.getpid()
        try:
            pid = forking.fork_without_steps()
        except OSError as error:  # no memory, or too many processes: those that exist work on
            self._report((ENDED, number, 0, f"it could not be forked: {describe(error)}"))
            return
        if pid == 0:
            self._work(number, zygote)
        self._lead(pid)
        self._workers[pid] = number
        self._report((FORKED, number, pid))

    @staticmethod
    def _lead(pid: int) -> None:
        """The worker leads a group. Both it and the zygote see to that, because either may rely on it first."""
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so, and gone on

    def _work(self, number: int, zygote: int) -> NoReturn:
        code = 1
        reports: StartReports | None = self._reports

        def connected() -> None:
            nonlocal reports
            self._reports.close()
            reports = None

        try:
            self._become_worker(number, zygote)
            address = sessions.socket_of(self._directory)
            code = asyncray.worker.lifetime.work(number, address, connected, self._leftovers)
        except BaseException as error:  # it must not run on as a second zygote
            if reports is not None:
                reports.failed(number, error)
            traceback.print_exc()
        finally:
            os._exit(code)

    def _become_worker(self, number: int, zygote: int) -> None:
        self._lead(0)
        die_with_parent(zygote)
        signal.set_wakeup_fd(-1)
        for signal_number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            _signal.signal(signal_number, _signal.SIG_DFL)
        self._control.close()
        for descriptor in (*self._inherited, self._lock):
            os.close(descriptor)
        os.environ[WORKER_VARIABLE] = str(number)
        for descriptor, kind in ((1, "out"), (2, "err")):
            log = self._open_log(number, os.path.join(self._directory, "logs", f"worker-{number}.{kind}"))
            os.dup2(log, descriptor)
            os.close(log)

    def _open_log(self, number: int, path: str) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:  # tasks run without a log, too
            self._reports.lacks(number, str(error))
            return os.open(os.devnull, os.O_WRONLY)

    # Reaping ----------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        ended: list[Message] = []
        others = False
        while (pid := _ended_child()) is not None:
            number = self._workers.get(pid)
            if number is not None:
                # Before it is reaped: afterwards its ID may be that of another group.
                end_group(pid, self._strangers())
                del self._workers[pid]
            _, status = os.waitpid(pid, 0)
            if number is None:
                self._trackers.pop(pid, None)
                others = True
                continue
            self._read_reports()
            ended.append((ENDED, number, pid, self._failures.pop(number, status)))
        if ended or others:
            self._kill_orphans()
        if ended:
            self._report(*ended)

    def _strangers(self) -> list[int]:
        """Our children that are no workers."""
        return [pid for pid in children() if pid not in self._workers]

    def _kill_orphans(self) -> None:
        """Kills the processes that dead workers have left, which are our children now.

        Processes that a living worker has started and cut loose are our children, too. They stay: their process group
        or their environment names the worker. A process that neither names stays until the last worker or the node
        ends. A resource tracker gets a moment to end by itself.
        """
        living = {str(number).encode() for number in self._workers.values()}
        now = time.monotonic()
        for pid in self._strangers():
            if living and self._may_belong(pid, living):
                continue
            if cleans_up(pid) and now < self._trackers.setdefault(pid, now + TRACKER_GRACE):
                continue
            self._trackers.pop(pid, None)
            end_group(pid, [pid])
            kill(pid)

    def _may_belong(self, pid: int, living: set[bytes]) -> bool:
        try:
            if os.getpgid(pid) in self._workers:
                return True
        except ProcessLookupError:
            return False
        _, found, rest = environment(pid).partition(b"\0" + WORKER_VARIABLE.encode() + b"=")
        return not found or rest.partition(b"\0")[0] in living

    def _clean_up(self) -> None:
        spare_until = time.monotonic() + TRACKER_GRACE
        while not end_children(spare_trackers=time.monotonic() < spare_until):
            time.sleep(_CHECK_SECONDS)
        sessions.remove(sessions.garbage_of(self._directory))
        sessions.ended(self._directory)


def _ended_child() -> int | None:
    """A child that has ended and was not reaped, if there is one."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def main() -> None:
    """``python -m asyncray.worker.zygote FD LOCK DIRECTORY``: started by the daemon."""
    descriptor, lock, directory = sys.argv[1:]
    with socket.socket(fileno=int(descriptor)) as control:
        Zygote(control, directory, int(lock)).run()


if __name__ == "__main__":
    main()
