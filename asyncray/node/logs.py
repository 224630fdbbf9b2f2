"""The files that workers write their output to.

Workers write to files, so that nothing is lost when they crash and nothing waits for a slow terminal. What is new in a
file is read as whole lines. A mark in it tells whose output follows. A flood is cut, with a line that says so and where
the rest is.
"""

from __future__ import annotations

import os

from asyncray.messages import OUTPUT_MARK

_MARK = OUTPUT_MARK.encode()
"""Before a name and a line feed, wherever in a line: what follows is the output of that task or actor."""

MOST_LINES = 1000
"""Lines of one file that are passed on per reading (ten a second): more nobody reads on a terminal."""

MOST_BYTES = 1 << 20
"""Read at once. What is much further behind is skipped."""

LONGEST_LINE = 20_000

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

    __slots__ = ("_descriptor", "_name", "_path", "_position", "_rest", "_stream")

    def __init__(self, path: str, stream: str) -> None:
        self._path = path
        self._stream = stream
        self._position = 0
        self._rest = b""
        self._name = ""
        self._descriptor: int | None = None

    def __repr__(self) -> str:
        return f"<LogFile {self._path} at {self._position}>"

    def read(self, name: str, pid: int, last: bool, pause: bool = False) -> list[Line]:
        """The lines that are new; with ``last`` or ``pause`` an unfinished one as well.

        Args:
            name: of the task or actor, where the file does not tell.
            last: there is no later reading.
            pause: nothing runs that could finish the line.
        """
        new = self._new_bytes(last)
        whole = last or (pause and len(new) < MOST_BYTES)
        if not new and not (whole and self._rest):
            return []
        *lines, self._rest = (self._rest + new).split(b"\n")
        if self._rest and (whole or len(self._rest) > LONGEST_LINE):
            lines.append(self._rest)
            self._rest = b""
        return self._cut([line for raw in lines for line in self._parse(raw, name, pid)], pid)

    def _parse(self, raw: bytes, name: str, pid: int) -> list[Line]:
        text, mark, whose = raw.partition(_MARK)
        lines = [(self._stream, _prefix(self._name or name, pid), _clean(text))] if text or not mark else []
        if mark:
            self._name = whose.decode("utf-8", "replace")
        return lines

    def _cut(self, lines: list[Line], pid: int) -> list[Line]:
        if len(lines) <= MOST_LINES:
            return lines
        half = MOST_LINES // 2
        notice = f"... {len(lines) - 2 * half} lines are not shown, see {self._path}"
        return [*lines[:half], (self._stream, _prefix("", pid), notice), *lines[-half:]]

    def _new_bytes(self, last: bool) -> bytes:
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            data = os.pread(self._descriptor, MOST_BYTES, self._position)
            if len(data) < MOST_BYTES:
                self._position += len(data)
                return data
            behind = os.fstat(self._descriptor).st_size - self._position - len(data)
        except OSError:
            return b""
        self._position += len(data)
        if last or behind > 8 * MOST_BYTES:  # there is no later reading, or it would never get there
            self._position += max(0, behind - MOST_BYTES)
            end = os.pread(self._descriptor, MOST_BYTES, self._position)
            self._position += len(end)
            if behind > MOST_BYTES:
                data += f"\n... {behind - MOST_BYTES} bytes are not shown, see {self._path}\n".encode()
            data += end
        return data

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _prefix(name: str, pid: int) -> str:
    return f"({name} pid={pid})" if name else f"(pid={pid})"


def _clean(raw: bytes) -> str:
    """A line as a terminal shows it: what a carriage return overwrites is left out."""
    text = raw[:LONGEST_LINE].decode("utf-8", "replace").rstrip("\r")
    return text.rpartition("\r")[2].translate(_UNPRINTABLE)


class WorkerLogs:
    """The files of all workers of a session.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[int, tuple[LogFile, LogFile]] = {}

    def __repr__(self) -> str:
        return f"<WorkerLogs {len(self._files)} workers>"

    def _path(self, number: int, kind: str) -> str:
        return os.path.join(self._directory, f"worker-{number}.{kind}")

    def add(self, number: int) -> None:
        """A worker starts."""
        self._files[number] = (LogFile(self._path(number, "out"), "out"), LogFile(self._path(number, "err"), "err"))

    def read(self, number: int, name: str, pid: int, last: bool = False, pause: bool = False) -> list[Line]:
        """A worker's new lines. See ``LogFile.read``."""
        return [line for file in self._files.get(number, ()) for line in file.read(name, pid, last, pause)]

    def remove(self, number: int) -> None:
        """A worker has ended, and all was read."""
        for file in self._files.pop(number, ()):
            file.close()

    def tail(self, number: int) -> str:
        """The end of a worker's error output, for the message that tells its end.

        Of what ``faulthandler`` wrote when the interpreter crashed it is the beginning: what, and where in the program.
        """
        try:
            with open(self._path(number, "err"), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16384))
                data = file.read()
        except OSError:
            return ""
        lines = [line for raw in data.split(b"\n") if (line := _clean(raw.partition(_MARK)[0])).strip()]
        fatal = [at for at, line in enumerate(lines) if line.startswith(_FATAL)]
        if not fatal:
            return "\n".join(lines[-TAIL_LINES:])
        crash = lines[fatal[-1] :]
        where = next((at for at, line in enumerate(crash) if line.startswith(_CURRENT)), 1)
        return "\n".join([crash[0], *crash[where : where + FATAL_LINES]])

    def close(self) -> None:
        """Closes all files."""
        for number in list(self._files):
            self.remove(number)
