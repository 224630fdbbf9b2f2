"""Printing in the driver: order, encodings, and lines that could not be printed."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading

import pytest

from asyncray.runtime import printing
from asyncray.runtime.printing import Printer

DEADLINE = 30.0


class Stuck(io.StringIO):
    """A terminal that takes no more until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.gate = threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        self.gate.wait(DEADLINE)
        return super().write(text)


def test_lines_and_log_records_come_in_order(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    printer = Printer()
    printer.show([["out", "(f pid=1)", "one"], ["err", "(f pid=1)", "wrong"], ["out", "(f pid=1)", "two"]])
    printer.log(logging.ERROR, "something 100 %")
    printer.close(DEADLINE)
    assert capsys.readouterr() == ("(f pid=1) one\n(f pid=1) two\n", "(f pid=1) wrong\n")
    assert [record.getMessage() for record in caplog.records] == ["something 100 %"]


def test_what_nobody_reads_is_counted_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()
    read, write = os.pipe()
    with open(write, "w") as errors, open(read) as complaints:
        monkeypatch.setattr(sys, "stdout", stuck)
        monkeypatch.setattr(sys, "stderr", errors)
        printer = Printer()
        printer.directory = "/session/logs"
        printer.show([["out", "(f pid=1)", "one"]])
        stuck.asked.wait(DEADLINE)
        printer.show([["out", "(f pid=1)", "two"], ["out", "(f pid=1)", "three"]])
        printer.close(0)
        expected = "3 lines of workers were not printed, because nobody read fast enough, see /session/logs\n"
        assert complaints.readline() == f"asyncray: {expected}"
        stuck.gate.set()
        for thread in threading.enumerate():
            if thread.name == "asyncray-output":
                thread.join(DEADLINE)


def test_lines_beyond_the_limit_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(printing, "_MOST_WAITING", 1)
    monkeypatch.setattr(sys, "stdout", stuck)
    printer = Printer()
    printer.show([["out", "", "one"], ["out", "", "two"]])
    stuck.asked.wait(DEADLINE)
    printer.show([["out", "", "three"]])
    stuck.gate.set()
    printer.close(DEADLINE)
    assert capsys.readouterr().err.startswith("asyncray: 1 lines of workers were not printed")


def test_an_encoding_that_lacks_a_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    target = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", target)
    printer = Printer()
    printer.show([["out", "(f pid=1)", "\u00fcber"]])
    printer.close(DEADLINE)
    target.seek(0)
    assert target.read() == "(f pid=1) \\xfcber\n"


def test_without_threads_the_end_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    printer = Printer()
    printer.show([["out", "(f pid=1)", "late"]])
    assert capsys.readouterr().out == ""
    printer.close(DEADLINE)
    assert capsys.readouterr().out == "(f pid=1) late\n"


def test_without_a_thread_a_notice_is_written_at_once_and_lines_wait_for_one(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The program may wait for the very thing that the notice explains."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    printer = Printer()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        printer.show([["out", "(f pid=1)", "one"]])
        printer.log(logging.ERROR, "no worker can start: no processes are left")
        assert capfd.readouterr() == ("", "no worker can start: no processes are left\n")
    printer.show([["out", "(f pid=1)", "two"]])
    assert printer._thread is not None
    printer.close(DEADLINE)
    assert capfd.readouterr() == ("(f pid=1) one\n(f pid=1) two\n", "")
