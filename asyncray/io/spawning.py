"""Starts interpreters for asyncray's own processes, in a defined state that does not depend on the caller's.

Owns the start of daemons and zygotes. Workers are forks of the zygote and inherit its state.

Promises. A new process

1. blocks no signal and has the default action for each, even if the caller blocks, ignores or handles some of them
   (a ``sigwait`` thread, a background job of a script, ``nohup``). Each process then installs the handlers it wants.
2. runs the caller's interpreter with the caller's options (``-I``, ``-E``, ``-s``, ``-S``, ``-O``, ``-B``, ``-b``,
   ``-W``, ``-X``), so that code means the same there.
3. imports the standard library and the installed packages first and in this order, as every interpreter does. Then
   come the other entries of the caller's path, except the directory of the program and the working directory: a user's
   file ``queue.py`` must not stop a node. ``asyncray`` is the caller's own, wherever that is.
4. has the standard descriptors and those it was given, and no other. In the caller none of them is inheritable, not
   even for a moment: another thread that starts a process just then would pass it on.
5. leads a session of its own: Ctrl-C in a terminal is for the driver.

Inherited on purpose, because the user chose them for all that the program starts: environment, working directory,
umask, limits, priority, CPU affinity, control group.
"""

from __future__ import annotations

# Start-up cost: a daemon imports this before it starts its zygote. So there is no ``signal`` with its enums here, and
# no module that needs ``typing``.
import _signal  # type: ignore[import-not-found]
import gc
import importlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_STANDARD_ERROR = 2

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""The directory (or zip file) that holds this very asyncray."""

_ONLY_PRINT = {"importtime", "showrefcount"}
"""``-X`` options that do nothing but write to standard error."""

# Loads the package by its place and not through sys.path: another asyncray may be installed, and if this one's root
# came first, other files beside it could hide the standard library.
_BOOT = """\
def boot():
    import sys
    sys.path += [entry for entry in {entries!r} if entry not in sys.path]
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec
    spec = PathFinder.find_spec("asyncray", [{root!r}])
    sys.modules["asyncray"] = package = module_from_spec(spec)
    spec.loader.exec_module(package)
    from asyncray.io.spawning import enter
    enter({module!r}, {keep!r})
boot()
"""


def start_interpreter(
    module: str, arguments: Sequence[str], keep: Sequence[int], environment: dict[str, str], output: str | None = None
) -> int:
    """Starts ``main()`` of a module of asyncray in a new process; returns its pid.

    Without ``subprocess``: importing that takes as long as starting the process.

    Args:
        arguments: ``sys.argv[1:]`` of the process.
        keep: descriptors that the process inherits, none of them a standard one. They are not inheritable there.
        output: a file to append its output and errors to; its input is empty then. Without, it has the caller's.

    Raises:
        OSError: the system starts no process.
        RuntimeError: this process has no interpreter to start.
    """
    command = command_line(module, keep)
    actions: list[tuple[object, ...]] = []
    if output is not None:
        from asyncray.io import forking  # start-up cost, as above

        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # An error of the new process would name the interpreter and not this file.
        with forking.lock:  # a fork of another thread would keep the file open
            os.close(os.open(output, flags, 0o600))
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
    # Onto itself: in the new process, and only there, the descriptor is not closed when the interpreter is loaded.
    actions += [(os.POSIX_SPAWN_DUP2, descriptor, descriptor) for descriptor in keep]
    return os.posix_spawn(
        sys.executable,
        [*command, *arguments],
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_signal.valid_signals() - {_signal.SIGKILL, _signal.SIGSTOP},
    )


def command_line(module: str, keep: Sequence[int] = ()) -> list[str]:
    """The command that runs ``main()`` of a module of asyncray in a new process. Arguments may follow.

    Args:
        keep: descriptors that the process inherits besides the standard ones; it closes all others.

    Raises:
        RuntimeError: this process has no interpreter to start.
    """
    check_interpreter()
    boot = _BOOT.format(entries=_entries(), root=_ROOT, module=module, keep=list(keep))
    return [sys.executable, *_options(), "-c", boot]


def check_interpreter() -> None:
    """Raises RuntimeError if this process has no interpreter, or one that cannot run asyncray."""
    if getattr(sys, "frozen", False):
        raise RuntimeError(
            "asyncray cannot start a node from a frozen program: its executable is the program itself and not a Python "
            "interpreter. Start one with `asyncray node` under the same version of Python, and connect to it with "
            'init("auto").'
        )
    if not sys.executable:
        raise RuntimeError(
            f"asyncray cannot start a node: sys.executable is {sys.executable!r}, so this program does not know its "
            "Python interpreter. Set sys.executable to the path of one before init()."
        )
    check_global_lock()


def check_global_lock() -> None:
    """Raises RuntimeError in a free-threaded Python that runs without its global interpreter lock."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        raise RuntimeError(
            "asyncray relies on the global interpreter lock, and this free-threaded Python runs without: start it with "
            "`python -X gil=1` or PYTHON_GIL=1."
        )


def enter(module: str, keep: Sequence[int]) -> None:
    """The rest of the start, in the new process: closes the descriptors of others, and runs the module's ``main()``."""
    _close_inherited(keep)
    load(module).main()


def _close_inherited(keep: Sequence[int]) -> None:
    """Closes the descriptors that this process inherited, except the standard ones and ``keep``.

    Inherited descriptors are inheritable, and those that this interpreter has opened itself are not. Afterwards only
    the standard ones are.
    """
    for descriptor in keep:
        os.set_inheritable(descriptor, False)
    for name in os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else ():
        _close_if_inherited(int(name))


def _close_if_inherited(descriptor: int) -> None:
    try:
        if descriptor > _STANDARD_ERROR and os.get_inheritable(descriptor):
            os.close(descriptor)
    except OSError:
        pass  # that of the listing itself


def load(module: str) -> Any:
    """Imports a module and spares the garbage collector its objects, now and later: to look at them takes 4 ms."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _entries() -> list[str]:
    """The entries that a new interpreter appends to its path, because asyncray and its packages may be in them."""
    program = getattr(sys.modules.get("__main__"), "__file__", None)
    excluded = {"" if program is None else _directory_of(program), _working_directory()} - {_ROOT}
    entries = [entry for entry in map(str, sys.path) if os.path.isabs(entry)]
    return list(dict.fromkeys(entry for entry in entries if os.path.normpath(entry) not in excluded))


def _directory_of(program: str) -> str:
    try:
        return os.path.dirname(os.path.abspath(program))
    except OSError:
        # A relative path, such as "<stdin>", and the working directory was deleted.
        return ""


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""  # it was deleted


def _options() -> list[str]:
    """The options of this interpreter that change what code does.

    Not ``-u``: a worker's output is never buffered. Not ``-v``, ``-d``, ``-q`` and ``-i``, which are about this
    terminal.
    """
    flags = sys.flags
    options = ["-I"] if flags.isolated else ["-P"]
    options += ["-E"] if flags.ignore_environment and not flags.isolated else []
    options += ["-s"] if flags.no_user_site and not flags.isolated else []
    options += ["-S"] if flags.no_site else []
    options += ["-B"] if flags.dont_write_bytecode else []
    options += ["-O"] * flags.optimize + ["-b"] * flags.bytes_warning
    options += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        if name not in _ONLY_PRINT:
            options.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return options
