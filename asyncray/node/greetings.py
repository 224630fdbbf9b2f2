"""Greetings: the first message of a process that connects, and the reasons to refuse it.

Promises: nothing of a process is unpickled or believed before this. It must speak this version of the protocol, belong
to the user of the node, and, if it is a driver, run a Python whose functions the workers of this node can load.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from asyncray.io.credentials import Credentials
from asyncray.messages import HELLO, VERSION, Received
from asyncray.runtime.interpreters import describe, loads_code_of, this_interpreter

if TYPE_CHECKING:
    from asyncray.words import Interpreter

_FIELDS: dict[str, dict[str, type]] = {
    "driver": {"pid": int, "namespace": str, "setup": dict},
    "worker": {"pid": int, "number": int},
    "observer": {"pid": int},
}
"""The fields that the greeting of each role must hold."""

_SETUP = {"code_paths": dict, "interpreter": dict, "log_to_driver": bool, "namespace": str}
"""The fields that a ``JobSetup`` must hold."""

_INCOMPLETE = "its greeting is incomplete"


def refusal(message: Received, peer: Credentials | None) -> str | None:
    """Why the process is refused; None if it may connect.

    Args:
        message: the first one that it sent, of any form.
        peer: the process; None if the system does not say.
    """
    if len(message) != 4 or message[0] != HELLO:
        return "it did not say hello"
    _, version, role, info = message
    wanted = _FIELDS.get(role) if isinstance(role, str) else None
    interpreter = _interpreter(info)
    if version != VERSION:
        return (
            f"it speaks version {version!r:.20} of the protocol{_in(interpreter)}, and this node version {VERSION}"
            f"{_in(this_interpreter())}: upgrade the older one"
        )
    if wanted is None or not _holds(info, wanted) or (role == "driver" and not _holds(info["setup"], _SETUP)):
        return _INCOMPLETE
    if peer is not None and peer.user != os.geteuid():
        return f"it belongs to user {peer.user}"
    return _check_interpreter(interpreter) if role == "driver" else None


def _check_interpreter(program: Interpreter | None) -> str | None:
    if program is None:
        return _INCOMPLETE
    if not loads_code_of(this_interpreter(), program):
        return (
            f"the program runs{_in(program)} and the node{_in(this_interpreter())}. Functions of one version of Python "
            "do not run in another: use the same for both"
        )
    return None


def _interpreter(info: object) -> Interpreter | None:
    """The interpreter of a driver; None if the greeting does not hold it."""
    if not _holds(info, {"setup": dict}) or not _holds(info["setup"], {"interpreter": dict}):
        return None
    found = info["setup"]["interpreter"]
    return cast("Interpreter", found) if _holds(found, dict.fromkeys(this_interpreter(), str)) else None


def _holds(record: object, fields: dict[str, type]) -> TypeGuard[dict[str, Any]]:
    return type(record) is dict and all(type(record.get(name)) is kind for name, kind in fields.items())


def _in(interpreter: Interpreter | None) -> str:
    return "" if interpreter is None else f" in {describe(interpreter)}"
