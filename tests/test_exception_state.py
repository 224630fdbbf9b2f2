"""The state of an exception survives pickling without a call of its constructor."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.exception_state import exception_state, link, revive


class Demanding(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


@pytest.mark.parametrize(
    "error",
    [
        ValueError("plain"),
        Demanding(4, reason="why"),
        OSError(2, "no such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    ],
)
def test_a_revived_exception_reads_like_the_first(error: Exception) -> None:
    revived = revive(type(error), *exception_state(error))
    assert type(revived) is type(error)
    assert (str(revived), repr(revived), revived.args) == (str(error), repr(error), error.args)
    for name in ("code", "reason", "errno", "filename", "start", "exceptions"):
        assert getattr(revived, name, None) == getattr(error, name, None)


def test_the_chain_is_given_by_hand() -> None:
    error: Any = revive(ValueError, *exception_state(ValueError("x")))
    cause, context = KeyError(1), TypeError(2)
    link(error, cause, context, suppress=False)
    assert (error.__cause__, error.__context__, error.__suppress_context__) == (cause, context, False)
