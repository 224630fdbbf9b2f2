"""The zygote: a small single-threaded process that has imported what every worker needs, and forks them.

It obeys the daemon over one stream (FORK, KILL_WORKER) and reports what becomes of the workers (FORKED, ENDED). It is
also the janitor: when the stream ends, by the daemon's will or death, it kills all that it forked, and everything that
those started, removes the session's shared memory and sockets, and ends.

Workers die with the zygote (PR_SET_PDEATHSIG). It is their subreaper: what a dead worker leaves behind becomes the
zygote's child, and is killed. It must stay single-threaded: a fork copies one thread only.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

import asyncray.runtime.submission
import asyncray.worker.lifetime
from asyncray.config import FRAME_LIMIT
from asyncray.io import sessions
from asyncray.io.processes import (
    WORKER_VARIABLE,
    become_subreaper,
    children,
    die_with_parent,
    end_children,
    environment,
    kill,
    kill_group,
)
from asyncray.messages import ENDED, FORK, FORKED, KILL_WORKER, Message
from asyncray.wire.frames import Decoder, encode

_WARM_AFTER_MILLISECONDS = 150
"""After so much quiet the rest is loaded: the first workers must not wait for that."""

_WANTED_SOON = ("cloudpickle", "asyncray.sync", "asyncray.api.asynchronous", "asyncio", "uvloop", "numpy.random")
"""What most programs use in remote code. A worker that must load asyncray's own faces itself needs 27 ms more."""

_ROUND = 0.005
"""Seconds between two looks at what has been killed and has not ended."""


class Zygote:
    """The process.

    Args:
        control: the stream to the daemon.
        directory: the session's. The socket for the workers and their output are there.
        lock: the descriptor that holds the session's lock.
    """

    def __init__(self, control: socket.socket, directory: str, lock: int) -> None:
        self._control = control
        self._decoder = Decoder(FRAME_LIMIT)
        self._directory = directory
        self._lock = lock
        self._workers: dict[int, int] = {}  # pid -> number
        self._warm = False

    def __repr__(self) -> str:
        return f"<Zygote {len(self._workers)} workers>"

    def run(self) -> None:
        """Works until the daemon is gone."""
        become_subreaper()
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        # Ctrl-C in a terminal is the driver's. And whoever stops a whole machine or container signals everybody: the
        # janitor has to be the last.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(read, select.POLLIN)
        self._inherited = (read, write)
        try:
            self._serve(poll, read)
        finally:
            self._clean_up()

    def _serve(self, poll: select.poll, read: int) -> None:
        while self._turn(poll, read):
            pass

    def _turn(self, poll: select.poll, read: int) -> bool:
        events = poll.poll(None if self._warm else _WARM_AFTER_MILLISECONDS)
        if not events and not self._warm:
            self._warm_up()
        for descriptor, _ in events:
            if descriptor == read:
                os.read(read, 4096)
                self._reap()
                continue
            try:
                data = self._control.recv(65536)
            except OSError:
                return False
            if not data:
                return False
            for message in self._decoder.feed(data):
                self._obey(message)
        return True

    def _obey(self, message: Message) -> None:
        if message[0] == FORK:
            self._fork(message[1])
        elif message[0] == KILL_WORKER:
            for pid, number in self._workers.items():
                if number == message[1]:
                    kill_group(pid)
                    kill(pid)  # it may have left its group

    def _tell(self, *messages: Message) -> None:
        try:
            self._control.sendall(encode(list(messages)))
        except OSError:
            pass  # the daemon is gone; the loop sees that next

    def _warm_up(self) -> None:
        self._warm = True
        # Else numpy starts threads, and a zygote must have none.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
        for name in _WANTED_SOON:
            importlib.import_module(name)

    # Forking ----------------------------------------------------------------------------------------------------------

    def _fork(self, number: int) -> None:
        gc.collect(0)
        gc.freeze()  # what is here now stays shared: the collector of a child does not touch it
        zygote = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: those that are there work on
            self._tell((ENDED, number, 0, f"it could not be forked: {error}"))
            return
        if pid == 0:
            self._work(number, zygote)
        self._lead(pid)
        self._workers[pid] = number
        self._tell((FORKED, number, pid))

    @staticmethod
    def _lead(pid: int) -> None:
        """The worker leads a group. Said here and there, for either may be first to rely on it."""
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass  # it has done so, and gone on

    def _work(self, number: int, zygote: int) -> NoReturn:
        code = 1
        try:
            self._become_worker(number, zygote)
            code = asyncray.worker.lifetime.work(number, sessions.socket_of(self._directory))
        except BaseException:  # the process ends here, and must not run on as a second zygote
            traceback.print_exc()
        finally:
            os._exit(code)

    def _become_worker(self, number: int, zygote: int) -> None:
        self._lead(0)
        die_with_parent(zygote)
        signal.set_wakeup_fd(-1)
        for signal_number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signal_number, signal.SIG_DFL)
        self._control.close()
        for descriptor in (*self._inherited, self._lock):
            os.close(descriptor)
        os.environ[WORKER_VARIABLE] = str(number)
        for descriptor, kind in ((1, "out"), (2, "err")):
            path = os.path.join(self._directory, "logs", f"worker-{number}.{kind}")
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, descriptor)
            os.close(log)
        if self._warm:
            import numpy.random  # loaded already: only the name

            numpy.random.seed()  # else all workers would draw the same numbers

    # Reaping ----------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        ended: list[Message] = []
        others = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            number = self._workers.pop(pid, None)
            if number is None:
                others = True
                continue
            kill_group(pid)  # what it started and left in its group
            ended.append((ENDED, number, pid, status))
        if ended or others:
            self._kill_orphans()
        if ended:
            self._tell(*ended)

    def _kill_orphans(self) -> None:
        """What a dead worker started in a group of its own is a child of ours now, and no worker.

        What a living worker has started and cut loose is, too, and is left alone: its group or its environment tell.
        Should they not tell, it is left until the last worker or the node ends.
        """
        living = {str(number).encode() for number in self._workers.values()}
        for pid in children():
            if pid not in self._workers and not (living and self._may_belong(pid, living)):
                kill_group(pid)
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
        while not end_children():
            time.sleep(_ROUND)
        sessions.remove(sessions.garbage_of(self._directory))
        sessions.ended(self._directory)


def main() -> None:
    """``python -m asyncray.worker.zygote FD LOCK DIRECTORY``: started by the daemon."""
    descriptor, lock, directory = sys.argv[1:]
    for inherited in (descriptor, lock):
        os.set_inheritable(int(inherited), False)
    Zygote(socket.socket(fileno=int(descriptor)), directory, int(lock)).run()


if __name__ == "__main__":
    main()
