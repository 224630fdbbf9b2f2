"""The node with most of a task's arguments."""

from __future__ import annotations

from typing import Any

from asyncray.core.cluster.locality import LEAST, Locality
from asyncray.messages import PLAIN, SHARED
from tests.core.cluster.pair import A, B, C


class Entry:
    """As much of an object entry as counts."""

    def __init__(self, size: int, *nodes: bytes, kind: int = SHARED) -> None:
        self.kind = kind
        self.payload = [0, size]
        self.block = None
        self.far = None
        self.nodes = nodes


class Holdings:
    def nodes(self, entry: Any) -> Any:
        return entry.nodes


class Work:
    def __init__(self, *dependencies: Entry) -> None:
        self.dependencies = dependencies


def best(*entries: Entry) -> bytes | None:
    holders: Any = Holdings()
    task: Any = Work(*entries)
    return Locality(A, holders).best(task)


def test_the_node_with_more_than_half_of_the_bytes_is_best() -> None:
    assert best(Entry(2 * LEAST, B), Entry(LEAST, C)) == B
    assert best(Entry(LEAST, B), Entry(LEAST, C)) is None
    assert best(Entry(LEAST, B, C), Entry(LEAST, C)) == C


def test_small_arguments_do_not_decide() -> None:
    assert best(Entry(LEAST - 1, B)) is None
    assert best(Entry(LEAST, B, kind=PLAIN)) is None
    assert best() is None
