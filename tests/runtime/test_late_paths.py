"""Late paths: what a driver adds to ``sys.path`` after ``init`` travels with what it pickles."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncray.runtime import code_paths, late_paths
from asyncray.runtime.late_paths import LatePaths
from asyncray.runtime.serialization import deregister, deserialize, register, serialize
from asyncray.words import CodePaths


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> LatePaths:
    """The late paths of this process."""
    fresh = LatePaths()
    monkeypatch.setattr(late_paths, "late_paths", fresh)
    return fresh


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is as before, afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())


def told() -> CodePaths:
    return code_paths.of_program(sys.path, os.getcwd(), sys.modules)


def add(directory: Path, place: int | None = None) -> str:
    """Adds the directory to the path."""
    sys.path.insert(len(sys.path) if place is None else place, str(directory))
    return str(directory)


@pytest.fixture
def tools(tmp_path: Path) -> Iterator[str]:
    """A module beside the path: its name."""
    name = f"tools_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "class Box:\n    class Lid: pass\n    size = 3\n\ndef double(x): return 2 * x\n"
    )
    yield name
    sys.modules.pop(name, None)


def test_a_driver_that_adds_nothing_sends_nothing(late: LatePaths) -> None:
    late.begin(told())
    late.look()
    assert late.paths is None
    assert late_paths.with_paths(b"pickled") == b"pickled"
    assert repr(late) == "<LatePaths []>"


def test_an_entry_keeps_its_place_around_the_standard_library(late: LatePaths, tmp_path: Path) -> None:
    late.begin(told())
    last = add(tmp_path / "last")
    late.look()
    assert late.paths is not None
    assert last in late.paths["after"]
    first = add(tmp_path / "first", 0)
    late.look()
    assert late.paths["before"][0] == first
    assert last in late.paths["after"]
    assert repr(late) == f"<LatePaths {sorted([first, last])}>"


def test_a_new_working_directory_is_none_unless_the_path_names_it(
    late: LatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.begin(told())
    monkeypatch.chdir(tmp_path)
    sys.path.append("/elsewhere")
    late.look()
    assert late.paths is not None
    assert str(tmp_path) not in late.paths["after"]
    sys.path.append("below")
    (tmp_path / "below").mkdir()
    late.look()
    assert str(tmp_path / "below") in late.paths["after"]


def test_an_entry_that_was_removed_after_an_import(late: LatePaths, tmp_path: Path, tools: str) -> None:
    late.begin(told())
    add(tmp_path, 0)
    importlib.import_module(tools)
    del sys.path[0]
    late.look()
    assert late.paths is not None
    assert str(tmp_path) in late.paths["after"]
    assert late.have(tools)
    assert not late.have(__name__)


def test_an_entry_that_the_driver_has_taken_back_does_not_travel(late: LatePaths, tmp_path: Path) -> None:
    late.begin(told())
    add(tmp_path / "first")
    add(tmp_path / "second", 0)
    late.look()
    del sys.path[0]
    late.look()
    assert late.paths is not None
    assert str(tmp_path / "second") not in late.paths["before"]
    del sys.path[-1]
    late.look()
    assert late.paths is None


def test_a_session_begins_with_the_path_of_its_start(late: LatePaths, tmp_path: Path) -> None:
    late.begin(told())
    add(tmp_path)
    late.look()
    assert late.paths is not None
    late.begin(told())
    late.look()
    assert late.paths is None


def test_modules_in_the_place_of_the_standard_library(late: LatePaths, tmp_path: Path) -> None:
    """The driver has not imported it; the worker's process has, and forgets it once."""
    (tmp_path / "colorsys.py").write_text("")
    late.begin(told())
    add(tmp_path, 0)
    late.look()
    assert late.paths is not None
    assert late.paths["shadowed"] == ["colorsys"]


def test_a_worker_adopts_the_entries_in_the_order_of_the_driver(
    late: LatePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "a task's own")
    before, sent = sys.path.copy(), code_paths.of_program(sys.path, None, {})
    sent = {**sent, "before": ["/new", *sent["before"]], "after": [*sent["after"], "/last"], "shadowed": ["colorsys"]}
    monkeypatch.setitem(sys.modules, "colorsys", ModuleType("colorsys"))
    late.adopt(sent)
    assert sys.path == ["/new", *before, "/last"]
    assert "colorsys" not in sys.modules
    assert late.paths == sent
    theirs = ModuleType("colorsys")
    monkeypatch.setitem(sys.modules, "colorsys", theirs)
    late.adopt({**sent, "after": [*sent["after"], "/more"]})
    assert sys.path == ["/new", *before, "/last", "/more"]
    assert sys.modules["colorsys"] is theirs
    assert late.arranged(before) == sys.path


def test_an_import_that_failed_in_a_task_may_lack_the_entries(late: LatePaths, tmp_path: Path) -> None:
    missing = ModuleNotFoundError("No module named 'tools'")
    assert late.note(missing) == ""  # in a worker
    late.begin(told())
    assert late.note(missing) == ""
    add(tmp_path)
    assert "sys.path has got entries since init()" in late.note(missing)
    assert late.note(ValueError()) == ""


def test_a_driver_keeps_its_path(late: LatePaths) -> None:
    late.begin(told())
    before = sys.path.copy()
    late.adopt({**told(), "before": ["/of a worker"]})
    assert sys.path == before
    assert late.paths is None


def as_worker(monkeypatch: pytest.MonkeyPatch, path: list[str], tools: str) -> LatePaths:
    """This process goes on as a worker."""
    worker = LatePaths()
    monkeypatch.setattr(late_paths, "late_paths", worker)
    monkeypatch.setattr(sys, "path", path)
    sys.modules.pop(tools, None)
    return worker


@pytest.mark.parametrize("name", ["Box", "Box.Lid", "double"])
def test_what_goes_by_its_name_is_found_elsewhere(
    late: LatePaths, tmp_path: Path, tools: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = sys.path.copy()
    late.begin(told())
    add(tmp_path)
    thing: Any = importlib.import_module(tools)
    for part in name.split("."):
        thing = getattr(thing, part)
    pickled = serialize([thing, thing() if isinstance(thing, type) else None]).pickled
    for _ in range(2):  # a worker passes it on
        as_worker(monkeypatch, before.copy(), tools)
        back, instance = deserialize(pickled)
        assert back is not thing
        assert (back.__module__, back.__qualname__) == (tools, name)
        assert not isinstance(back, type) or type(instance) is back
        pickled = serialize([back, instance]).pickled


def test_a_function_in_a_value_uses_a_module(
    late: LatePaths, tmp_path: Path, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.path.copy()
    late.begin(told())
    add(tmp_path)
    module = importlib.import_module(tools)
    pickled = serialize([lambda: module.double(4)]).pickled
    as_worker(monkeypatch, before, tools)
    assert deserialize(pickled)[0]() == 8


def test_a_registered_deserializer_uses_a_module(
    late: LatePaths, tmp_path: Path, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Device:
        pass

    before = sys.path.copy()
    late.begin(told())
    add(tmp_path)
    register(Device, lambda device: 5, lambda state: __import__(tools).double(state))
    pickled = serialize(Device()).pickled
    deregister(Device)
    as_worker(monkeypatch, before, tools)
    assert deserialize(pickled) == 10


def test_other_things_are_pickled_as_before(late: LatePaths, tmp_path: Path) -> None:
    late.begin(told())
    value = [LatePaths, importlib.import_module, Path("a"), os.path, late_paths]
    before = serialize(value).pickled
    add(tmp_path)
    late.look()
    assert late.paths is not None
    assert serialize(value).pickled == before


def test_a_function_brings_the_entries_that_it_imports_from(
    late: LatePaths, tmp_path: Path, tools: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sys.path.copy()
    late.begin(told())
    add(tmp_path)
    pickled = late_paths.with_paths(pickle.dumps("a function"))
    worker = as_worker(monkeypatch, before, tools)
    assert deserialize(pickled) == "a function"
    assert importlib.import_module(tools).double(2) == 4
    assert late_paths.with_paths(b"its own function") != b"its own function"
    assert str(tmp_path) in repr(worker)
