"""The daemon learns of functions and templates that a process no longer uses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from asyncray.messages import FORGET, FUNCTION, SUBMIT, TEMPLATE
from asyncray.runtime.connection import IdSource
from asyncray.runtime.exports import LINGERING, Export, Exports
from asyncray.runtime.references import References
from asyncray.runtime.refs import own
from asyncray.runtime.submission import Submitter
from asyncray.runtime.waiters import Waiters
from tests.points import at_point


class Session:
    """A submitter, and the messages that it posts."""

    def __init__(self) -> None:
        self.asked: list[bool] = []
        self.references = References(lambda: self.asked.append(True))
        connection: Any = SimpleNamespace(
            post=self.references.posted.append, references=self.references, ids=IdSource(), waiters=Waiters()
        )
        nothing: Any = None
        self.submitter = Submitter(connection, nothing, nothing)

    def sent(self) -> list[Any]:
        """The messages of the next batch."""
        return list(self.references.collect())

    def export(self, data: bytes) -> tuple[Export, Export]:
        """A function that is made again, with its data, and a template of it."""
        function = self.submitter.export(lambda: data, "remote function f")
        return function, self.submitter.template(_spec(function), function)


def _spec(function: Export) -> Any:
    return {"name": "f", "function": function.digest, "returns": 1, "retries": 0, "demand": ()}


LARGE = bytes(70_000)


def test_what_the_program_drops_is_forgotten_after_what_uses_it() -> None:
    session = Session()
    function, template = session.export(LARGE)
    session.submitter.submit(template.number, 0, (), {}, "f")
    numbers = {function.number, template.number}
    del function, template
    assert session.asked
    *messages, (kind, forgotten) = session.sent()
    assert [message[0] for message in messages] == [FUNCTION, TEMPLATE, SUBMIT]
    assert (kind, set(forgotten)) == (FORGET, numbers)
    assert repr(session.submitter) == "<Submitter <Exports 0>>"
    assert session.sent() == []


def test_equal_content_is_sent_once_while_a_user_has_it_and_again_under_another_number() -> None:
    session = Session()
    first, second = session.export(LARGE), session.export(LARGE)
    assert first == second
    del first
    assert [message[0] for message in session.sent()] == [FUNCTION, TEMPLATE]
    before = {export.number for export in second}
    del second
    third = session.export(LARGE)  # before FORGET is written
    assert before.isdisjoint(export.number for export in third)
    *messages, (kind, forgotten) = session.sent()
    assert [message[0] for message in messages] == [FUNCTION, TEMPLATE]
    assert (kind, set(forgotten)) == (FORGET, before)
    assert session.export(LARGE) == third  # which the end of the first has not hidden


def test_two_threads_that_export_the_same_at_once_are_both_forgotten() -> None:
    exports = Exports(lambda: None)
    first, second = exports.make(b"same", lingers=False), exports.make(b"same", lingers=False)
    exports.sent(first)
    exports.sent(second)
    assert exports.find(b"same") is second
    numbers = [first.number, second.number]
    del first
    assert exports.take_ended() == numbers[:1]
    assert exports.find(b"same") is second
    del second
    assert exports.find(b"same") is None
    assert exports.take_ended() == numbers[1:]
    assert repr(exports) == "<Exports 0>"


def test_small_functions_linger_and_are_few() -> None:
    session = Session()
    for _ in range(3):
        session.export(b"the same")
    assert [message[0] for message in session.sent()] == [FUNCTION, TEMPLATE]
    for number in range(2 * LINGERING):
        session.export(b"data %d" % number)
    assert session.sent()[-1][0] == FORGET
    assert repr(session.submitter) == f"<Submitter <Exports {LINGERING}>>"


def test_a_function_that_holds_refs_does_not_linger() -> None:
    session = Session()
    ref = own(session.references, b"object of the session.....")
    function = session.submitter.export(lambda: ref, "remote function f")
    assert not function.lingers
    assert not session.submitter.template(_spec(function), function).lingers


@pytest.mark.parametrize("data", [LARGE, b"small"])
def test_an_interrupt_leaves_no_export_that_is_never_forgotten(data: bytes) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    point, more = 0, True
    while more:
        point += 1
        session = Session()
        try:
            more = at_point(point, interrupt, lambda: session.export(data))  # noqa: B023 - called at once
        except KeyboardInterrupt:
            pass
        session.references.exports._latest.clear()
        messages = session.sent() + session.sent()
        sent = {message[1] for message in messages if message[0] in (FUNCTION, TEMPLATE)}
        assert sent <= {number for message in messages if message[0] == FORGET for number in message[1]}
        assert repr(session.references.exports) == "<Exports 0>"
    assert point > 10


def test_the_end_of_a_session_asks_for_nothing() -> None:
    session = Session()
    exports = session.export(LARGE)
    session.sent()
    session.references.close()
    session.asked.clear()
    del exports
    assert not session.asked
