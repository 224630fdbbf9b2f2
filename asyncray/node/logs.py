"""The files that workers write to.

Workers write to files, so that nothing is lost when they crash and nothing waits for a slow terminal. New text in a
file is read as whole lines. A mark in it names the task or actor whose output follows. Where a flood or a long line is
cut, the output says so and names the file that has the rest.

Files of workers that have ended stay, up to ``MOST_KEPT`` of them. Empty ones are removed at once.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque

from asyncray.messages import OUTPUT_MARK

_MARK = OUTPUT_MARK.encode()
"""Before a name and a line feed, wherever in a line: what follows is the output of that task or actor."""

MOST_LINES = 1000
"""Lines of one file that are passed on per reading (ten a second). Nobody reads more on a terminal."""

MOST_BYTES = 1 << 20
"""Read at once. A reader that is much further behind skips the middle."""

LONGEST_LINE = 20_000
"""Characters of a line that are shown."""

MOST_KEPT = 500
"""Files of workers that have ended. The oldest goes first: restarts and ``max_calls`` must not fill the disk."""

TAIL_LINES = 5
FATAL_LINES = 12
_FATAL = "Fatal Python error"
_CURRENT = "Current thread"

_UNPRINTABLE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\x1b"}
"""Control characters do not reach the driver's terminal, except for tabs and what colours are made of."""

Line = tuple[str, str, str]
"""stream ("out" or "err"), prefix, text"""


class LogFile:
    """One file.

    Args:
        stream: "out" or "err".
    """

    __slots__ = ("_descriptor", "_name", "_position", "_rest", "_stream", "path")

    def __init__(self, path: str, stream: str) -> None:
        self.path = path
        self._stream = stream
        # Bytes of the file that were read.
        self._position = 0
        # The beginning of a line that is not finished.
        self._rest = b""
        # The task or actor that the last mark has named.
        self._name = ""
        # None until the first reading.
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<LogFile {self.path} at {self._position}>"

    def read(self, name: str, pid: int, *, last: bool, pause: bool = False) -> list[Line]:
        """The lines that are new; with ``last`` or ``pause`` an unfinished one as well.

        Args:
            name: of the task or actor, where the file has no mark.
            last: there is no later reading.
            pause: nothing runs that could finish the line.
        """
        new = self._new_bytes(last=last)
        whole = last or (pause and len(new) < MOST_BYTES)
        if not new and not (whole and self._rest):
            return []
        *lines, self._rest = (self._rest + new).split(b"\n")
        if self._rest and (whole or len(self._rest) > MOST_BYTES):
            lines.append(self._rest)
            self._rest = b""
        return self._parse_all(lines, name, pid)

    def _parse_all(self, lines: list[bytes], name: str, pid: int) -> list[Line]:
        """The lines; of a flood its beginning and its end. The rest is not even parsed, which takes 5 us a line."""
        if len(lines) <= MOST_LINES:
            return [line for raw in lines for line in self._parse(raw, name, pid)]
        half = MOST_LINES // 2
        hidden = lines[half:-half]
        first = self._parse_all(lines[:half], name, pid)
        last_mark = next((raw for raw in reversed(hidden) if _MARK in raw), None)
        if last_mark is not None:
            self._parse(last_mark, name, pid)
        count = sum(1 for raw in hidden if not raw.startswith(_MARK))
        notice = (self._stream, _prefix("", pid), f"... {count} lines are not shown, see {self.path}")
        return [*first, notice, *self._parse_all(lines[-half:], name, pid)]

    def _parse(self, raw: bytes, name: str, pid: int) -> list[Line]:
        text, mark, whose = raw.partition(_MARK)
        lines = (
            [(self._stream, _prefix(self._name or name, pid), _shorten(_clean(text), self.path))]
            if text or not mark
            else []
        )
        if mark:
            self._name = whose.decode("utf-8", "replace")
        return lines

    def _new_bytes(self, *, last: bool) -> bytes:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self.path, os.O_RDONLY)
            data = os.pread(self._descriptor, MOST_BYTES, self._position)
            if len(data) < MOST_BYTES:
                self._position += len(data)
                return data
            behind = os.fstat(self._descriptor).st_size - self._position - len(data)
        except OSError:
            return b""
        self._position += len(data)
        # There is no later reading, or it would never get there.
        if last or behind > 8 * MOST_BYTES:
            self._position += max(0, behind - MOST_BYTES)
            end = os.pread(self._descriptor, MOST_BYTES, self._position)
            self._position += len(end)
            if behind > MOST_BYTES:
                data += f"\n... {behind - MOST_BYTES} bytes are not shown, see {self.path}\n".encode()
            data += end
        return data

    def is_empty(self) -> bool:
        """True if nothing was ever written to the file."""
        try:
            return os.path.getsize(self.path) == 0
        except OSError:
            return True

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)


def _prefix(name: str, pid: int) -> str:
    return f"({name} pid={pid})" if name else f"(pid={pid})"


def _clean(raw: bytes) -> str:
    """A line as a terminal shows it: without the text that a carriage return overwrites."""
    text = raw.decode("utf-8", "replace").rstrip("\r")
    return text.rpartition("\r")[2].translate(_UNPRINTABLE)


def _shorten(text: str, path: str) -> str:
    """A line that is too long ends with the number of characters that are missing."""
    missing = len(text) - LONGEST_LINE
    return text if missing <= 0 else f"{text[:LONGEST_LINE]} ... {missing} more characters are not shown, see {path}"


class WorkerLogs:
    """The files of all workers of a session.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        # The files of workers that live, by number: of standard output and of standard error.
        self._files: dict[int, tuple[LogFile, LogFile]] = {}
        # Paths of workers that have ended, the oldest first.
        self._kept: deque[str] = deque()

    def __repr__(self) -> str:
        return f"<WorkerLogs {len(self._files)} workers>"

    def _path(self, number: int, kind: str) -> str:
        return os.path.join(self._directory, f"worker-{number}.{kind}")

    def add(self, number: int) -> None:
        """A worker starts."""
        self._files[number] = (LogFile(self._path(number, "out"), "out"), LogFile(self._path(number, "err"), "err"))

    def read(self, number: int, name: str, pid: int, *, last: bool = False, pause: bool = False) -> list[Line]:
        """A worker's new lines. See ``LogFile.read``."""
        return [line for file in self._files.get(number, ()) for line in file.read(name, pid, last=last, pause=pause)]

    def ended(self, number: int) -> None:
        """A worker has ended, and all was read: its files stay if there is something in them."""
        for file in self._files.pop(number, ()):
            file.close()
            if file.is_empty():
                _remove(file.path)
            else:
                self._kept.append(file.path)
        while len(self._kept) > MOST_KEPT:
            _remove(self._kept.popleft())

    def tail(self, number: int) -> str:
        """The end of a worker's error output, for the message about its end.

        Where the interpreter crashed, the beginning of what ``faulthandler`` wrote: the reason and the place.
        """
        try:
            with open(self._path(number, "err"), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16384))
                data = file.read()
        except OSError:
            return ""
        lines = [line for raw in data.split(b"\n") if (line := _clean(raw.partition(_MARK)[0])[:LONGEST_LINE]).strip()]
        fatal = [at for at, line in enumerate(lines) if line.startswith(_FATAL)]
        if not fatal:
            return "\n".join(lines[-TAIL_LINES:])
        crash = lines[fatal[-1] :]
        where = next((at for at, line in enumerate(crash) if line.startswith(_CURRENT)), 1)
        return "\n".join([crash[0], *crash[where : where + FATAL_LINES]])

    def close(self) -> None:
        """Closes all files."""
        for files in self._files.values():
            for file in files:
                file.close()
