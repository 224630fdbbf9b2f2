"""Questions: requests that wait for their answer.

A request gets one answer, at once or after a later event. The machine that cannot answer yet keeps the question and
answers it when the event comes. If the asker has ended by then, nobody gets the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from asyncray.core.records import Client

Answer = tuple[Any, ...]
"""(True, value), or (False, exception name, fields)."""

LATER: Final = object()
"""Returned by a function that has kept the question and will answer it after a later event."""


class Refusal(Exception):
    """The request fails through a fault of the client: an exception name and a message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class Question:
    """One request.

    Args:
        asker: the client that waits.
        reply: takes the answer.
    """

    __slots__ = ("_reply", "answered", "asker")

    def __init__(self, asker: Client, reply: Callable[[Answer], None]) -> None:
        self.asker = asker
        self._reply = reply
        self.answered = False

    def __repr__(self) -> str:
        return f"<Question of {self.asker} {'answered' if self.answered else 'open'}>"

    def answer(self, value: Any) -> None:
        """Answers with a value. Raises AssertionError if the question is answered already."""
        self._end((True, value))

    def refuse(self, name: str, fields: dict[str, Any]) -> None:
        """Answers with an exception. Raises AssertionError if the question is answered already."""
        self._end((False, name, fields))

    def _end(self, answer: Answer) -> None:
        assert not self.answered, f"{self} is answered twice"
        self.answered = True
        self._reply(answer)
