"""The outbox: messages per party, in order, and none for a party that has ended."""

from __future__ import annotations

import pytest

from asyncray.core.outbox import Command, CreateSegment, KillWorker, LogLine, Outbox, StartWorker
from asyncray.core.records import Job, Party
from asyncray.messages import NOTICE, RETIRED, RUN_GC


def parties(outbox: Outbox) -> tuple[Party, Party]:
    return Party(outbox.new_party_number()), Party(outbox.new_party_number())


def test_each_party_has_a_number_of_its_own() -> None:
    one, other = parties(Outbox())
    assert (one.number, other.number) == (1, 2)


def test_messages_wait_in_order_and_each_party_is_named_once() -> None:
    outbox = Outbox()
    one, other = parties(outbox)
    outbox.send(other, (RUN_GC,))
    outbox.send(one, (RUN_GC,))
    outbox.send(other, (RETIRED, "seg-0"))
    assert outbox.dirty == [other, one]
    assert other.out == [(RUN_GC,), (RETIRED, "seg-0")]


def test_a_party_that_was_taken_out_is_named_again_with_its_next_message() -> None:
    outbox = Outbox()
    one, _ = parties(outbox)
    outbox.send(one, (RUN_GC,))
    outbox.dirty.clear()
    one.out.clear()
    outbox.send(one, (RUN_GC,))
    assert outbox.dirty == [one]


def test_nothing_waits_for_a_party_whose_connection_is_closed() -> None:
    outbox = Outbox()
    one, _ = parties(outbox)
    one.alive = False
    outbox.send(one, (RUN_GC,))
    assert (outbox.dirty, one.out) == ([], [])


def test_messages_for_a_driver_go_to_the_party_that_its_job_reports_to() -> None:
    outbox = Outbox()
    one, _ = parties(outbox)
    job = Job(b"\0\0\0\1", "", {})  # type: ignore[typeddict-item]  # its setup does not matter here
    outbox.send_to_driver(job, (NOTICE, 40, "nobody reads it"))
    job.reports_to = one
    outbox.send_to_driver(job, (NOTICE, 40, "text"))
    assert (outbox.dirty, one.out) == ([one], [(NOTICE, 40, "text")])


def test_commands_come_out_in_order() -> None:
    outbox = Outbox()
    commands: list[Command] = [StartWorker(2), LogLine(20, "text"), StartWorker(1)]
    for command in commands:
        outbox.do(command)
    assert outbox.commands == commands


def test_commands_are_equal_if_their_class_and_their_fields_are() -> None:
    assert CreateSegment("s-0", 64) == CreateSegment("s-0", 64) != CreateSegment("s-0", 65)
    assert StartWorker(1) != KillWorker(1)
    assert StartWorker(1) != 1
    assert repr(CreateSegment("s-0", 64)) == "CreateSegment('s-0', 64)"
    with pytest.raises(TypeError, match="unhashable"):
        hash(StartWorker(1))
