"""The pages are true: their programs run and print the output in the page, and the reference names everything.

A ```` ```python ```` block of README.md or docs/*.md is a whole program and runs as a process of its own, from an empty
directory. ```` ```python node ```` blocks of a page run one after the other while a node runs that ``init("auto")``
finds; ```` ```python no-run ```` is a fragment and only has to be Python.

A program must print the texts of its ``# -> text`` comments in their order, or the ```` ```text ```` block right after
it. There, seconds and pids stand for any, ``...`` for anything, and lines from workers may come at any time.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

import asyncray
import asyncray.sync
from asyncray import config, exceptions
from asyncray.api import options
from tests.system.conftest import DEADLINE as LEAK_DEADLINE
from tests.system.conftest import shared_memory, sockets

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DEADLINE = 30.0
"""Seconds for one program. The slowest needs about one."""

FENCE = re.compile(r"^```(\w*) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
PROMISE = re.compile(r"# -> (.*)$", re.MULTILINE)
WORKER_LINE = re.compile(r"\(.*pid=\d+\)")
ANY = [(r"\d+\\\.\d+\\ s\b", r"\\d+\\.\\d+\\ s"), (r"pid=\d+", r"pid=\\d+"), (r"\\\.\\\.\\\.", ".*")]
"""Pairs of a pattern for escaped text, and the pattern that replaces it."""


class Block(NamedTuple):
    """A python block: where it is, what it is for ("", "node" or "no-run"), and the lines that it prints or None."""

    place: str
    kind: str
    code: str
    printed: list[str] | None


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for block, following in pairwise([*FENCE.finditer(text), None]):
        if block is None or block[1] != "python":
            continue
        promised = PROMISE.findall(block[3])
        if following is not None and following[1] == "text" and not text[block.end() : following.start()].strip():
            assert not promised, f"{page}: a program shows its output twice"
            promised = following[3].splitlines()
        line = text.count("\n", 0, block.start()) + 1
        yield Block(f"{page.name}:{line}", block[2], block[3], promised or None)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PROGRAMS = [block for block in BLOCKS if block.kind == ""]
NODE_PROGRAMS = [block for block in BLOCKS if block.kind == "node"]


def run(block: Block, directory: Path) -> None:
    program = directory / "program.py"
    program.write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
    story = f"{block.place} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, story
    assert "Traceback" not in done.stderr, story
    assert "Warning" not in done.stderr, story
    if block.printed is not None:
        assert matches(block.printed, done.stdout.splitlines()), f"{story}\ninstead of\n" + "\n".join(block.printed)


def matches(promised: list[str], printed: list[str]) -> bool:
    """True if the lines are as promised; those of workers in any order."""

    def split(lines: list[str]) -> str:
        own = [line for line in lines if not WORKER_LINE.match(line)]
        others = [re.sub(r"pid=\d+", "pid=0", line) for line in lines if WORKER_LINE.match(line)]
        return "\n".join(own + sorted(others))

    pattern = re.escape(split(promised))
    for text, stands_for in ANY:
        pattern = re.sub(text, stands_for, pattern)
    return re.fullmatch(pattern, split(printed)) is not None


@contextmanager
def running_node() -> Iterator[None]:
    """A node as the command line starts it."""
    command = [sys.executable, "-m", "asyncray", "node", "--num-cpus", "2", "--json"]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True)
    assert node.stdout is not None
    try:
        assert json.loads(node.stdout.readline())["pid"] == node.pid
        yield
    finally:
        node.send_signal(signal.SIGTERM)
        assert node.wait(DEADLINE) == 0
        node.stdout.close()


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for the programs' sessions, of which nothing that lives may be left; other sessions do not matter."""
    # pytest's own directories are too long for the path of a socket
    directory = Path(tempfile.mkdtemp(prefix="asyncray-docs-", dir="/tmp"))
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(directory))
    monkeypatch.delenv("ASYNCRAY_ADDRESS", raising=False)
    monkeypatch.setenv("ASYNCRAY_STORE_FULL_DEADLINE", "0.1")  # two seconds would be a tenth of all these tests
    yield directory
    processes = psutil.process_iter(["cmdline"])
    ours = [process for process in processes if any(str(directory) in part for part in process.info["cmdline"] or [])]
    _, alive = psutil.wait_procs(ours, timeout=LEAK_DEADLINE)
    for process in alive:
        process.kill()
    left = alive, sorted(shared_memory(directory)), sockets(directory)
    shutil.rmtree(directory)
    assert left == ([], [], []), f"processes, shared memory or sockets are left: {left}"


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_program_prints_what_the_page_shows(block: Block, sessions: Path, tmp_path: Path) -> None:
    run(block, tmp_path)


@pytest.mark.parametrize("page", sorted({block.place.partition(":")[0] for block in NODE_PROGRAMS}))
def test_programs_that_share_a_node(page: str, sessions: Path, tmp_path: Path) -> None:
    with running_node():
        for block in NODE_PROGRAMS:
            if block.place.startswith(f"{page}:"):
                run(block, tmp_path)


def test_fragments_are_python() -> None:
    assert {block.kind for block in BLOCKS} <= {"", "node", "no-run"}
    for block in BLOCKS:
        ast.parse(block.code, block.place)


def anchors(page: Path) -> set[str]:
    """The fragments, after ``#``, of links to headings of the page."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for path, anchor in re.findall(r"\]\(([^)#:]*)#?([^)]*)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
            target = page.parent / path if path else page
            assert target.exists(), f"{page.name} links to {path}"
            assert not anchor or anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


def test_every_example_is_on_its_page() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    scripts = [path.relative_to(ROOT / "examples").as_posix() for path in (ROOT / "examples").rglob("*.py")]
    assert [name for name in scripts if f"({name})" not in page] == []


def test_the_tour_names_every_module_once() -> None:
    tour = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+\.py)`", tour, re.MULTILINE)
    modules = [path.relative_to(ROOT / "asyncray").as_posix() for path in (ROOT / "asyncray").rglob("*.py")]
    # The rows of a package's modules describe the names that its __init__ shows.
    assert sorted(rows) == sorted(name for name in modules if "/__init__" not in name)


def test_reference_names_everything() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    errors = [name for name, value in vars(exceptions).items() if isinstance(value, type) and name[0].isupper()]
    names = {
        *asyncray.__all__,
        *asyncray.sync.__all__,
        *(name for name in errors if issubclass(vars(exceptions)[name], BaseException)),
        *options.TASK_OPTIONS,
        *options.ACTOR_OPTIONS,
        *options.METHOD_OPTIONS,
        *(f"ASYNCRAY_{name}" for name in re.findall(r'_number\("(\w+)"', Path(config.__file__).read_text())),
    }
    assert [name for name in sorted(names) if f"`{name}" not in reference] == []
