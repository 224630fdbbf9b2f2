"""Descriptors: the standard ones, and how many there may be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncray.io import descriptors, forking

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from asyncray.io.descriptors import fill_standard

for number in map(int, sys.argv[2:]):
    os.close(number)
fill_standard()
next_one = os.open(os.devnull, os.O_RDONLY)
found = [f"{os.readlink(f'/proc/self/fd/{number}')} {os.get_inheritable(number)}" for number in range(3)]
with open(sys.argv[1], "w") as file:
    print(*found, next_one, sep="\\n", file=file)
"""


@pytest.mark.parametrize("closed", [(), (0,), (2,), (0, 2), (0, 1, 2)])
def test_closed_standard_descriptors_are_filled_and_others_left_alone(tmp_path: Path, closed: tuple[int, ...]) -> None:
    result = tmp_path / "result"
    with open(tmp_path / "other", "w") as other:
        command = [sys.executable, "-c", PROGRAM, str(result), *map(str, closed)]
        subprocess.run(command, cwd=ROOT, check=True, stdin=other, stdout=other, stderr=other)
    *found, next_one = result.read_text().splitlines()
    assert found == [f"{os.devnull if number in closed else other.name} True" for number in range(3)]
    assert int(next_one) > 2


def test_no_fork_comes_between_the_looking_and_the_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(path: str, flags: int) -> int:
        locked.append(forking.lock.held_by_this_thread())
        return system_open(path, flags)

    locked: list[bool] = []
    system_open = os.open
    monkeypatch.setattr(os, "open", look)
    descriptors.fill_standard()
    assert locked == [True]
    assert not forking.lock.held_by_this_thread()


SCARCE = """
import os, resource
from asyncray.io import descriptors

def told():
    return "limit of 40 open files" in (descriptors.shortage() or "")

resource.setrlimit(resource.RLIMIT_NOFILE, (36, 40))
descriptors.check_limit()
descriptors.raise_limit()
assert not told()
taken = []
while not told():
    taken.append(os.dup(0))
assert taken[-1] >= 38
os.close(taken.pop())
os.close(taken.pop())
assert not told()
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
try:
    descriptors.check_limit()
except OSError as error:
    assert "the limit is 16" in str(error)
else:
    raise AssertionError("16 are not enough")
"""


def test_a_shortage_is_told() -> None:
    subprocess.run([sys.executable, "-c", SCARCE], cwd=ROOT, check=True)
