"""The Python of a program and the Python of its workers, and the consequences where they differ.

Promises: a program whose functions a node's workers cannot load (another implementation or minor version of Python) is
refused before anything is unpickled. Where only the environment differs, the program may connect, and an error that
this may have caused names both interpreters.

Another version of cloudpickle is not refused: with few exceptions one version loads the pickles of another, and where
it does not, the error names both interpreters.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from asyncray.messages import RELEASE

if TYPE_CHECKING:
    from asyncray.words import Interpreter

_difference = ""
"""A sentence about what differs between the program and its workers; empty if nothing does. Written by ``compare``."""


def this_interpreter() -> Interpreter:
    """The Python of this process."""
    version = f"{sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]}"
    executable = sys.executable or sys.implementation.name
    return {"executable": executable, "prefix": sys.prefix, "python": version, "asyncray": RELEASE}


def describe(interpreter: Interpreter) -> str:
    """An interpreter, for people."""
    return f"{interpreter['executable']} ({interpreter['python']}, asyncray {interpreter['asyncray']})"


def loads_code_of(one: Interpreter, other: Interpreter) -> bool:
    """True if one can load functions that the other has pickled."""
    return one["python"] == other["python"]


def compare(program: Interpreter, workers: Interpreter) -> None:
    """Records whether the program of this session and its workers have different environments."""
    global _difference
    same = program["prefix"] == workers["prefix"] and program["asyncray"] == workers["asyncray"]
    _difference = ""
    if not same:
        _difference = (
            f"The program runs in {describe(program)} and its workers in {describe(workers)}: what is installed for "
            "one of them may be missing in the other."
        )


_NO_MAIN = (
    "The __main__ of a worker is not that of the program, so pickle finds no function or class of the program there by "
    "its name. Define what you send to a pool of processes in a module that the program imports, or call remote "
    "functions instead of the pool."
)


def environment_note(error: BaseException) -> str:
    """Text for an error that the environment of workers may have caused; empty for other errors."""
    from pickle import PicklingError  # start-up cost: a daemon pickles nothing

    if isinstance(error, PicklingError) and "__main__" in str(error):
        return _NO_MAIN
    missing = isinstance(error, ImportError) or (
        isinstance(error, AttributeError) and str(error).startswith("Can't get attribute")
    )
    return _difference if missing else ""
