"""The files that workers write to.

Workers write to files, so that nothing is lost when they crash and nothing waits for a slow terminal. New text in a
file is read as whole lines. A mark in it names the task or actor whose output follows. Where a flood or a long line is
cut, the output says so and names the file that has the rest.

The file of a living worker takes no more disk space than ``MOST_SPACE`` and a little: the beginning of the text that
was read becomes a hole. Cutting the file off would lose lines that the worker writes at that moment. Behind a hole the
worker, which appends, and the reader go on at their places.

Files of workers that have ended stay, up to ``MOST_KEPT`` of them and ``MOST_KEPT_SPACE``. Empty ones are removed at
once.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque

from asyncray.io.holes import free_space
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

MOST_SPACE = 64 << 20
"""Bytes on the disk that the file of a living worker takes. Text that was read before the last so many is dropped."""

SPACE_STEP = 4 << 20
"""Bytes that are dropped at once: 0.3 ms of the daemon's loop."""

MOST_KEPT_SPACE = 1 << 30
"""Bytes on the disk that the files of ended workers take together."""

TAIL_LINES = 5
FATAL_LINES = 12
_FATAL = "Fatal Python error"
_CURRENT = "Current thread"

_UNPRINTABLE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\x1b"}
"""Control characters do not reach the driver's terminal, except for tabs and what colours are made of."""

log = logging.getLogger("asyncray.node")

Line = tuple[str, str, str]
"""stream ("out" or "err"), prefix, text"""


class LogFile:
    """One file.

    Args:
        stream: "out" or "err".
    """

    __slots__ = ("_descriptor", "_freed", "_name", "_position", "_rest", "_skipped", "_stream", "path")

    def __init__(self, path: str, stream: str) -> None:
        self.path = path
        self._stream = stream
        # Bytes of the file that were read.
        self._position = 0
        # Bytes at the beginning of the file that take no space any more. None: the file system has no holes.
        self._freed: int | None = 0
        # Bytes before ``_position`` that were not read, and that no line has reported yet.
        self._skipped = 0
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
        self._free_beginning()
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
            data = os.pread(self._open(), MOST_BYTES, self._position)
            self._position += len(data)
            behind = self._behind() if len(data) == MOST_BYTES else 0
        except OSError:
            return b""
        if self._skipped:
            data = self._notice(self._skipped, after=self._rest) + data
            self._skipped = 0
        # There is no later reading, or it would never get there.
        if behind and (last or behind > 8 * MOST_BYTES):
            if behind > MOST_BYTES:
                data += self._notice(behind - MOST_BYTES, after=data)
                self._position += behind - MOST_BYTES
            end = os.pread(self._open(), MOST_BYTES, self._position)
            self._position += len(end)
            data += end
        return data

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR)  # a hole is a change
        return self._descriptor

    def _behind(self) -> int:
        return os.fstat(self._open()).st_size - self._position

    def _notice(self, skipped: int, *, after: bytes) -> bytes:
        limited = skipped > MOST_SPACE and self._freed is not None
        kept = f", which keeps the last {MOST_SPACE >> 20} MiB" if limited else ""
        end = "\n" if after and not after.endswith(b"\n") else ""
        return f"{end}... {skipped} bytes are not shown, see {self.path}{kept}\n".encode()

    def skip_old(self) -> None:
        """Nobody reads the lines for now: those before the last ``MOST_SPACE`` bytes will be reported as not shown."""
        try:
            behind = self._behind()
        except OSError:
            return
        if behind > MOST_SPACE + SPACE_STEP:
            self._skipped += behind - MOST_SPACE
            self._position += behind - MOST_SPACE
            self._free_beginning(MOST_SPACE)

    def _free_beginning(self, unread: int = 0) -> None:
        """Frees space until the file takes ``MOST_SPACE``, of which ``unread`` bytes are not read yet."""
        if self._descriptor is None or self._freed is None:
            return
        surplus = self._position + unread - MOST_SPACE - self._freed
        if surplus < SPACE_STEP:
            return
        surplus -= surplus % SPACE_STEP
        try:
            free_space(self._descriptor, self._freed, surplus)
        except OSError as error:
            log.warning("%s can grow without bound: its file system frees no part of a file: %s", self.path, error)
            self._freed = None
        else:
            self._freed += surplus

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


def _space_of(path: str) -> int:
    try:
        return os.stat(path).st_blocks * 512
    except OSError:
        return 0


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
        # Files of workers that have ended, and their bytes on the disk, the oldest first.
        self._kept: deque[tuple[str, int]] = deque()
        # The sum of these bytes.
        self._kept_space = 0

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

    def skip_old(self, number: int) -> None:
        """The driver of a worker does not read. See ``LogFile.skip_old``."""
        for file in self._files.get(number, ()):
            file.skip_old()

    def ended(self, number: int) -> None:
        """A worker has ended, and all was read: its files stay if there is something in them."""
        for file in self._files.pop(number, ()):
            file.close()
            if file.is_empty():
                _remove(file.path)
            else:
                space = _space_of(file.path)
                self._kept.append((file.path, space))
                self._kept_space += space
        while len(self._kept) > MOST_KEPT or self._kept_space > MOST_KEPT_SPACE:
            path, space = self._kept.popleft()
            self._kept_space -= space
            _remove(path)

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
