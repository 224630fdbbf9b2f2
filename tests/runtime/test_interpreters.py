"""Interpreters: when the difference between a program's and its workers' matters."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.runtime import interpreters
from asyncray.words import Interpreter

THIS = interpreters.this_interpreter()


def other(**fields: str) -> Interpreter:
    changed: Any = {**THIS, **fields}
    return changed  # type: ignore[no-any-return]  # the same keys


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    interpreters.compare(THIS, THIS)


def test_code_of_another_version_cannot_be_loaded() -> None:
    assert interpreters.loads_code_of(THIS, other(executable="/other/python", prefix="/other", asyncray="9"))
    assert not interpreters.loads_code_of(THIS, other(python="cpython 2.7"))


def test_what_only_a_program_has_in_its_main_module_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a pool of multiprocessing inside a task."""

    def function() -> None:
        raise AssertionError

    function.__qualname__ = "function"
    monkeypatch.setattr(function, "__module__", "__main__")
    with pytest.raises(pickle.PicklingError) as caught:
        pickle.dumps(function)
    assert "in a module that the program imports" in interpreters.environment_note(caught.value)
    assert interpreters.environment_note(pickle.PicklingError("Can't pickle <a lock>")) == ""


@pytest.mark.parametrize(
    "error", [ModuleNotFoundError("No module named 'x'"), AttributeError("Can't get attribute 'X' on <module 'x'>")]
)
@pytest.mark.parametrize("fields", [{"prefix": "/other", "executable": "/other/python"}, {"asyncray": "9"}])
def test_what_may_come_from_different_environments_names_both(error: Exception, fields: dict[str, str]) -> None:
    program = other(**fields)
    interpreters.compare(program, THIS)
    note = interpreters.environment_note(error)
    assert interpreters.describe(program) in note
    assert interpreters.describe(THIS) in note


def test_other_errors_and_equal_environments_need_no_note() -> None:
    interpreters.compare(other(executable="another name of the same"), THIS)
    assert interpreters.environment_note(ImportError("x")) == ""
    interpreters.compare(other(prefix="/other"), THIS)
    for error in (ValueError("x"), AttributeError("'int' object has no attribute 'x'")):
        assert interpreters.environment_note(error) == ""
