"""The zygote: a small single-threaded process that has imported what every worker needs, and forks them.

It obeys the daemon over one stream (FORK, STRIKE) and reports what becomes of the workers (FORKED, ENDED). It is
also the janitor: when the stream ends, by the daemon's will or death, it kills all that it forked, and everything that
those started, removes the session's shared memory and sockets, and ends.

Workers die with the zygote (PR_SET_PDEATHSIG). It is their subreaper: what a dead worker leaves behind becomes the
zygote's child, and is killed. It must stay single-threaded: a fork copies one thread only.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys

import asyncray.runtime.submission
import asyncray.worker.main
from asyncray.config import FRAME_LIMIT
from asyncray.messages import ENDED, FORK, FORKED, STRIKE, WARM, Message
from asyncray.wire.frames import Decoder, encode

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

_WARM_AFTER_MILLISECONDS = 150
"""After so much quiet numpy and asyncio are loaded: the first workers must not wait for that."""


class Zygote:
    """The process.

    Args:
        control: the stream to the daemon.
        address: the path of the daemon's socket, for the workers.
        logs: the directory of the workers' output.
        garbage: prefixes of shared memory and paths of files to remove at the end.
    """

    def __init__(self, control: socket.socket, address: str, logs: str, garbage: list[str]) -> None:
        self._control = control
        self._decoder = Decoder(FRAME_LIMIT)
        self._address = address
        self._logs = logs
        self._garbage = garbage
        self._workers: dict[int, int] = {}  # pid -> number
        self._warm = False
        self._libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def __repr__(self) -> str:
        return f"<Zygote {len(self._workers)} workers>"

    def run(self) -> None:
        """Works until the daemon is gone."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the driver's
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(read, select.POLLIN)
        self._inherited = (read, write)
        try:
            while self._turn(poll, read):
                pass
        finally:
            self._clean_up()

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
        elif message[0] == STRIKE:
            for pid, number in self._workers.items():
                if number == message[1]:
                    _kill_group(pid)

    def _tell(self, *messages: Message) -> None:
        try:
            self._control.sendall(encode(list(messages)))
        except OSError:
            pass  # the daemon is gone; the loop sees that next

    def _warm_up(self) -> None:
        self._warm = True
        os.environ.setdefault(
            "OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1")
        )  # else threads, in a zygote
        import asyncio  # noqa: F401 - loaded for the workers

        import numpy.random  # noqa: F401 - loaded for the workers, like the next
        import uvloop  # noqa: F401

        self._tell((WARM,))

    # Forking ----------------------------------------------------------------------------------------------------------

    def _fork(self, number: int) -> None:
        gc.collect(0)
        gc.freeze()  # what is here now stays shared: the collector of a child does not touch it
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._become_worker(number)
                code = asyncray.worker.main.work(number, self._address)
            finally:
                os._exit(code)
        self._workers[pid] = number
        self._tell((FORKED, number, pid))

    def _become_worker(self, number: int) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        zygote = os.getppid()
        os.setpgid(0, 0)
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != zygote:
                os._exit(1)  # it died before that took effect
        self._control.close()
        for descriptor in self._inherited:
            os.close(descriptor)
        for descriptor, kind in ((1, "out"), (2, "err")):
            path = os.path.join(self._logs, f"worker-{number}.{kind}")
            log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, descriptor)
            os.close(log)
        if self._warm:
            import numpy.random  # loaded already: only the name

            numpy.random.seed()  # else all workers would draw the same numbers

    # Reaping ----------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        ended: list[Message] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            number = self._workers.pop(pid, None)
            if number is not None:
                _kill_group(pid)  # what it started and left in its group
                ended.append((ENDED, number, pid, status))
        if ended:
            self._kill_orphans()
            self._tell(*ended)

    def _kill_orphans(self) -> None:
        """What a worker started in a group of its own is a child of ours now, and no worker."""
        for pid in _children():
            if pid not in self._workers:
                _kill_group(pid)
                _kill(pid)

    def _clean_up(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
            _kill(pid)
        while True:
            self._kill_orphans()
            try:
                pid, _ = os.waitpid(-1, 0)
            except ChildProcessError:
                break
            self._workers.pop(pid, None)
        from asyncray.io.segments import sweep  # only now: workers that need it load it themselves

        for item in self._garbage:
            if item.startswith("unlink:"):
                try:
                    os.unlink(item.removeprefix("unlink:"))
                except OSError:
                    pass
            else:
                sweep(item)


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def main() -> None:
    """``python -m asyncray.worker.zygote FD ADDRESS LOGS GARBAGE...``: started by the daemon."""
    descriptor, address, logs, *garbage = sys.argv[1:]
    Zygote(socket.socket(fileno=int(descriptor)), address, logs, garbage).run()


if __name__ == "__main__":
    main()
