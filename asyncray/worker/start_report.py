"""Reports of a worker that is not connected to the daemon yet: it cannot start, or starts without a log file.

A pipe between the zygote and the workers that it forks. A worker that cannot reach the daemon, or has no log file, has
no other way to say so. Each report is one write of less than PIPE_BUF bytes, so reports of several workers do not mix.
The worker closes its end as soon as it is connected.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

_LONGEST = 2000
"""Bytes of a text. The whole line stays below PIPE_BUF, which is 4096 or more."""

_FAILED = "failed"
_LACKS = "lacks"


class Report(NamedTuple):
    """The report of one worker. With ``failed`` the worker has ended; otherwise it works on."""

    number: int
    failed: bool
    text: str


class StartReports:
    """The pipe. Made by the zygote, which reads it; forked workers write.

    Raises:
        OSError: no descriptors are left.
    """

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        for end in (self.read_end, self._write_end):
            os.set_blocking(end, False)

    def __repr__(self) -> str:
        return f"<StartReports {self.read_end}>"

    def read(self) -> list[Report]:
        """The reports since the last call."""
        data = b""
        try:
            while more := os.read(self.read_end, 65536):
                data += more
        except BlockingIOError:
            pass
        return [_parse(line) for line in data.decode("utf-8", "replace").splitlines()]

    def failed(self, number: int, error: BaseException) -> None:
        """The worker with this number cannot start. Called in it."""
        self._write(number, _FAILED, describe(error))

    def lacks(self, number: int, text: str) -> None:
        """The worker with this number starts without something. Called in it."""
        self._write(number, _LACKS, text)

    def _write(self, number: int, kind: str, text: str) -> None:
        line = f"{number} {kind} " + " ".join(text.split())
        try:
            os.write(self._write_end, line.encode("utf-8", "replace")[:_LONGEST] + b"\n")
        except OSError:
            pass  # closed, or full of other reports

    def close(self) -> None:
        """Closes the worker's copies. They are its own: the zygote keeps both ends."""
        os.close(self.read_end)
        os.close(self._write_end)


def _parse(line: str) -> Report:
    number, kind, text = line.split(" ", 2)
    return Report(int(number), kind == _FAILED, text)


def describe(error: BaseException) -> str:
    """Why a process or a thread could not be started, for people: the system's reason, and the limit behind it."""
    text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.errno == errno.EAGAIN:
        return f"{text}: the limit of processes is reached (`ulimit -u`, or pids.max of the control group)"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return f"{text}: the limit of processes (`ulimit -u`, or pids.max of the control group) or of memory is reached"
    return text
