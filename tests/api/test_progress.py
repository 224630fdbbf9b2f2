"""Progress: which meter, what it shows, both faces."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import tqdm

import asyncray
import asyncray.sync as ray
from asyncray.api import progress as shown
from asyncray.util import map as remote_map
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    meter = shown.make_meter(3, "f")
    meter.update(2, 1)
    assert log.getvalue() == ""
    meter.close()
    assert log.getvalue().startswith("f: 2 of 3 done, 1 failed in ")


def test_a_line_every_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(shown, "monotonic", lambda: now)
    meter = shown.LineMeter(None, "f")
    for now in (110.0, 129.0, 130.0, 131.0):
        meter.update(int(now), 0)
    assert log.getvalue() == "f: 130 done in 30.0 s\n"


def test_no_stderr_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    shown.make_meter(1, "f").close()


@pytest.mark.parametrize(("missing", "kind"), [((), "rich"), (("rich",), "tqdm"), (("rich", "tqdm"), "line")])
def test_a_bar_in_a_terminal(monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...], kind: str) -> None:
    terminal = Terminal()
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 0)  # its thread would stay
    monkeypatch.setattr(sys, "stderr", terminal)
    for module in missing:
        for name in [name for name in sys.modules if name.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, module, None)
    meter = shown.make_meter(10, "square")
    assert type(meter).__name__.lower() == f"{kind}meter"
    meter.update(7, 2)
    meter.close()
    text = terminal.getvalue()
    assert "square" in text
    assert "7" in text
    assert "2" in text


@pytest.mark.usefixtures("node")
def test_it_waits_for_all_and_counts_failures(capsys: pytest.CaptureFixture[str]) -> None:
    divide = ray.remote(plain.divide)
    refs = [divide.remote(1, x) for x in (1, 0, 2)]
    assert ray.progress([*refs, refs[0]], title="divisions") == [*refs, refs[0]]
    assert all(ref.done() for ref in refs)
    assert capsys.readouterr().err.startswith("divisions: 3 of 3 done, 1 failed in ")
    assert ray.progress([]) == []
    with pytest.raises(TypeError):
        ray.progress([1])  # type: ignore[arg-type]


@pytest.mark.usefixtures("node")
async def test_the_same_awaited(capsys: pytest.CaptureFixture[str]) -> None:
    refs = [ray.remote(plain.divide).remote(1, x) for x in (1, 2)]
    assert await asyncray.get(list(await asyncray.progress(refs))) == [1, 0.5]
    assert capsys.readouterr().err.startswith("tasks: 2 of 2 done in ")


@pytest.mark.usefixtures("node")
async def test_the_progress_of_a_map(capsys: pytest.CaptureFixture[str]) -> None:
    add: Any = plain.Adder(1)
    assert list(remote_map(add, range(5), progress=True, chunksize=2)) == [1, 2, 3, 4, 5]
    assert capsys.readouterr().err.startswith("Adder: 5 of 5 done in ")
    assert [x async for x in remote_map(add, iter([1]), progress=True)] == [2]
    assert capsys.readouterr().err.startswith("Adder: 1 done in ")
    with pytest.raises(ZeroDivisionError):
        list(remote_map(lambda x: 1 / x, [1, 0, 2], progress=True, chunksize=3))
    assert ": 2 of 3 done, 1 failed in " in capsys.readouterr().err
