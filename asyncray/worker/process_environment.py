"""The process that runs user code, as that code sees it: its paths, environment variables and output.

Owns the changes that a job (code paths, working directory) and a lease (GPUs, threads of OpenMP) make to the process.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from asyncray.messages import OUTPUT_MARK
from asyncray.runtime import code_paths
from asyncray.runtime.context import running_task
from asyncray.runtime.interpreters import compare, this_interpreter
from asyncray.runtime.runtime import Runtime

if TYPE_CHECKING:
    from asyncray.words import JobSetup, LeaseTerms

_OMP_THREADS = b"OMP_NUM_THREADS"

_FORMAT: Any = {"encoding": "utf-8", "errors": "backslashreplace", "line_buffering": True, "write_through": True}
"""Of the text that workers write."""


class MarkedOutput(io.TextIOWrapper):
    """Standard output or error of a worker. Writes a mark wherever the text of another task begins."""

    # Names the task or actor that writes. Set for each stream by ``mark_output``.
    whose = staticmethod(lambda: "")
    _marked = ""

    def write(self, text: str, /) -> int:
        """Writes a mark if another task wrote last, then the text."""
        name = self.whose()
        if name != self._marked:
            self._marked = name
            super().write(f"{OUTPUT_MARK}{name}\n")
        return super().write(text)

    def detach(self) -> Any:
        """Leaves this stream as it is, for the next task."""
        self.flush()
        return self.buffer

    def restore_format(self) -> None:
        """Undoes ``reconfigure``."""
        self.reconfigure(newline=None, **_FORMAT)


class _Lasting(io.FileIO):
    """The file under standard output or error.

    It stays open, even if a task closes it or drops a ``TextIOWrapper(sys.stdout.buffer)`` of its own. Where the disk
    has no room the text is lost, and the task goes on: its program writes to a terminal, which has no such limit.
    """

    # Called with the reason when text is lost, until text is written again. Set by ``mark_output``.
    lost: Callable[[str], None] = staticmethod(lambda why: None)
    _loses = False

    def write(self, data: Any, /) -> int:
        """Writes the bytes, or drops them."""
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            if not self._loses:
                self._loses = True
                self.lost(str(error))
            return len(data)
        self._loses = False
        return written

    def close(self) -> None:
        """Does nothing."""


class ProcessEnvironment:
    """Prepares this process for jobs and leases. The io thread calls it, except where a method says otherwise."""

    def __init__(self) -> None:
        # GPUs of the lease: numbers, or names where CUDA_VISIBLE_DEVICES had names.
        self.devices: list[Any] = []
        # Resources of the lease: [name, fixed amount].
        self.demand: Sequence[tuple[str, int]] = ()
        # Marks all output of an actor, and of a child that user code has forked. Empty: output is the running task's.
        # Written by the main thread.
        self.writer = ""
        # CUDA_VISIBLE_DEVICES when the process started: the GPUs that the node counts, in its order.
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._threads_set_by_user = _OMP_THREADS in os.environb

    def __repr__(self) -> str:
        return f"<ProcessEnvironment devices={self.devices}>"

    def mark_output(self, lost: Callable[[str], None]) -> None:
        """Replaces standard output and error by streams that mark which task or actor writes.

        Args:
            lost: called with the reason when the system has no room for the output.
        """
        for name in ("stdout", "stderr"):
            file = _Lasting(1 if name == "stdout" else 2, "w", closefd=False)
            file.lost = lost
            stream = MarkedOutput(file, **_FORMAT)
            stream.whose = self._whose
            setattr(sys, name, stream)

    def _whose(self) -> str:
        if self.writer:
            return self.writer
        task = running_task()
        return "" if task is None else task.name

    def keep_writer(self) -> None:
        """From now on all output is of the task or actor that writes now: it has forked this process."""
        self.writer = self._whose()

    def set_up(self, runtime: Runtime, job_id: bytes, job: JobSetup) -> None:
        """Prepares the process for the tasks of a job."""
        runtime.facts["job_id"] = job_id
        runtime.facts["namespace"] = job["namespace"]
        runtime.work_for(job_id)
        compare(program=job["interpreter"], workers=this_interpreter())
        sys.path[:] = code_paths.arrange(job["code_paths"], sys.path)
        code_paths.make_way(job["code_paths"]["shadowed"])
        directory = job["directory"]
        if directory:
            try:
                os.chdir(directory)
            except OSError:
                # The driver's directory does not exist any more, and a worker does without.
                pass

    def lease(self, lease: LeaseTerms) -> None:
        """Prepares the process for tasks that may use these devices and CPUs."""
        self.demand = lease["demand"]
        self._set_devices(lease["devices"])
        if not self._threads_set_by_user:
            os.environb[_OMP_THREADS] = b"%d" % max(1, lease["cpus"])

    def _set_devices(self, numbers: Sequence[int]) -> None:
        preset = [name.strip() for name in (self._visible or "").split(",") if name.strip()]
        names = [preset[n] if n < len(preset) else str(n) for n in numbers]
        self.devices = [int(name) if name.isdigit() else name for name in names]
        if os.environ.get("ASYNCRAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES") == "1":
            return
        if names or os.environ.get("ASYNCRAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1") != "0":
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)
