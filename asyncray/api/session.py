"""Starting and stopping: what ``init`` and ``shutdown`` do in both faces."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from asyncray.api.arguments import Arguments
from asyncray.config import GOODBYE_DEADLINE, LOG_ERROR, STOP_DEADLINE, TOLD_SINGLY
from asyncray.exceptions import AsyncrayError
from asyncray.io import forking
from asyncray.io.interrupts import Deferrable, with_signals_deferred
from asyncray.messages import ERROR, NOTICE, OUTPUT, UNREAD, JobSetup
from asyncray.runtime import code_paths, current, launch
from asyncray.runtime.connection import Welcome
from asyncray.runtime.errors import system_fault, task_error_text
from asyncray.runtime.interpreters import compare, this_interpreter
from asyncray.runtime.printing import Printer
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import deregister_all

ADDRESS_VARIABLE = "ASYNCRAY_ADDRESS"
HIDE_VARIABLE = "ASYNCRAY_IGNORE_UNHANDLED_ERRORS"


class _Driver:
    """The driver's session of this process."""

    def __init__(self, runtime: Runtime, node: launch.LocalNode | None, printer: Printer) -> None:
        self.runtime = runtime
        self.node = node
        self.printer = printer

    def end(self) -> None:
        """Ends the connection, and the node if it is this driver's."""
        with contextlib.ExitStack() as steps:  # the last one first; if one fails, the others are still done
            if self.node is not None:
                steps.callback(self.node.wait)
            steps.callback(self.printer.close, STOP_DEADLINE)
            steps.callback(self.runtime.stop, STOP_DEADLINE)


_lock = threading.RLock()
_driver: _Driver | None = None
_last_signal: int | None = None
"""One that came while the program was ending: it ends by that."""

_leaving: SystemExit | None = None
"""What the last SIGTERM raised."""

_report_unraisable = sys.unraisablehook
_AGAIN_SECONDS = 0.01


class Context:
    """What ``init`` returns: facts about the node, and a way to leave it.

    Use it with ``with`` to shut down at the end. ``ctx["address"]``, ``ctx["node_id"]``, ``ctx["session_dir"]``.

    Raises:
        KeyError: there is no such fact.
    """

    def __init__(self, facts: Welcome) -> None:
        self.address_info = {
            "address": facts["address"],
            "node_id": facts["node_id"].hex(),
            "session_dir": facts["session_dir"],
            "node_ip_address": facts["ip"],
            "namespace": facts.get("namespace", ""),
        }

    def __repr__(self) -> str:
        return f"Context({self.address_info})"

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __contains__(self, key: object) -> bool:
        return key in self.address_info

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def get(self, key: str, default: Any = None) -> Any:
        """The fact, or the default."""
        return self.address_info.get(key, default)

    def disconnect(self) -> None:
        """The same as ``shutdown()``."""
        shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        shutdown()

    if not TYPE_CHECKING:  # checkers know by their absence that this is wrong

        async def __aenter__(self) -> NoReturn:
            shutdown()  # nobody else would, and the next init would be the second
            raise TypeError("Write 'async with asyncray.init(...)', or 'with asyncray.sync.init(...)' without 'async'.")

        async def __aexit__(self, *exc_info: object) -> None:
            """Never called: there for ``async with`` to come as far as the error."""


def start(address: str | None = None, **options: Any) -> Context:
    """Starts a node for this process, or connects to one. See ``asyncray.sync.init``."""
    global _driver
    arguments = Arguments.read(options)
    with _lock:
        if _driver is not None and (current.session is None or _driver.runtime.waiters.broken is not None):
            shutdown()  # a shutdown was interrupted, or its node has died: whoever starts again need not tidy up first
        if current.session is not None:
            if not arguments.ignore_reinit_error:
                raise RuntimeError(
                    "Maybe you called init twice by accident? This process is connected to a node already. Call "
                    "shutdown() first, or pass ignore_reinit_error=True."
                )
            return Context(_connected().facts)
        variable = "" if address else ADDRESS_VARIABLE
        address = address or os.environ.get(ADDRESS_VARIABLE) or "local"
        arguments.check(address, variable)
        arguments.configure()
        _driver = _connect(address, arguments)
        runtime = current.session = _driver.runtime
    _warn(runtime)
    handle_sigterm()
    return Context(runtime.facts)


def _connect(address: str, arguments: Arguments) -> _Driver:
    node = launch.start_node(arguments.amounts) if address == "local" else None
    connection = launch.connect(address) if node is None else node.connection
    printer = Printer()
    namespace = arguments.namespace or os.urandom(8).hex()
    directory = _working_directory()
    interpreter = this_interpreter()
    setup: JobSetup = {
        "code_paths": code_paths.of_program(sys.path, directory),
        "directory": directory,
        "interpreter": interpreter,
        "log_to_driver": arguments.log_to_driver is None or bool(arguments.log_to_driver),
        "namespace": namespace,
    }
    info = {"pid": os.getpid(), "namespace": namespace, "setup": setup}
    runtime = Runtime(connection, "driver", info, lambda reason: None)
    runtime.handlers[OUTPUT] = lambda message: printer.show(message[1])
    runtime.handlers[NOTICE] = lambda message: printer.log(*message[1:])
    hide = bool(os.environ.get(HIDE_VARIABLE))
    runtime.handlers[UNREAD] = lambda message: None if hide else printer.log(LOG_ERROR, _unread(*message[1:]))
    try:
        runtime.start()
    except BaseException as error:
        runtime.stop(STOP_DEADLINE)
        if node is not None:
            node.wait()
            if isinstance(error, (AsyncrayError, TimeoutError)):
                raise AsyncrayError(f"The node did not start: {error}\n{node.log_tail()}") from error
        raise
    compare(interpreter, runtime.facts["interpreter"])
    return _Driver(runtime, node, printer)


def _unread(name: str, kind: int, payload: Any, count: int) -> str:
    text = task_error_text(payload) if kind == ERROR else str(system_fault(payload))
    which = f"Unhandled error of {name}" if count <= TOLD_SINGLY else f"{count} unhandled errors of {name} by now; one"
    return f"{which}, which nobody has read ({HIDE_VARIABLE}=1 hides these):\n{text}"


def _warn(runtime: Runtime) -> None:
    warning = runtime.facts.get("store_warning")
    if warning:
        import warnings  # start-up cost: only here

        warnings.warn(warning, RuntimeWarning, stacklevel=4)


def _working_directory() -> str | None:
    """Where the driver runs; None if that was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return None


def _connected() -> Runtime:
    session = current.session
    assert isinstance(session, Runtime)
    return session


def is_initialized() -> bool:
    """True if this process is connected to a node: from ``init`` to ``shutdown``, and in workers.

    Example::

        if not ray.is_initialized():
            ray.init(num_cpus=2)
    """
    return current.session is not None


def shutdown() -> None:
    """Leaves the node; stops it if this process has started it. Does nothing if there is none.

    This driver's actors end, except detached ones of a node that lives on. Refs of this session raise errors from then
    on. ``init`` may be called again.

    Example::

        ray.init(num_cpus=2)
        print(ray.get(square.remote(3)))
        ray.shutdown()
    """
    _end_driver()
    _leave_sigterm()
    if _last_signal is not None and threading.current_thread() is threading.main_thread():
        _end_by(_last_signal)


def _end_driver() -> None:
    global _driver
    with _lock:
        driver = _driver
        if driver is None:
            return
        current.session = None
        try:
            if driver.runtime.waiters.broken is None:
                driver.runtime.request("goodbye", deadline=GOODBYE_DEADLINE)
        except (AsyncrayError, TimeoutError):
            pass  # the node is gone already, or stuck
        finally:
            with_signals_deferred(driver.end)  # an impatient Ctrl-C must not leave the node behind
            deregister_all()
            _driver = None


def handle_sigterm() -> None:
    """SIGTERM ends a driver as ``sys.exit`` would: exit handlers run, the node ends.

    Only the main thread may say so, and a program that has its own handler is not disturbed.
    """
    global _report_unraisable
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
    if sys.unraisablehook is not _swallowed:
        _report_unraisable, sys.unraisablehook = sys.unraisablehook, _swallowed


def _leave_sigterm() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.unraisablehook is _swallowed:
        sys.unraisablehook = _report_unraisable


def _swallowed(unraisable: sys.UnraisableHookArgs) -> None:
    """A finalizer cannot raise, and programs that use objects run many: Ctrl-C or SIGTERM in one comes again soon."""
    error = unraisable.exc_value
    number = signal.SIGTERM if error is _leaving else signal.SIGINT if type(error) is KeyboardInterrupt else None
    main = threading.main_thread()
    if error is None or number is None or threading.current_thread() is not main or not main.is_alive():
        _report_unraisable(unraisable)
        return
    try:
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main.ident, number))
        again.daemon = True
        again.start()
    except RuntimeError:  # the interpreter ends and takes no new threads
        _report_unraisable(unraisable)


def _exit_by_signal(number: int, frame: FrameType | None) -> None:
    global _last_signal
    waits_for_threads = _is_in_threading_shutdown(frame)
    if threading.main_thread().is_alive() and not waits_for_threads:
        if not _leave_loop(number, frame):
            _exit(number)
        return
    # The program is ending. Nobody would hear of a SystemExit: it would be printed, and the exit code be 0.
    _last_signal = number
    if current.session is None and _driver is not None:
        return  # shutdown is at work, and goes on where it was
    if waits_for_threads:
        atexit._run_exitfuncs()  # else it is running them
    shutdown()


def _exit(number: int) -> NoReturn:
    global _leaving
    _leaving = SystemExit(number)
    raise _leaving


def _leave_loop(number: int, frame: FrameType | None) -> bool:
    """True if the signal came in the middle of asyncio's own code, and the loop ends by it at its next step.

    There an exception may come between taking a callback off the queue and calling it, and whoever waits for that would
    wait for ever.
    """
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    module = "" if frame is None else frame.f_globals.get("__name__", "")
    if loop is None or module.partition(".")[0] not in ("asyncio", "selectors"):
        return False
    loop.call_soon_threadsafe(_exit, number)
    return True


def _is_in_threading_shutdown(frame: FrameType | None) -> bool:
    """True where the interpreter waits at its end for threads of the program, or of its pools."""
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    code = None if frame is None else frame.f_code
    return code is not None and code.co_name == "_shutdown" and code.co_filename == threading.__file__


def _end_by(number: int) -> None:
    """Ends the process by the signal, so that its parent sees that. What it has printed is not lost."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # there is none, or it is closed
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_on_sigterm = Deferrable(_exit_by_signal)


def _start_implicitly() -> None:
    with _lock:
        if current.session is None:
            start()


def set_auto_init(enabled: bool) -> None:
    """Switches the implicit start by the first use on or off.

    Args:
        enabled: False: what needs a session that is not there raises ``NotStartedError``.

    Example::

        ray.set_auto_init(False)
        ray.put(1)  # raises NotStartedError
    """
    current.start_implicitly = _start_implicitly if enabled else None


def _forget_in_child() -> None:
    """A forked child has no session, and ends by SIGTERM as it would without us: ``multiprocessing`` ends it so."""
    global _driver, _lock
    _lock = threading.RLock()
    driver, _driver = _driver, None
    if driver is not None:
        current.session = None
        deregister_all()
    _leave_sigterm()


if current.session is None:  # not in a worker
    current.start_implicitly = _start_implicitly
atexit.register(shutdown)
forking.in_child(_forget_in_child)
