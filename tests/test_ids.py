"""Identifiers: an ID contains the IDs that it belongs to; their printed forms."""

from __future__ import annotations

import pickle

import pytest

from asyncray.ids import (
    CALL_MARK,
    ActorID,
    BaseID,
    ClientID,
    JobID,
    NodeID,
    TaskID,
    is_call,
    return_id,
    task_of,
)

NODE = bytes(range(8))
CLIENT = NODE + b"\0\0\0\7"
JOB = b"\0\0\0\3"
TASK = CLIENT + JOB + b"\0\0\0\0\0\1"
KINDS: list[type[BaseID]] = [NodeID, ClientID, JobID, TaskID, ActorID]


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_is_its_bytes(kind: type[BaseID]) -> None:
    one = kind(b"\1" * kind.SIZE)
    assert one == b"\1" * kind.SIZE == one.binary()
    assert hash(one) == hash(one.binary())
    assert kind.from_hex(one.hex()) == one
    assert repr(one) == str(one) == f"{kind.__name__}({'01' * kind.SIZE})"
    copy = pickle.loads(pickle.dumps(one))
    assert copy == one
    assert type(copy) is kind
    assert not one.is_nil()
    assert kind.nil().is_nil()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [-1, 1])
def test_a_wrong_length_is_told(kind: type[BaseID], length: int) -> None:
    with pytest.raises(ValueError, match="needs to have length"):
        kind(b"\1" * (kind.SIZE + length))


def test_every_id_says_who_made_it() -> None:
    first, second = return_id(TASK, 0), return_id(TASK, 1)
    assert first != second
    assert task_of(first) == task_of(second) == TASK
    assert ActorID(TASK).job_id == JOB
    assert first.startswith(NODE)


def test_an_id_says_whether_it_is_of_a_call() -> None:
    for counter in (1, CALL_MARK - 1):
        task, call = (CLIENT + JOB + (mark | counter).to_bytes(6, "big") for mark in (0, CALL_MARK))
        assert task != call
        assert not is_call(task)
        assert not is_call(return_id(task, 3))
        assert is_call(call)
        assert is_call(return_id(call, 3))
