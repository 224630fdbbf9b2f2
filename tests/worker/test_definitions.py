"""The functions and templates that a worker keeps."""

from __future__ import annotations

import pickle
from typing import Any

from asyncray.words import WorkerSpec
from asyncray.worker.definitions import Definition, SentFunction

unpickled: list[str] = []


def _note(name: str) -> Any:
    unpickled.append(name)
    return len


class Noted:
    def __reduce__(self) -> tuple[Any, ...]:
        return _note, ("once",)


def test_templates_of_one_function_share_what_is_unpickled_once() -> None:
    unpickled.clear()
    function = SentFunction(pickle.dumps(Noted()))
    spec: WorkerSpec = {"name": "f", "function": 1, "returns": 1}
    templates = [Definition({**spec, "returns": returns}, function) for returns in range(3)]
    assert repr(templates[0]) == "<Definition f <SentFunction pickled>>"
    assert [template.load() for template in templates] == [len] * 3
    assert unpickled == ["once"]
    assert repr(templates[2]) == "<Definition f <SentFunction loaded>>"


def test_a_function_that_cannot_be_unpickled_raises_each_time() -> None:
    template = Definition({"name": "f", "function": 0, "returns": 1}, SentFunction(b"no pickle"))
    for _ in range(2):
        try:
            template.load()
        except pickle.UnpicklingError:
            continue
        raise AssertionError


def test_what_is_retried() -> None:
    def template(retry_on: Any) -> Definition:
        return Definition({"name": "f", "function": 0, "returns": 1, "retry_on": retry_on}, SentFunction(b""))

    assert not template(False).retries(ValueError())
    assert template(True).retries(ValueError())
    assert not template(True).retries(SystemExit())
    classes = template(pickle.dumps((KeyError,)))
    assert [classes.retries(error) for error in (KeyError(), ValueError(), KeyError())] == [True, False, True]
    assert not template(b"no pickle").retries(ValueError())
