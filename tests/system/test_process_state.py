"""A node works and is the same whatever state its program is in, and it trusts no other user and no other Python."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncray.sync as ray
from asyncray.api import session
from asyncray.api.session import Context
from asyncray.runtime.interpreters import this_interpreter
from asyncray.words import Interpreter

ROOT = Path(__file__).parents[2]
PACKAGES = sysconfig.get_path("purelib")

SIGNALS = """
import os, signal, time
import asyncray.sync as ray
from asyncray.runtime import current

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())

@ray.remote(max_retries=0)
def die():
    os._exit(1)

@ray.remote
def wait(path):
    open(path, "w").close()
    while True:
        time.sleep(60)

@ray.remote
def processes():
    return os.getpid(), os.getppid()

def masks(pid):
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    ignored = int(lines["SigIgn"], 16)
    # 32 and 33 are the C library's own: no program can change them.
    return int(lines["SigBlk"], 16), {n for n in signal.valid_signals() if ignored >> (n - 1) & 1}

with ray.init(num_cpus=1) as context:
    worker, zygote = ray.get(processes.remote())
    daemon = current.session.facts["pid"]
    of_python = {signal.SIGPIPE, signal.SIGXFSZ}
    assert masks(daemon) == (0, of_python), masks(daemon)
    assert masks(zygote) == (0, of_python | {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}), masks(zygote)
    assert masks(worker) == (0, of_python), masks(worker)
    try:
        ray.get(die.remote())
    except ray.exceptions.WorkerCrashedError:
        print("its end was noticed")
    started = context["session_dir"] + "/started"
    waiting = wait.remote(started)
    while not os.path.exists(started):
        time.sleep(0.01)
    ray.cancel(waiting)
    try:
        ray.get(waiting)
    except ray.exceptions.TaskCancelledError:
        print("it was cancelled")
    worker, zygote = ray.get(processes.remote())
    os.kill(zygote, signal.SIGKILL)
    while os.path.exists(f"/proc/{worker}"):
        time.sleep(0.01)
    assert ray.get(processes.remote())[1] != zygote
print("the node is gone:", not os.path.exists(f"/proc/{daemon}"))
"""


def output_of(program: str, *options: str, **variables: str) -> str:
    command = [sys.executable, *options, "-c", program]
    environment = {**os.environ, **variables}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60.0, check=True
    ).stdout


def test_signals_that_the_program_ignores_and_blocks_are_neither_in_its_node() -> None:
    assert output_of(SIGNALS).splitlines() == ["its end was noticed", "it was cancelled", "the node is gone: True"]


OPTIONS = """
import sys
import asyncray.sync as ray

@ray.remote
def look():
    return sys.flags.isolated, sys.flags.optimize, sys.warnoptions, "touched" in sys.modules["sys"].__dict__

with ray.init(num_cpus=1):
    here = sys.flags.isolated, sys.flags.optimize, sys.warnoptions, hasattr(sys, "touched")
    there = ray.get(look.remote())
    print(here == there, *here)
"""


def test_a_node_runs_under_the_options_of_its_program(tmp_path: Path) -> None:
    """Isolated, it runs nothing that PYTHONPATH names."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.touched = True")
    path = str(tmp_path)
    assert output_of(OPTIONS, "-I", "-O", "-Werror", PYTHONPATH=path) == "True 1 1 ['error'] False\n"
    assert output_of(OPTIONS, PYTHONPATH=path) == "True 0 0 [] True\n"


STRICT = """
import os
import asyncray.sync as ray

@ray.remote
def double(x):
    return 2 * x

@ray.remote
class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1
        return self.count

if __name__ == "__main__":
    with ray.init(num_cpus=1) as context:
        print(ray.get([double.remote("2"), Counter.remote().add.remote()]), len(ray.get(ray.put(bytes(1_000_000)))))
    with open(os.path.join(context["session_dir"], "logs", "node.err"), encoding="utf-8") as errors:
        print(repr(errors.read()))
"""


@pytest.mark.parametrize(
    "options", [("-bb",), ("-X", "warn_default_encoding", "-W", "error"), ("-X", "dev", "-W", "error")]
)
def test_a_program_that_turns_every_warning_into_an_error_works_and_its_node_says_nothing(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert output_of(STRICT, *options, PYTHONPATH=str(tmp_path)) == "['22', 1] 1000000\n''\n"


@pytest.fixture
def project() -> Iterator[Path]:
    """A directory with a virtual environment that has the packages of this one."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "project"
        venv.create(path)
        (packages,) = path.glob("lib/python*/site-packages")
        (packages / "here.pth").write_text(f"{ROOT}\n{PACKAGES}\n")
        yield path


PROGRAM = """
import helper
import asyncray.sync as ray

@ray.remote
def triple(x):
    return helper.triple(x)

if __name__ == "__main__":
    with ray.init(num_cpus=1):
        print(ray.get(triple.remote(2)))
"""


@pytest.mark.parametrize("where", ["project/src", "project-src"])
def test_modules_are_found_inside_the_environment_and_beside_it(project: Path, where: str) -> None:
    source = project.parent / where
    source.mkdir()
    (source / "helper.py").write_text("def triple(x): return 3 * x")
    (source / "main.py").write_text(PROGRAM)
    command = [str(project / "bin/python"), str(source / "main.py")]
    assert subprocess.run(command, cwd="/", capture_output=True, text=True, check=True).stdout == "6\n"


def test_modules_are_found_in_a_zipapp(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/helper.py").write_text("def triple(x): return 3 * x")
    (tmp_path / "app/__main__.py").write_text(PROGRAM)
    archive = shutil.make_archive(str(tmp_path / "app"), "zip", tmp_path / "app")
    command = [sys.executable, os.path.basename(archive)]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "6\n"


@pytest.mark.parametrize(
    ("module", "first"),
    [
        pytest.param("helper", "import os; os.chdir('/')", id="the program has left their directory"),
        pytest.param("numbers", "", id="workers have loaded one of the standard library"),
    ],
)
def test_modules_of_the_program_are_found(tmp_path: Path, module: str, first: str) -> None:
    (tmp_path / f"{module}.py").write_text("def triple(x): return 3 * x")
    program = PROGRAM.replace("import helper", f"import {module} as helper\n{first}")
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "6\n"


def other(**fields: str) -> Interpreter:
    changed: Interpreter = {**this_interpreter(), **fields}  # type: ignore[typeddict-item]  # names are right
    return changed


def test_a_program_of_another_python_is_refused_with_both_named(node: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    address = node["address"]
    program = """
import sys
import asyncray.sync as ray
from asyncray.api import session

this = session.this_interpreter()
session.this_interpreter = lambda: {**this, "executable": "/opt/python", "python": "cpython 2.7"}
try:
    ray.init(sys.argv[1])
except ray.exceptions.AsyncraySystemError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, address]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "/opt/python (cpython 2.7" in said
    assert f"{sys.executable} ({this_interpreter()['python']}" in said


def test_a_missing_module_of_another_environment_names_both(monkeypatch: pytest.MonkeyPatch) -> None:
    @ray.remote
    def missing() -> None:
        import no_such_module_anywhere  # type: ignore[import-not-found]  # noqa: F401

    program = other(prefix="/opt/environment", executable="/opt/environment/bin/python")
    monkeypatch.setattr(session, "this_interpreter", lambda: program)
    with ray.init(num_cpus=1):
        with pytest.raises(ModuleNotFoundError, match="/opt/environment/bin/python") as caught:
            ray.get(missing.remote())
        assert sys.executable in str(caught.value)


def test_a_directory_for_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o1777)
        monkeypatch.setenv("ASYNCRAY_TMPDIR", directory)
        for address in (None, "auto"):
            with pytest.raises(OSError, match=r"others may write to it: its mode is 1777.*Set ASYNCRAY_TMPDIR"):
                ray.init(address)
    assert not ray.is_initialized()
