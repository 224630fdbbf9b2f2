"""Workers' files: whole lines, marks, cuts that say so, and which files stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncray.messages import OUTPUT_MARK
from asyncray.node import logs as module
from asyncray.node.logs import LONGEST_LINE, MOST_BYTES, MOST_LINES, LogFile, WorkerLogs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "worker-1.out"


@pytest.fixture
def file(path: Path) -> LogFile:
    path.touch()
    return LogFile(str(path), "out")


def append(path: Path, text: str) -> None:
    with path.open("a") as writer:
        writer.write(text)


def read(file: LogFile, *, last: bool = False, pause: bool = False) -> list[str]:
    lines = file.read("task", 7, last=last, pause=pause)
    file.close()
    return [f"{prefix} {text}" for _, prefix, text in lines]


def test_lines_come_whole_once_they_are_finished(file: LogFile, path: Path) -> None:
    append(path, "one\ntw")
    assert read(file) == ["(task pid=7) one"]
    append(path, "o\nthree")
    assert read(file) == ["(task pid=7) two"]
    assert read(file, pause=True) == ["(task pid=7) three"]
    append(path, "four")
    assert read(file, last=True) == ["(task pid=7) four"]


def test_a_mark_names_what_follows(file: LogFile, path: Path) -> None:
    append(path, f"from C\n{OUTPUT_MARK}actor\nhello\nhalf{OUTPUT_MARK}other\nbye\n")
    assert read(file) == ["(task pid=7) from C", "(actor pid=7) hello", "(actor pid=7) half", "(other pid=7) bye"]


def test_separators_of_the_program_are_no_marks(file: LogFile, path: Path) -> None:
    """The separator also occurs in JSON text sequences and in binary data."""
    append(path, f'{OUTPUT_MARK}f\n\x1e{{"a":1}}\nbinary\x1e\x01\nafter\n')
    assert read(file) == ['(f pid=7) \ufffd{"a":1}', "(f pid=7) binary\ufffd\ufffd", "(f pid=7) after"]


def test_a_long_line_ends_with_what_is_missing(file: LogFile, path: Path) -> None:
    append(path, "x" * LONGEST_LINE + "y" * 30_000)
    assert read(file) == []
    append(path, "y\nnext\n")
    cut, following = read(file)
    assert cut.endswith(f"xx ... 30001 more characters are not shown, see {path}")
    assert "y" not in cut.partition(" ... ")[0]
    assert following == "(task pid=7) next"


def test_a_flood_is_cut_in_the_middle(file: LogFile, path: Path) -> None:
    append(path, "".join(f"{number}\n" for number in range(3 * MOST_LINES)))
    lines = read(file)
    assert len(lines) == MOST_LINES + 1
    assert lines[MOST_LINES // 2] == f"(pid=7) ... {2 * MOST_LINES} lines are not shown, see {path}"
    assert lines[-1] == f"(task pid=7) {3 * MOST_LINES - 1}"


def test_the_last_reading_skips_what_is_far_behind(file: LogFile, path: Path) -> None:
    append(path, "x" * 99 + "\n")
    append(path, ("y" * 99 + "\n") * (5 * MOST_BYTES // 100))
    append(path, "the end\n")
    lines = read(file, last=True)
    assert lines[-1] == "(task pid=7) the end"
    assert any("not shown, see" in line for line in lines)


def space_of(path: Path) -> int:
    return path.stat().st_blocks * 512


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SPACE", 1 << 20)
    monkeypatch.setattr(module, "SPACE_STEP", 1 << 18)


@pytest.mark.usefixtures("small")
def test_the_file_of_a_living_worker_takes_bounded_space_and_loses_no_line(path: Path) -> None:
    """The worker appends, as a child process of it may, while the daemon reads and frees."""
    file = LogFile(str(path), "out")
    numbers = []
    with path.open("ab", buffering=0) as writer:
        for number in range(100):
            writer.write(b"%d\n" % number + b"x" * 99_999)  # the rest of this line comes later
            numbers += [text for _, _, text in file.read("task", 7, last=False) if "x" not in text]
            writer.write(b"\n")
            assert space_of(path) < 1.5 * (1 << 20)
    assert numbers == [str(number) for number in range(100)]
    with path.open("rb") as reader:
        reader.seek(-(1 << 20), os.SEEK_END)
        assert b"\0" not in reader.read(), "the newest text stays"
    file.close()


@pytest.mark.usefixtures("small")
def test_what_a_stopped_driver_does_not_read_takes_bounded_space(path: Path) -> None:
    file = LogFile(str(path), "out")
    with path.open("ab", buffering=0) as writer:
        for _ in range(100):
            writer.write(b"x" * 99_999 + b"\n")
            file.skip_old()
            assert space_of(path) < 1.5 * (1 << 20)
        writer.write(b"the end\n")
    lines = [text for _, _, text in file.read("task", 7, last=True)]
    notice = next(text for text in lines if "not shown, see" in text)
    skipped = int(notice.split()[1])
    assert notice == f"... {skipped} bytes are not shown, see {path}, which keeps the last 1 MiB"
    assert skipped + sum(1 for line in lines if line[0] == "x") * 100_000 == pytest.approx(10_000_000, abs=100_000)
    assert lines[-1] == "the end"
    file.close()


@pytest.mark.usefixtures("small")
def test_without_holes_files_grow_and_the_log_says_so_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(module, "free_space", fail)
    file = LogFile(str(path), "out")
    with path.open("ab", buffering=0) as writer:
        for _ in range(30):
            writer.write(b"x" * 99_999 + b"\n")
            assert len(file.read("task", 7, last=False)) == 1
    assert [record.message for record in caplog.records] == [
        f"{path} can grow without bound: its file system frees no part of a file: [Errno 95] Operation not supported"
    ]
    file.close()


def test_control_characters_and_overwritten_text(file: LogFile, path: Path) -> None:
    append(path, "10 %\r20 %\r\n\x07bell\n")
    assert read(file) == ["(task pid=7) 20 %", "(task pid=7) \ufffdbell"]


def test_files_that_are_gone_have_no_lines(tmp_path: Path) -> None:
    logs = WorkerLogs(str(tmp_path / "nowhere"))
    logs.add(1)
    assert logs.read(1, "task", 7) == []
    assert logs.tail(1) == ""
    logs.ended(1)


def test_empty_files_go_with_their_worker_and_the_newest_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 3)
    logs = WorkerLogs(str(tmp_path))
    for number in range(6):
        logs.add(number)
        (tmp_path / f"worker-{number}.out").touch()
        (tmp_path / f"worker-{number}.err").write_text("words")
    for number in range(5):
        logs.ended(number)
    logs.close()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["worker-2.err", "worker-3.err", "worker-4.err", "worker-5.err", "worker-5.out"]


def test_the_files_of_ended_workers_take_bounded_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT_SPACE", 300_000)
    logs = WorkerLogs(str(tmp_path))
    for number in range(6):
        logs.add(number)
        (tmp_path / f"worker-{number}.out").write_text("x" * 100_000)
        logs.ended(number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker-4.out", "worker-5.out"]


def test_the_tail_has_the_last_lines_or_the_beginning_of_a_crash(tmp_path: Path) -> None:
    logs = WorkerLogs(str(tmp_path))
    path = tmp_path / "worker-1.err"
    path.write_text("".join(f"{number}\n" for number in range(20)))
    assert logs.tail(1).split() == ["15", "16", "17", "18", "19"]
    stack = "".join(f"  File {number}\n" for number in range(50))
    path.write_text(f"before\nFatal Python error: Segmentation fault\n\nCurrent thread 0x1:\n{stack}")
    assert logs.tail(1).splitlines()[:3] == [
        "Fatal Python error: Segmentation fault",
        "Current thread 0x1:",
        "  File 0",
    ]


def test_reading_keeps_one_descriptor(file: LogFile, path: Path) -> None:
    append(path, "one\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        file.read("task", 7, last=False)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    file.close()
