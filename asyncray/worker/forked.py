"""What becomes of a task's or method's return in a child that user code has forked: the child ends.

In a plain program such a child would go on behind the call; here nobody waits for its reply, and the code around the
call would wait for ever for the next one. So the runner's place is taken by one that ends the process, as
``multiprocessing`` does with what it forks: 0 after a return, 1 and a traceback after an exception.
"""

from __future__ import annotations

import traceback
from typing import Any, NoReturn

from asyncray.worker import ending
from asyncray.worker.running import Invocation, Runner


class ForkedRunner(Runner):
    """Takes the place of ``Runner`` in a forked child: no call of it is answered."""

    def succeeded(self, invocation: Invocation, result: Any) -> NoReturn:
        ending.end_forked(0)

    async def succeeded_async(self, invocation: Invocation, result: Any) -> NoReturn:
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
