"""Values on their way between driver and workers: they stay equal, and classes of the program stay the same."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asyncray.sync as ray


class Rows:
    """Pickled by reading it: a second time finds nothing."""

    def __init__(self, source: Any) -> None:
        self.source = iter(source)

    def __reduce__(self) -> Any:
        return Rows, (list(self.source),)


class RowsError(Exception):
    def __init__(self, *, rows: Any) -> None:
        super().__init__("rows")
        self.rows = rows


@pytest.mark.usefixtures("node")
def test_values_are_pickled_once_wherever_they_go() -> None:
    class Local:  # goes by value
        def __init__(self, rows: Any) -> None:
            self.rows = rows

        def read(self) -> list[Any]:
            return list(self.rows.source)

    class Keeper(Local):
        def swap(self, rows: Any) -> Any:
            old, self.rows = self.rows, rows
            return Local(old), Local(Rows(rows.read()))

    @ray.remote
    def read(local: Any, *, more: Any) -> Any:
        return local.read(), more.read()

    @ray.remote
    def make() -> Any:
        return Local(Rows(range(3)))

    @ray.remote
    def fail() -> None:
        raise RowsError(rows=Local(Rows(range(3))))

    assert ray.get(read.remote(Local(Rows("ab")), more=Local(Rows("c")))) == (["a", "b"], ["c"])
    assert ray.get(ray.put(Local(Rows("ab")))).read() == ["a", "b"]
    assert ray.get(make.remote()).read() == [0, 1, 2]
    keeper: Any = ray.remote(Keeper).remote(Rows("xy"))
    old, new = ray.get(keeper.swap.remote(Local(Rows("z"))))
    assert (old.read(), new.read()) == (["x", "y"], ["z"])
    with pytest.raises(RowsError) as caught:
        ray.get(fail.remote())
    assert caught.value.rows.read() == [0, 1, 2]


@pytest.mark.usefixtures("one_cpu")
def test_classes_of_the_program_are_what_they_are_in_workers_and_come_home() -> None:
    class Settings:
        __slots__ = ("n",)
        verbose = False
        calls = 0

        def __init__(self, n: int) -> None:
            self.n = n

        @functools.lru_cache(maxsize=2)  # noqa: B019  # that is the point
        def plus(self, x: int) -> int:
            return self.n + x

    @ray.remote
    def use(settings: Any) -> Any:
        Settings.calls += 1
        return settings, Settings.calls, settings.verbose, settings.plus(1), hasattr(settings, "__dict__")

    back, *found = ray.get(use.remote(Settings(4)))
    assert (type(back), back.n, found) == (Settings, 4, [1, False, 5, False])
    Settings.verbose = True
    assert ray.get(use.remote(Settings(5)))[1:] == (2, True, 6, False)
    assert (Settings.verbose, Settings.calls) == (True, 0)


PROGRAM = """
import dataclasses, multiprocessing
import asyncray.sync as ray
@dataclasses.dataclass
class P:
    x: int
class E(Exception): pass
def helper(p): return P(p.x + 1)
@ray.remote
def task(p): return helper(p)
@ray.remote
def fail(p): raise E(p)
@ray.remote
class A:
    def go(self, p): return helper(p)
def child():
    with ray.init(num_cpus=1):
        found = ray.get([task.remote(P(1)), A.remote().go.remote(P(2)), ray.put(P(4))])
        try: ray.get(fail.remote(P(5)))
        except E as error: found.append(error.args[0])
        assert found == [P(2), P(3), P(4), P(5)] and {type(p) for p in found} == {P}, found
        print(__name__, len(found), flush=True)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start(); process.join()
    raise SystemExit(process.exitcode)
"""


def test_a_driver_that_multiprocessing_has_spawned(tmp_path: Path, sessions: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), str(sessions)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "__mp_main__ 4\n"), done.stderr


@pytest.mark.usefixtures("node")
def test_modules_that_are_registered_go_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: Any = ModuleType("shapes")  # no file has it
    exec("class Box:\n    def __init__(self, w): self.w = w\ndef width(b): return b.w\n", vars(shapes))
    monkeypatch.setitem(sys.modules, "shapes", shapes)

    echo: Callable[..., Any] = ray.remote(lambda function, box: (function(box), box)).remote
    with pytest.raises(ray.exceptions.RayError, match="shapes"):
        ray.get(echo(shapes.width, shapes.Box(2)))
    ray.cloudpickle.register_pickle_by_value(shapes)
    try:
        width, box = ray.get(echo(shapes.width, shapes.Box(3)))
        assert (width, box.w, type(box)) == (3, 3, shapes.Box)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(shapes)
