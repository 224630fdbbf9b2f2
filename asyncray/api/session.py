"""Starts and ends the session of a driver: ``init`` and ``shutdown``, the same in both faces."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from asyncray.api.init_arguments import InitArguments
from asyncray.api.signals import DriverSignals
from asyncray.config import GOODBYE_DEADLINE, LOG_ERROR, REPORTED_SINGLY, STOP_DEADLINE
from asyncray.exceptions import AsyncrayError, NotStartedError
from asyncray.io import forking
from asyncray.io.interrupts import with_signals_deferred
from asyncray.io.owned_lock import OwnedRLock
from asyncray.messages import ERROR, NOTICE, OUTPUT, UNREAD
from asyncray.runtime import code_paths, current, launch
from asyncray.runtime.deadlines import Deadline
from asyncray.runtime.errors import system_fault, task_error_text
from asyncray.runtime.interpreters import compare, this_interpreter
from asyncray.runtime.late_paths import late_paths
from asyncray.runtime.printing import Printer
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import deregister_all, load_cloudpickle

if TYPE_CHECKING:
    from asyncray.words import Interpreter, JobSetup, NodeWelcome

ADDRESS_VARIABLE = "ASYNCRAY_ADDRESS"
HIDE_VARIABLE = "ASYNCRAY_IGNORE_UNHANDLED_ERRORS"


class _Driver:
    """The driver's session of this process: first its connection, then the runtime, and its node if it has one."""

    def __init__(self, connection: socket.socket, node: launch.LocalNode | None) -> None:
        self.connection = connection
        self.node = node
        self.printer = Printer()
        # Made after the connection. None until then.
        self.runtime: Runtime | None = None

    @property
    def is_broken(self) -> bool:
        """True if the node has died."""
        return self.runtime is not None and self.runtime.waiters.broken is not None

    def raise_explained(self, error: Exception) -> None:
        """The start has failed: raises an error that says more, if this driver has started the node."""
        node = self.node
        if node is None:
            return
        if node.cluster and self.runtime is not None and self.runtime.connection.refusal is not None:
            raise launch.unreachable(node.cluster, self.runtime.connection.refusal) from None
        raise AsyncrayError(f"The node did not start: {error}\n{node.log_tail()}") from error

    def end(self, deadline: Deadline) -> None:
        """Ends the connection, and the node if it is this driver's. Waits for nothing after the deadline."""
        with contextlib.ExitStack() as steps:  # the last one first; if one fails, the others are still done
            if self.node is not None:
                steps.callback(self.node.wait, deadline)
            steps.callback(lambda: self.printer.close(deadline.left()))
            if self.runtime is not None:
                stop = self.runtime.stop
                steps.callback(lambda: stop(deadline.left()))
            else:
                steps.callback(launch.close, self.connection)


# Held while a session starts or ends.
_lock = OwnedRLock()

# Set before the session starts and unset after it has ended, under ``_lock``. So it may be set while no session runs.
_driver: _Driver | None = None

# Why the first use starts no session: this process has had one. None while it may start one. See
# ``_start_implicitly``.
_refusal: str | None = None


class Context:
    """The result of ``init``: facts about the node, and a way to leave it.

    As a context manager it shuts the session down at the end of its block.

    Raises:
        KeyError: no fact has that name.

    Example::

        with ray.init(num_cpus=2) as context:
            print(context["address"], context["node_id"], context["session_dir"])
    """

    def __init__(self, facts: NodeWelcome) -> None:
        self.address_info = {
            "address": facts.get("cluster_address", facts["address"]),
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
            shutdown()  # no block is entered, so none will end it
            raise TypeError("Write 'async with asyncray.init(...)', or 'with asyncray.sync.init(...)' without 'async'.")

        async def __aexit__(self, *exc_info: object) -> None:
            """Never called. Without it, ``async with`` would fail before it reaches the error above."""


class SessionStart:
    """One attempt to start a node for this process, or to connect to one.

    An attempt that fails, at any point and for any reason, leaves nothing behind: no session, no process, no handler.

    Args:
        address: as in ``asyncray.sync.init``.
        options: as in ``asyncray.sync.init``.
        stacklevel: for warnings: how far above ``run`` the caller of ``init`` is.
    """

    def __init__(self, address: str | None, options: dict[str, Any], stacklevel: int = 2) -> None:
        self._address = address
        self._arguments = InitArguments.read(options)
        self._stacklevel = stacklevel + 3

        # The caller of ``init`` has given up. Written by its thread.
        self._aborted = False

        # The session that this attempt has made. Written by the thread that runs it.
        self._made: _Driver | None = None

    def __repr__(self) -> str:
        return f"<SessionStart {self._address or 'local'}{', aborted' if self._aborted else ''}>"

    def abort(self) -> None:
        """Makes ``run`` raise soon in its thread. If it has returned, its session is cut off from the node."""
        self._aborted = True
        made = self._made
        if made is not None and made.runtime is not None:
            made.runtime.waiters.leaving = True
            made.runtime.channel.shut_down()

    def end(self) -> None:
        """Ends the session if this attempt has made it."""
        with _lock:  # waits for ``run``, if that is still running
            if self._made is not None and self._made is _driver:
                end_session()

    def run(self) -> Context:
        """Starts the session.

        Raises:
            AsyncrayError: the node did not start, or was aborted.
            RuntimeError: a session runs, or this thread is in the middle of ``init`` or ``shutdown``.
        """
        if _lock.held_by_this_thread():
            raise RuntimeError(
                "init() was called in the middle of another init() or shutdown() of the same thread, by a signal "
                "handler or a finalizer. Call it after that has returned."
            )
        try:
            with _lock:
                return self._run()
        except BaseException as error:
            made = self._made
            try:
                with_signals_deferred(self._undo)
            except BaseException:
                # A second signal handler raised, perhaps before the undo began.
                with_signals_deferred(self._undo)
                raise
            if made is not None and isinstance(error, (AsyncrayError, TimeoutError)):
                made.raise_explained(error)
            raise

    def _run(self) -> Context:
        arguments = self._arguments
        if _driver is not None and (current.session is None or _driver.is_broken):
            shutdown()  # interrupted earlier, or the node has died
        if current.session is not None:
            if not arguments.ignore_reinit_error:
                raise RuntimeError(
                    "Maybe you called init twice by accident? This process is connected to a node already. Call "
                    "shutdown() first, or pass ignore_reinit_error=True."
                )
            return Context(_connected().facts)
        variable = "" if self._address else ADDRESS_VARIABLE
        address = self._address or os.environ.get(ADDRESS_VARIABLE) or "local"
        arguments.check(address, variable)
        arguments.configure()
        return self._enter(address)

    def _undo(self) -> None:
        """Ends what this attempt has made."""
        global _driver
        with _lock:
            if self._made is not None and self._made is _driver:
                _driver = current.session = None
                try:
                    self._made.end(Deadline(STOP_DEADLINE))
                finally:
                    signals.restore()

    def _enter(self, address: str) -> Context:
        driver = self._find_node(address)
        interpreter = this_interpreter()
        runtime = with_signals_deferred(lambda: self._new_runtime(driver, interpreter))
        if self._aborted:
            raise AsyncrayError("The start was aborted.")
        if driver.node is not None:
            # Nearly every program needs it, and the node takes longer to start than its import.
            load_cloudpickle()
        runtime.start()
        compare(interpreter, runtime.facts["interpreter"])
        driver.printer.directory = os.path.join(runtime.facts["session_dir"], "logs")
        self._warn(runtime)
        context = Context(runtime.facts)
        with_signals_deferred(lambda: self._set_session(runtime))
        return context

    def _find_node(self, address: str) -> _Driver:
        """A node of this process's own, or one that runs."""
        if address == "local":
            return with_signals_deferred(lambda: self._started(launch.start_node(self._arguments.amounts)))
        cluster = launch.read_cluster_address(address)
        if cluster is None:
            return self._connect(address)
        try:
            return self._connect(cluster.text)
        except ConnectionError:  # no node of the cluster runs on this machine
            return with_signals_deferred(lambda: self._started(launch.start_node_in_cluster(cluster)))

    def _started(self, node: launch.LocalNode) -> _Driver:
        return self._set_driver(_Driver(node.connection, node))

    def _connect(self, address: str) -> _Driver:
        made: list[socket.socket] = []
        try:
            # One C call connects and notes it, so a signal handler cannot raise in between; it may end the waiting.
            made.extend(map(launch.connect, (address,)))
            return with_signals_deferred(lambda: self._set_driver(_Driver(made.pop(), None)))
        finally:
            if made:
                launch.close(made[0])

    def _set_driver(self, driver: _Driver) -> _Driver:
        global _driver
        self._made = _driver = driver
        return driver

    def _new_runtime(self, driver: _Driver, interpreter: Interpreter) -> Runtime:
        self._check_not_ended()
        return _new_runtime(driver, self._arguments, interpreter)

    def _check_not_ended(self) -> None:
        """Raises AsyncrayError if a signal handler has called ``shutdown`` in the middle of the start."""
        if self._made is not _driver:
            raise AsyncrayError("The session was ended by shutdown() while it started.")

    def _set_session(self, runtime: Runtime) -> None:
        self._check_not_ended()
        current.session = runtime
        signals.install()

    def _warn(self, runtime: Runtime) -> None:
        warning = runtime.facts.get("store_warning")
        if warning:
            import warnings  # start-up cost: only here

            warnings.warn(warning, RuntimeWarning, stacklevel=self._stacklevel)


def _new_runtime(driver: _Driver, arguments: InitArguments, interpreter: Interpreter) -> Runtime:
    directory = code_paths.working_directory()
    paths = code_paths.of_program(sys.path, directory, sys.modules)
    late_paths.begin(paths)
    namespace = arguments.namespace or os.urandom(8).hex()
    setup: JobSetup = {
        "code_paths": paths,
        "directory": directory,
        "interpreter": interpreter,
        "log_to_driver": arguments.log_to_driver is None or bool(arguments.log_to_driver),
        "namespace": namespace,
    }
    info = {"pid": os.getpid(), "namespace": namespace, "setup": setup}
    printer = driver.printer
    runtime = driver.runtime = Runtime(driver.connection, "driver", info, lambda reason: None)
    runtime.handlers[OUTPUT] = lambda message: printer.show(list(message[1]))
    runtime.handlers[NOTICE] = lambda message: printer.log(*message[1:])
    hide = bool(os.environ.get(HIDE_VARIABLE))
    runtime.handlers[UNREAD] = lambda message: None if hide else printer.log(LOG_ERROR, _unread(*message[1:]))
    return runtime


def _unread(name: str, kind: int, payload: Any, count: int) -> str:
    text = task_error_text(payload) if kind == ERROR else str(system_fault(payload))
    which = (
        f"Unhandled error of {name}" if count <= REPORTED_SINGLY else f"{count} unhandled errors of {name} by now; one"
    )
    return f"{which}, which nobody has read ({HIDE_VARIABLE}=1 hides these):\n{text}"


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
    """Leaves the node; stops it if this process has started it. Does nothing if no session runs.

    This driver's actors end, except detached ones of a node that lives on. Refs of this session raise errors from then
    on. ``init`` may be called again.

    Example::

        ray.init(num_cpus=2)
        print(ray.get(square.remote(3)))
        ray.shutdown()
    """
    try:
        end_session()
    finally:
        try:
            with_signals_deferred(signals.restore)
        except BaseException:  # a signal handler raised, perhaps before that began
            with_signals_deferred(signals.restore)
            raise
        signals.end_by_last_signal()


def end_session() -> None:
    """The part of ``shutdown`` that any thread may do: all but giving signals back."""
    global _refusal
    with _lock:
        deadline = Deadline(STOP_DEADLINE)
        driver = _driver
        if driver is None:
            return
        if current.session is not None:
            _refusal = "The session of this process was left by shutdown()."
            current.session = None
        try:
            if driver.runtime is not None and not driver.is_broken:
                driver.runtime.say_goodbye(GOODBYE_DEADLINE)
        except (AsyncrayError, TimeoutError):
            pass  # the node has ended already, or is stuck
        finally:
            # An impatient Ctrl-C must not leave the node behind.
            try:
                with_signals_deferred(lambda: _end_driver(deadline))
            except BaseException:  # a signal handler raised, perhaps before that began
                with_signals_deferred(lambda: _end_driver(deadline))
                raise


def _end_driver(deadline: Deadline) -> None:
    """Ends connection and node, and forgets both. Does nothing if there is none."""
    global _driver
    driver = _driver
    if driver is not None:
        try:
            driver.end(deadline)
        finally:
            deregister_all()
            _driver = None


signals = DriverSignals(shutdown, lambda: _driver is not None, lambda: _driver is not None and current.session is None)


def _start_implicitly() -> None:
    """The first use starts a session: only in a process that has had none, and from code that runs normally.

    A finalizer or exit handler must not start a node, because it was written for a session that has ended. Some of them
    do not show on the stack (callbacks of weak references). So the end of a session, however it was started, ends the
    implicit start as well.

    Raises:
        NotStartedError: the session was not started.
    """
    if _refusal is not None:
        raise NotStartedError(
            f"Ray has not been started yet. {_refusal} Call init() to start another: the first use starts a session "
            "implicitly only in a process that has had none."
        )
    main = threading.main_thread()
    if sys.is_finalizing() or (threading.current_thread() is main and not main.is_alive()):
        raise NotStartedError("Ray has not been started yet. The interpreter is ending: no session is started now.")
    if _is_in_finalizer():
        raise NotStartedError("Ray has not been started yet. A finalizer (__del__) does not start a session.")
    # Another thread may have started one meanwhile.
    SessionStart(None, {"ignore_reinit_error": True}, stacklevel=5).run()


def _is_in_finalizer() -> bool:
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or (code.co_name == "__call__" and code.co_filename == weakref.__file__):
            return True
        frame = frame.f_back
    return False


def set_auto_init(enabled: bool) -> None:  # noqa: FBT001 - the value to set, as in Ray
    """Switches the implicit start by the first use on or off.

    Args:
        enabled: False: a function that needs a session raises ``NotStartedError`` while none runs. True: the next use
            starts one, even if this process has had a session.

    Example::

        ray.set_auto_init(False)
        ray.put(1)  # raises NotStartedError
    """
    global _refusal
    _refusal = None
    current.start_implicitly = _start_implicitly if enabled else None


def _forget_in_child() -> None:
    """A forked child has no session, and ends by SIGTERM as it would without us: ``multiprocessing`` ends it so."""
    global _driver, _lock, _refusal
    _lock = OwnedRLock()
    if current.session is not None:
        _refusal = "The session belongs to the process that this one was forked from."
    if _driver is not None:
        _driver = current.session = None
        deregister_all()
    signals.restore_in_child()


if current.session is None:  # not in a worker
    current.start_implicitly = _start_implicitly
atexit.register(shutdown)
forking.in_child(_forget_in_child)
