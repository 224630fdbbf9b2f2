"""Copies with other options share a source: it makes a template once and finds it again."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, cast

import pytest

from asyncray.api.signature import Signature
from asyncray.api.source import ExportedFunction, Templates
from asyncray.runtime.exports import Export
from asyncray.runtime.runtime import Runtime


class FakeSession:
    """The part of a runtime that a source uses. It counts exports."""

    def __init__(self) -> None:
        self.exported: list[str] = []

    @property
    def submitter(self) -> FakeSession:
        return self

    def export(self, target: object, what: str) -> Export:
        self.exported.append(what)
        return Export(len(self.exported), what.encode(), lingers=True)


def session() -> Any:
    return cast(Runtime, FakeSession())


class Making:
    """Makes a new thing each time, and keeps what for."""

    def __init__(self) -> None:
        self.made: list[Mapping[str, object]] = []

    def __call__(self, runtime: Runtime, options: Mapping[str, object]) -> tuple[int, int]:
        self.made.append(options)
        return len(self.made), 1


def test_equal_options_find_what_was_made() -> None:
    templates, here, make = Templates(), session(), Making()
    same: list[dict[str, object]] = [
        {"num_cpus": 1, "resources": {"oven": 1}},
        {"num_cpus": 1.0, "resources": {"oven": 1}},
        {"num_cpus": 1, "resources": {"oven": 1}},
    ]
    assert [templates.get_or_make(here, "f", options, make) for options in same] == [(1, 1)] * 3
    others: list[tuple[str, dict[str, object]]] = [
        ("f", {"num_cpus": 2}), ("g", {"num_cpus": 2}), ("f", {"resources": {"oven": 2}}), ("f", {}),
    ]  # fmt: skip
    for number, (name, options) in enumerate(others, 2):
        assert templates.get_or_make(here, name, options, make) == (number, 1)


@pytest.mark.parametrize("option", [[1], {"deep": {"er": 1}}])
def test_what_cannot_be_compared_is_made_each_time(option: object) -> None:
    templates, here, make = Templates(), session(), Making()
    assert [templates.get_or_make(here, "f", {"x": option}, make) for _ in range(2)] == [(1, 1), (2, 1)]


def test_names_of_calls_and_of_actors_share_a_template() -> None:
    templates, here, make = Templates(), session(), Making()
    for number in range(1000):
        named = {"num_cpus": 1, "name": str(number), "namespace": str(number), "get_if_exists": bool(number % 2)}
        assert templates.get_or_make(here, "f", named, make) == (1, 1)
    assert repr(templates) == "<Templates 1>"


def test_other_options_for_each_call_fill_no_memory() -> None:
    templates, here, make = Templates(), session(), Making()
    for number in range(10_000):
        templates.get_or_make(here, "f", {"memory": number}, make)
    assert 0 < int(repr(templates).strip("<>").split()[1]) <= 256


def test_another_session_hears_of_all_again() -> None:
    source = ExportedFunction(print, "remote function print", Signature(print))
    first, second, make = session(), session(), Making()
    for here in (first, first, second, first):
        assert source.export(here).digest == b"remote function print"
        source.templates.get_or_make(here, "f", {}, make)
    assert (len(first.exported), len(second.exported), len(make.made)) == (2, 1, 3)


def test_a_source_travels_without_what_its_session_knows() -> None:
    source = ExportedFunction(print, "remote function print", Signature(print))
    source.export(session())
    source.templates.get_or_make(session(), "f", {}, Making())
    assert repr(source) == "<ExportedFunction builtins.print pickled>"
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.target, copy.path) == (print, "builtins.print")
    assert repr(copy) == "<ExportedFunction builtins.print not pickled>"
    assert repr(copy.templates) == "<Templates 0>"
