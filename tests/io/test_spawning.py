"""New interpreters: their state does not depend on that of the process that starts them."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncray.io import spawning

ROOT = Path(__file__).parents[2]

STARTER = """
import os, signal, sys
sys.path.append(sys.argv[3])  # -I and -S leave out what tells of asyncray
{before}
from asyncray.io import spawning
read, write = os.pipe()
strange = os.open(os.devnull, os.O_RDONLY)
os.set_inheritable(strange, True)
environment = dict(os.environ, REPORTED="yes")
pid = spawning.start_interpreter("tests.io.report_state", ["a", "b c"], [write], environment, sys.argv[1])
assert not os.get_inheritable(write)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
try:
    os.waitpid(pid, 0)
except ChildProcessError:  # SIGCHLD was ignored, and so waiting was until its end
    pass
open(sys.argv[2], "w").write(f"{{write}} {{strange}}")
"""


def started(tmp_path: Path, options: list[str] | None = None, before: str = "") -> tuple[dict[str, Any], int, int]:
    """The state of a process, and the descriptors that its starter gave it and did not give it."""
    output, numbers = tmp_path / "output", tmp_path / "numbers"
    program = tmp_path / "program.py"
    program.write_text(STARTER.format(before=before))
    command = [sys.executable, *(options or []), str(program), str(output), str(numbers), str(ROOT)]
    subprocess.run(command, cwd=tmp_path, check=True)
    given, strange = map(int, numbers.read_text().split())
    return json.loads(output.read_text()), given, strange


def test_signals_are_neither_blocked_nor_ignored_and_descriptors_are_those_that_were_given(tmp_path: Path) -> None:
    before = """
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
"""
    state, given, strange = started(tmp_path, before=before)
    assert state["blocked"] == []
    assert set(state["ignored"]) == {13, 25}  # SIGPIPE and SIGXFSZ: every Python ignores them
    assert state["leader"]
    assert state["arguments"] == ["a", "b c"]
    assert state["variable"] == "yes"
    assert str(strange) not in state["descriptors"]
    assert state["descriptors"] == {"0": True, "1": True, "2": True, str(given): False}


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-I",
        "-E",
        "-s",
        "-S",
        "-O",
        "-OO",
        "-B",
        "-b",
        "-bb",
        "-P",
        "-Xdev",
        "-Xutf8=0",
        "-Xint_max_str_digits=5000",
    ],
)
def test_options_are_those_of_the_caller(tmp_path: Path, options: str) -> None:
    before = "from tests.io.report_state import FLAGS\nstarter = {name: getattr(sys.flags, name) for name in FLAGS}\n"
    before += "import json; open('flags', 'w').write(json.dumps(starter))"
    state, _, _ = started(tmp_path, options.split(), before)
    assert state["flags"] == {**json.loads((tmp_path / "flags").read_text()), "safe_path": True}


def test_warnings_and_implementation_options_are_those_of_the_caller(tmp_path: Path) -> None:
    options = [
        "-W",
        "error::FutureWarning",
        "-W",
        "ignore:x y",
        "-X",
        "faulthandler",
        "-X",
        "mine=1",
        "-X",
        "importtime",
    ]
    state, _, _ = started(tmp_path, options)
    assert state["warnoptions"] == ["error::FutureWarning", "ignore:x y"]
    assert state["xoptions"] == {"faulthandler": True, "mine": "1"}


def test_the_path_is_that_of_a_fresh_interpreter_and_then_what_the_caller_has(tmp_path: Path) -> None:
    before = "sys.path.insert(0, '/first')\nsys.path.append('relative')\nsys.path.append(os.getcwd())"
    state, _, _ = started(tmp_path, before=before)
    # Where asyncray is installed in place, its directory is on the path of a fresh interpreter already.
    fresh = [sys.executable, "-P", "-c", "import sys; print(*sys.path, sep='\\n')"]
    own = subprocess.run(fresh, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    assert state["path"] == list(dict.fromkeys([*own, "/first", str(ROOT)]))


def test_a_program_from_standard_input_may_delete_its_working_directory(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    program = f"""
import os, sys
sys.path.append({str(ROOT)!r})
from asyncray.io import spawning
os.rmdir(os.getcwd())
print(len(spawning.command_line("tests.io.report_state")) > 1)
"""
    command = [sys.executable, "-I", "-"]
    done = subprocess.run(command, cwd=gone, input=program, check=True, capture_output=True, text=True)
    assert done.stdout == "True\n"


def test_asyncray_is_loaded_without_the_files_beside_it(tmp_path: Path) -> None:
    """As if it were installed where an old backport is, too."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "asyncray").symlink_to(ROOT / "asyncray")
    (site / "typing.py").write_text("raise ImportError('a backport for an old Python')")
    before = f"""
sys.path.append({str(site)!r})
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path.remove({str(ROOT)!r})
import asyncray
sys.path.append({str(ROOT)!r})  # for the module of this test
"""
    state, _, _ = started(tmp_path, before=before)
    assert set(state["path"][-2:]) == {str(site), str(ROOT)}


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("frozen", True, 'frozen program: .* connect to it with init\\("auto"\\)'),
        ("executable", "", "sys.executable is ''"),
        ("executable", None, "sys.executable is None"),
        ("_is_gil_enabled", lambda: False, "global interpreter lock.*-X gil=1"),
    ],
)
def test_no_interpreter_to_start_is_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, why: str
) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(RuntimeError, match=why):
        spawning.start_interpreter("tests.io.report_state", [], [], dict(os.environ))


def test_the_collector_looks_at_no_loaded_module_and_works_on() -> None:
    before = gc.get_freeze_count()
    try:
        assert spawning.load("json") is json
        assert gc.get_freeze_count() > before
        assert gc.isenabled()
        with pytest.raises(ModuleNotFoundError):
            spawning.load("no_such_module")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
