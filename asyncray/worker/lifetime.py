"""The life of a forked worker: it connects, works, and ends in order."""

from __future__ import annotations

# Without conversions to enums: 0.06 ms less in each worker.
import _signal  # type: ignore[import-not-found]
import faulthandler
import functools
import os
import signal
import socket
import traceback
from collections.abc import Callable

from asyncray.config import STOP_DEADLINE
from asyncray.io import forking
from asyncray.io.interrupts import Deferrable
from asyncray.io.processes import offer_to_the_oom_killer
from asyncray.io.reading import CLOSED
from asyncray.messages import OUTPUT_LOST
from asyncray.runtime import current
from asyncray.runtime.context import forget_tasks
from asyncray.runtime.runtime import Runtime
from asyncray.worker import ending
from asyncray.worker.leftovers import Leftovers
from asyncray.worker.process_environment import ProcessEnvironment
from asyncray.worker.threads import inherit_tasks
from asyncray.worker.work_loop import WorkLoop


def work(number: int, address: str, connected: Callable[[], None], leftovers: Leftovers) -> int:
    """Connects to the daemon and runs the tasks that it sends; returns the exit code of the process.

    Args:
        number: the daemon's number of this worker.
        address: the path of the daemon's socket.
        connected: called when the daemon has said welcome.
        leftovers: watches this process.
    """
    offer_to_the_oom_killer()
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(address)
    except OSError as error:
        raise OSError(error.errno, error.strerror, address) from None
    environment = ProcessEnvironment()
    runtime = Runtime(connection, "worker", {"pid": os.getpid(), "number": number}, _connection_ended)
    work_loop = WorkLoop(runtime, environment, leftovers)
    current.session = runtime
    # The faces, which the zygote may have loaded, set it. A worker starts no node.
    current.start_implicitly = None
    runtime.workplace = work_loop
    interrupted = Deferrable(work_loop.interrupted)
    _signal.signal(_signal.SIGINT, interrupted)
    environment.mark_output(lambda why: runtime.post((OUTPUT_LOST, why)))
    leftovers.hold_output()
    faulthandler.enable(2)
    runtime.start()
    connected()
    inherit_tasks()
    worker = os.getpid()
    forking.in_child(functools.partial(_forget_in_child, work_loop, environment, interrupted))
    code = 0
    try:
        work_loop.run()
    except SystemExit as error:
        code = ending.exit_code(error)
    except BaseException:  # a defect of ours: log it, and the daemon reports the end
        traceback.print_exc()
        code = 1
    # A child that user code has forked, and that an exception ends.
    if os.getpid() != worker:
        ending.end_forked(code)
    ending.finish(work_loop.let_go, work_loop.own_threads())
    runtime.channel.drain(STOP_DEADLINE)
    return code


def _forget_in_child(work_loop: WorkLoop, environment: ProcessEnvironment, interrupted: Deferrable) -> None:
    """A child that user code forks has no session, runs no task of one, and Ctrl-C interrupts it as any program."""
    environment.keep_writer()
    forget_tasks()
    current.session = None
    if signal.getsignal(signal.SIGINT) is interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    work_loop.forget_in_child()


def _connection_ended(reason: str) -> None:
    """Ends the process at once, whatever runs, because no process wants its results."""
    if reason == CLOSED:
        os._exit(0)
    os.write(2, f"asyncray: the connection of this worker to its node ended: {reason}\n".encode())
    os._exit(1)
