"""The callables that workers call for executors and maps, called in this process."""

from __future__ import annotations

import pytest

from asyncray.runtime.errors import load_task_error
from asyncray.runtime.serialization import deserialize
from asyncray.util.calls import Chunk, ForEach, InitializerFailed, Prepared, apply, apply_to_each
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.util import plain

__all__ = ["node", "nothing_left", "own_node", "sessions"]


def test_calls_with_their_callable() -> None:
    assert apply(pow, 2, 3, mod=5) == 3
    assert apply_to_each(pow, [(2, 3), (3, 2)]) == [8, 9]
    assert ForEach(pow)([(2, 3), (3, 2)]) == [8, 9]


@pytest.mark.usefixtures("node")
def test_a_chunk_ends_at_its_first_error() -> None:
    seconds, values, failure = Chunk(plain.Adder(1), raises=False)([1, 2, None, 4])
    assert values == [2, 3]
    assert seconds >= 0
    assert failure is not None
    assert isinstance(load_task_error(failure.payload, deserialize), TypeError)
    assert Chunk(plain.Adder(1), raises=False)(None, 1, 2)[1:] == ([2, 3], None)
    with pytest.raises(TypeError):
        Chunk(plain.Adder(1), raises=True)([None])


def test_an_initializer_is_called_before_the_first_call_and_never_again() -> None:
    called: list[int] = []
    first = Prepared(b"one", called.append, (1,), abs)
    assert [
        first(-2),
        Prepared(b"one", called.append, (2,), abs)(-3),
        Prepared(b"two", called.append, (3,), abs)(0),
    ] == [
        2,
        3,
        0,
    ]
    assert called == [1, 3]
    failing = Prepared(b"three", plain.divide, (1, 0), abs)
    for _ in range(2):
        with pytest.raises(InitializerFailed, match="ZeroDivisionError"):
            failing(1)


def test_the_names_that_status_shows() -> None:
    assert [ForEach(pow).__name__, Chunk(plain.Pid(), raises=False).__name__] == ["pow", "Pid"]
