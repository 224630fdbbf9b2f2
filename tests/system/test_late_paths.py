"""A driver adds entries to ``sys.path`` after ``init``, as notebooks do, and its workers find the modules in them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncray.sync as ray
from asyncray.testing import Cluster

SOURCE = """
class Box:
    def __init__(self, width): self.width = width

def double(x): return 2 * x
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that the driver imports from an entry that it adds to the end of its path."""
    name = f"tools_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    importlib.import_module(name)
    yield name
    del sys.modules[name]


@ray.remote
def width(box: Any) -> Any:
    return box.width


@pytest.mark.usefixtures("node")
def test_tasks_actors_arguments_and_results(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    class Holder:
        def hold(self, name: str) -> Any:
            return __import__(name).Box(5)

    def path() -> list[str]:
        return sys.path.copy()

    # The first task begins its process with the entries of ``init``.
    before = ray.get(ray.remote(path).remote())
    assert ray.get(width.remote(type("Wide", (), {"width": 1}))) == 1

    name = request.getfixturevalue("tools")
    module: Any = sys.modules[name]
    assert ray.get(width.remote(module.Box(2))) == 2  # a function that was sent before
    assert ray.get(ray.remote(lambda: __import__(name).double(3)).remote()) == 6
    assert ray.get(ray.remote(module.double).remote(4)) == 8
    assert ray.get(ray.remote(Holder).remote().hold.remote(name)).width == 5
    after = ray.get(ray.remote(lambda: path()).remote())
    assert {*after} - {*before} == {str(tmp_path)}
    assert [entry for entry in after if entry in sys.path] == [entry for entry in sys.path if entry in after]


@pytest.mark.usefixtures("node")
def test_a_function_that_was_called_before_is_defined_again(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    def double(name: str) -> Any:
        return __import__(name).double(3)

    task, name = ray.remote(double), f"tools_of_{tmp_path.name}"
    with pytest.raises(ModuleNotFoundError) as early:
        ray.get(task.remote(name))
    assert not hasattr(early.value, "__notes__")
    assert request.getfixturevalue("tools") == name
    with pytest.raises(ModuleNotFoundError) as late:
        ray.get(task.remote(name))
    assert "sys.path has got entries" in late.value.__notes__[0]
    assert ray.get(ray.remote(double).remote(name)) == 6


def test_at_another_node(request: pytest.FixtureRequest, nothing_left: object) -> None:
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 1}) as cluster:
        cluster.add_node(num_cpus=1, resources={"far": 1})
        with ray.init(cluster.address):
            name = request.getfixturevalue("tools")
            box = ray.remote(resources={"far": 1})(lambda: __import__(name).Box(7)).remote()
            assert ray.get(width.options(resources={"far": 1}).remote(box)) == 7
            assert ray.get(box).width == 7
