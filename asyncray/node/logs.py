"""The workers' output on its way to the drivers.

Workers write to files, so that nothing is lost when they crash and nothing waits for a slow terminal. The daemon
reads what is new a few times a second and sends whole lines to the driver whose job the worker serves. Lines that
begin with a mark tell whose output follows. A flood is cut, with a line that says so and where the rest is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

MARK = b"\x1e"
MOST_LINES = 1000
"""Lines of one file that are passed on per reading (ten a second): more nobody reads on a terminal."""

MOST_BYTES = 1 << 20
LONGEST_LINE = 20_000

Line = tuple[str, str, str]
"""stream ("out" or "err"), prefix, text"""


class _File:
    __slots__ = ("descriptor", "name", "path", "position", "rest", "stream")

    def __init__(self, path: str, stream: str) -> None:
        self.path = path
        self.stream = stream
        self.position = 0
        self.rest = b""
        self.name = ""
        self.descriptor: int | None = None

    def read(self, pid: int, last: bool) -> Iterator[Line]:
        """The lines that are new; with ``last`` an unfinished one as well."""
        data = self.rest + self._new_bytes()
        if not data:
            return
        *lines, self.rest = data.split(b"\n")
        if self.rest and (last or len(self.rest) > LONGEST_LINE):
            lines.append(self.rest)
            self.rest = b""
        passed = 0
        for line in lines:
            if line.startswith(MARK):
                self.name = line[1:].decode("utf-8", "replace")
            elif line:
                passed += 1
                if passed <= MOST_LINES:
                    yield self.stream, self._prefix(pid), line[:LONGEST_LINE].decode("utf-8", "replace")
        if passed > MOST_LINES:
            yield self.stream, self._prefix(pid), f"... {passed - MOST_LINES} more lines are in {self.path}"

    def _prefix(self, pid: int) -> str:
        return f"({self.name} pid={pid})" if self.name else f"(pid={pid})"

    def _new_bytes(self) -> bytes:
        try:
            if self.descriptor is None:
                self.descriptor = os.open(self.path, os.O_RDONLY)
            data = os.pread(self.descriptor, MOST_BYTES, self.position)
            size = os.fstat(self.descriptor).st_size
        except OSError:
            return b""
        self.position += len(data)
        if size - self.position > 8 * MOST_BYTES:  # hopeless: go on near the end
            skipped, self.position = size - MOST_BYTES - self.position, size - MOST_BYTES
            data += f"\n... {skipped} bytes were skipped, see {self.path}\n".encode()
        return data

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


class WorkerLogs:
    """The files of all workers of a session.

    Args:
        directory: where they are.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[int, tuple[_File, ...]] = {}

    def __repr__(self) -> str:
        return f"<WorkerLogs {len(self._files)} workers>"

    def add(self, number: int) -> None:
        """A worker starts."""
        base = os.path.join(self._directory, f"worker-{number}")
        self._files[number] = (_File(f"{base}.out", "out"), _File(f"{base}.err", "err"))

    def read(self, number: int, pid: int, last: bool = False) -> list[Line]:
        """A worker's new lines."""
        return [line for file in self._files.get(number, ()) for line in file.read(pid, last)]

    def remove(self, number: int) -> None:
        """A worker has ended, and all was read."""
        for file in self._files.pop(number, ()):
            file.close()

    def tail(self, number: int, lines: int = 5) -> str:
        """The last lines of a worker's error output, for the message that tells its end."""
        try:
            with open(os.path.join(self._directory, f"worker-{number}.err"), "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 8192))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        kept = [line for line in text.splitlines() if line.strip() and not line.startswith("\x1e")]
        return "\n".join(kept[-lines:])

    def close(self) -> None:
        """Closes all files."""
        for number in list(self._files):
            self.remove(number)
