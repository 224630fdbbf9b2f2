"""Reports of workers that cannot start, through a real pipe."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from asyncray.worker.start_report import Report, StartReports, describe


@pytest.fixture
def reports() -> Iterator[StartReports]:
    made = StartReports()
    yield made
    made.close()


def test_reports_arrive_whole_and_in_order(reports: StartReports) -> None:
    reports.lacks(1, "no room:\n/logs/worker-1.out")
    reports.failed(2, OSError(errno.ENOENT, "No such file or directory", "/node.sock"))
    reports.failed(3, MemoryError())
    assert reports.read() == [
        Report(1, False, "no room: /logs/worker-1.out"),
        Report(2, True, "[Errno 2] No such file or directory: '/node.sock'"),
        Report(3, True, "MemoryError:"),
    ]
    assert reports.read() == []


def test_a_long_report_is_cut_and_a_full_pipe_drops_some(reports: StartReports) -> None:
    for number in range(100):
        reports.lacks(number, "x" * 10_000)
    found = reports.read()
    assert [report.number for report in found] == list(range(len(found)))
    assert 20 < len(found) < 100
    assert all(1900 < len(report.text) < 2000 for report in found)
    reports.lacks(7, "there is room again")
    assert reports.read() == [Report(7, False, "there is room again")]


def test_a_report_after_the_end_does_nothing() -> None:
    reports = StartReports()
    reports.close()
    reports.lacks(1, "too late")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
        (ImportError("no such module"), "ImportError: no such module"),
    ],
)
def test_the_reason_names_the_limit(error: BaseException, expected: str) -> None:
    assert expected in describe(error)
