"""Ends a child that user code has forked, where its task or method returns.

In a plain program such a child would go on behind the call. Here no process waits for its reply, and the code around
the call would wait for the next call for ever. So another runner takes the place of the worker's: it ends the process,
as ``multiprocessing`` ends its children: with 0 after a return, with 1 and a traceback after an exception.
"""

from __future__ import annotations

import traceback
from typing import Any, NoReturn

from asyncray.worker import ending
from asyncray.worker.running import Invocation, Runner


class ForkedRunner(Runner):
    """Takes the place of ``Runner`` in a forked child: no call of it is answered."""

    def small_reply(self, invocation: Invocation, result: Any) -> NoReturn:
        ending.end_forked(0)

    def failed(self, invocation: Invocation, error: BaseException, skip_frames: int = 1) -> NoReturn:
        self.raised(invocation, error)

    def raised(self, invocation: Invocation, error: BaseException, skip_frames: int = 1) -> NoReturn:
        traceback.print_exception(error)
        ending.end_forked(1)

    @staticmethod
    def exited(invocation: Invocation, error: SystemExit) -> NoReturn:
        ending.end_forked(ending.exit_code(error))

    @staticmethod
    def cancelled(task_id: bytes, microseconds: int = 0) -> NoReturn:
        ending.end_forked(1)
