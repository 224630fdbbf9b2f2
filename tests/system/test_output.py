"""Output of workers reaches the driver, line by line, each with its task; the workers' files hold all of it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from textwrap import dedent

import pytest

import asyncray.sync as ray

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0


def run(program: str, *arguments: str) -> tuple[list[str], list[str]]:
    """Runs a driver to its end: the lines of its output and of its errors."""
    code = "import os, subprocess, sys, time\nimport asyncray.sync as ray\n" + dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().split("\n")[:-1], done.stderr.decode().split("\n")[:-1]


def without_pid(lines: list[str]) -> list[str]:
    return [re.sub(r"pid=\d+", "pid=N", line) for line in lines]


def test_tasks_and_actors_tell_whose_output_it_is() -> None:
    out, err = run(
        """
        @ray.remote
        def speak(who):
            print("hello", who)
            print("careful", file=sys.stderr)
            return os.getpid()

        @ray.remote
        class Plain:
            def speak(self): print("from the class")

        class Base:
            def __repr__(self): return f"Named({self.name})"

        @ray.remote
        class Named(Base):
            def __init__(self, name):
                self.name = name
            def speak(self): print("from the object")

        ray.init(num_cpus=2)
        print(ray.get(speak.remote("you")))
        ray.get(speak.options(name="greeting").remote("all"))
        ray.get([Plain.remote().speak.remote(), Named.remote("x").speak.remote()])
        ray.shutdown()
        """
    )
    pid = out[0]
    assert f"(speak pid={pid}) hello you" in out
    assert f"(speak pid={pid}) careful" in err
    assert f"(greeting pid={pid}) hello all" in out
    assert {"(Plain pid=N) from the class", "(Named(x) pid=N) from the object"} <= set(without_pid(out))


def test_the_first_line_may_come_when_the_interpreter_ends() -> None:
    """Then Python 3.12 gives no new threads: not for printing, either."""
    out, err = run(
        """
        @ray.remote
        def greet(): print("hello")

        ray.init(num_cpus=1)
        ray.get(greet.remote())
        """
    )
    assert without_pid(out) == ["(greet pid=N) hello"]
    assert err == []


def test_nothing_is_lost_at_the_end() -> None:
    """Unfinished lines, the output of C code and subprocesses, and the last lines of a crashed worker arrive, too."""
    out, err = run(
        """
        @ray.remote
        class Unfinished:  # an actor, as in the process of a task another one may go on in the line
            def speak(self): print("no line feed", end="")

        @ray.remote
        def below():
            os.write(1, b"from C\\n")
            subprocess.run(["echo", "from a subprocess"])

        @ray.remote(max_retries=0)
        def crash():
            print("last words")
            os.write(2, b"and no line feed")
            os._exit(3)

        ray.init(num_cpus=2)
        actor = Unfinished.remote()
        ray.get([actor.speak.remote(), below.remote()])
        try:
            ray.get(crash.remote())
        except ray.exceptions.WorkerCrashedError as error:
            sys.stdout.write(f"{error}\\n")  # in one piece: what workers print comes in between two
        """
    )
    lines = {line.partition(") ")[2] for line in out}
    assert {"no line feed", "from C", "from a subprocess", "last words"} <= lines
    assert "and no line feed" in {line.partition(") ")[2] for line in err}
    assert any("exit code 3" in line for line in out)
    assert "and no line feed" in out  # the error holds the last lines of the log


def test_an_unfinished_line_is_shown_when_its_task_is_over(nothing_left: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Watched(io.StringIO):
        seen = threading.Event()

        def write(self, text: str) -> int:
            if "halfway" in text:
                self.seen.set()
            return super().write(text)

    @ray.remote
    def speak() -> None:
        print("half", end="")
        print("way", end="")

    with ray.init(num_cpus=1), monkeypatch.context() as patches:
        output = Watched()
        patches.setattr(sys, "stdout", output)
        ray.get(speak.remote())
        assert output.seen.wait(DEADLINE)
    assert without_pid(output.getvalue().splitlines()) == ["(speak pid=N) halfway"]


def test_what_is_no_plain_text() -> None:
    out, _ = run(
        r"""
        @ray.remote
        def garble():
            print("10 %\r50 %\r100 %")
            print("windows", end="\r\n")
            print()
            os.write(1, b"\xff\xfe\x00\x07\x1b[31mred\x1b[0m\n")
            print("\u00e4\U0001f600" + "x" * 30_000)
            print("two\nlines")
        ray.init(num_cpus=1)
        ray.get(garble.remote())
        """
    )
    expected = ("100 %", "windows", "", "\ufffd\ufffd\ufffd\ufffd\x1b[31mred\x1b[0m")
    assert without_pid(out)[:4] == [f"(garble pid=N) {text}" for text in expected]
    assert without_pid(out)[-2:] == ["(garble pid=N) two", "(garble pid=N) lines"]
    assert max(map(len, out)) < 21_000


@pytest.mark.parametrize(("wanted", "lines"), [("False", 0), ("True", 1), ("None", 1)])
def test_only_false_switches_output_off(wanted: str, lines: int) -> None:
    program = """
        @ray.remote
        def speak(): print("hello")
        ray.init(num_cpus=1, log_to_driver={"False": False, "True": True, "None": None}[sys.argv[1]])
        ray.get(speak.remote())
        """
    out, err = run(program, wanted)
    assert (without_pid(out), err) == (["(speak pid=N) hello"] * lines, [])


def test_a_flood_is_cut_and_says_so() -> None:
    out, _ = run(
        """
        @ray.remote
        def flood():
            sys.stdout.write("".join(f"line {i}\\n" for i in range(100_000)))
            print("the end")
        ray.init(num_cpus=1)
        ray.get(flood.remote())
        """
    )
    assert len(out) < 20_000
    assert out[0].endswith("line 0")
    assert out[-1].endswith("the end")
    cut = [line for line in out if "not shown, see" in line]
    assert cut
    log = Path(cut[0].partition("see ")[2])
    assert log.read_text().count("\n") == 100_002  # and the mark


def test_an_encoding_that_knows_few_letters() -> None:
    out, _ = run(
        """
        @ray.remote
        def speak(): print("\\u00fcber")
        sys.stdout.reconfigure(encoding="ascii")
        ray.init(num_cpus=1)
        ray.get(speak.remote())
        """
    )
    assert without_pid(out) == [r"(speak pid=N) \xfcber"]


def test_drivers_of_one_node_get_only_their_own(nothing_left: None, capfd: pytest.CaptureFixture[str]) -> None:
    @ray.remote
    def speak(text: str) -> None:
        print(text)

    with ray.init(num_cpus=2) as context:
        ray.get(speak.remote("for this one"))
        out, _ = run(
            """
            @ray.remote
            def speak(): print("for the other")
            ray.init(sys.argv[1])
            ray.get(speak.remote())
            """,
            context["address"],
        )
    assert without_pid(out) == ["(speak pid=N) for the other"]
    assert without_pid(capfd.readouterr().out.splitlines()) == ["(speak pid=N) for this one"]


def test_workers_have_files(nothing_left: None) -> None:
    @ray.remote
    def speak() -> int:
        print("on paper", flush=True)
        return os.getpid()

    with ray.init(num_cpus=1, log_to_driver=False) as context:
        ray.get(speak.remote())
        logs = Path(context["session_dir"]) / "logs"
    lines = [line for path in logs.glob("worker-*.out") for line in path.read_text().splitlines()]
    assert lines.count("on paper") == 1
