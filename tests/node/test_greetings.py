"""Greetings: the node refuses some processes, with a reason."""

from __future__ import annotations

import os
from typing import Any

import pytest

from asyncray.io.credentials import Credentials
from asyncray.messages import HELLO, VERSION
from asyncray.node.greetings import refusal
from asyncray.runtime.interpreters import describe, this_interpreter
from tests.greeting import DRIVER, SETUP

ME = Credentials(1, os.geteuid())
THIS = this_interpreter()
WORKER = {"pid": 1, "number": 2}


def test_who_says_all_is_let_in() -> None:
    for role, info in (("driver", DRIVER), ("worker", WORKER), ("observer", {"pid": 1})):
        for peer in (ME, None):
            assert refusal((HELLO, VERSION, role, info), peer) is None


@pytest.mark.parametrize(
    ("role", "info"),
    [
        ("king", DRIVER),
        (["driver"], DRIVER),
        ("driver", None),
        ("driver", {**DRIVER, "pid": True}),
        ("driver", {**DRIVER, "setup": 3}),
        ("driver", {**DRIVER, "setup": {}}),
        ("driver", {**DRIVER, "setup": {**SETUP, "code_paths": []}}),
        ("driver", {**DRIVER, "setup": {**SETUP, "interpreter": {**THIS, "python": 3}}}),
        ("worker", {"pid": 1}),
        ("observer", {"pid": "1"}),
    ],
)
def test_an_incomplete_greeting_is_refused(role: Any, info: Any) -> None:
    assert refusal((HELLO, VERSION, role, info), ME) == "its greeting is incomplete"


@pytest.mark.parametrize("message", [(), (HELLO,), (HELLO + 1, VERSION, "driver", DRIVER), (None, 1, 2, 3)])
def test_something_else_than_a_greeting_is_refused(message: Any) -> None:
    assert refusal(message, ME) == "it did not say hello"


def test_another_user_is_refused() -> None:
    assert refusal((HELLO, VERSION, "observer", {"pid": 1}), Credentials(1, 12345)) == "it belongs to user 12345"


def test_another_python_is_refused_with_both_named() -> None:
    python2: Any = {**THIS, "executable": "/usr/bin/python2", "python": "cpython 2.7"}
    info = {**DRIVER, "setup": {**SETUP, "interpreter": python2}}
    why = refusal((HELLO, VERSION, "driver", info), ME)
    assert why is not None
    assert describe(python2) in why
    assert describe(THIS) in why


@pytest.mark.parametrize("info", [DRIVER, {}, None, {"setup": 1}])
def test_another_protocol_is_refused_with_both_named_as_far_as_they_are_known(info: Any) -> None:
    why = refusal((HELLO, VERSION + 7, "driver", info), ME)
    assert why is not None
    assert f"version {VERSION + 7} " in why
    assert why.count(describe(THIS)) == (2 if info is DRIVER else 1)
