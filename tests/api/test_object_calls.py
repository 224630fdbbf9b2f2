"""How ``get`` and ``wait`` check their arguments and divide their refs, without a node."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from asyncray.api.actor import kill
from asyncray.api.decorator import remote
from asyncray.api.handle import ActorHandle
from asyncray.api.object_calls import cancel, check_timeout, local_objects, partition, partition_anywhere, partition_now
from asyncray.messages import CANCEL, KILL, PLAIN, UNRESOLVED
from asyncray.runtime.references import ELSEWHERE
from tests.runtime.daemon_side import DaemonSide


def objects(*ready: bool) -> list[Any]:
    return [SimpleNamespace(kind=PLAIN if one else UNRESOLVED, payload=None) for one in ready]


REFS: Any = ["a", "b", "c", "d"]
FOUND = objects(False, True, False, True)


@pytest.mark.parametrize(
    ("enough", "parts"),
    [(1, (["b"], ["a", "c", "d"])), (2, (["b", "d"], ["a", "c"])), (3, None)],
)
def test_partition_keeps_the_order(enough: int, parts: Any) -> None:
    assert [*(partition(REFS, FOUND, enough) or ())] == [*(parts or ())]


def test_partition_now_takes_what_is_ready() -> None:
    same: Any = partition_now
    assert same(REFS, FOUND, 3) == (["b", "d"], ["a", "c"])
    assert same(REFS, FOUND, 1) == (["b"], ["a", "c", "d"])
    assert same(REFS, objects(False, False, False, False), 2) == ([], REFS)
    assert partition(REFS, objects(False, False, False, False), 1) is None


def test_an_object_on_another_node_is_ready_where_nothing_is_to_be_fetched() -> None:
    found = objects(False, True, False, False)
    found[0].payload = ELSEWHERE
    anywhere: Any = partition_anywhere
    assert anywhere(REFS, found, 1) == (["a"], ["b", "c", "d"])
    assert anywhere(REFS, found, 2) == (["a", "b"], ["c", "d"])
    assert anywhere(REFS, found, 3) is None
    now: Any = partition_now
    assert now(REFS, found, 3, fetch=False) == (["a", "b"], ["c", "d"])
    assert now(REFS, found, 3) == (["b"], ["a", "c", "d"])
    assert now(REFS, objects(False, False, False, False), 1, fetch=False) == ([], REFS)


def test_timeouts() -> None:
    assert [check_timeout(timeout) for timeout in (None, 0, 1.5, math.inf)] == [None, 0, 1.5, None]
    for wrong in (-1, math.nan):
        with pytest.raises(ValueError, match="must not be negative"):
            check_timeout(wrong)
    with pytest.raises(TypeError, match="not str"):
        check_timeout("1")  # type: ignore[arg-type]  # a mistake of a caller


def test_what_is_no_list_of_refs() -> None:
    with pytest.raises(ValueError, match="Invalid type of object refs, <class 'int'>"):
        local_objects(1)
    with pytest.raises(ValueError, match=r"the list contains a int \(1\), not only ObjectRefs"):
        local_objects([1])
    assert local_objects([]) == []


def test_flags_may_be_truth_values_of_any_kind(daemon: DaemonSide) -> None:
    """A truth value of numpy cannot be encoded: if it were posted, earlier messages would be lost with it."""
    yes: Any = np.bool_(True)
    ref: Any = remote(len).remote("")
    cancel(ref, force=yes, recursive=yes)
    assert daemon.next(CANCEL) == [CANCEL, ref.task_id(), True, True]
    handle: Any = ActorHandle(b"a" * 14, None, None)  # type: ignore[arg-type]  # no method is called
    kill(handle, no_restart=yes)
    assert daemon.next(KILL) == [KILL, b"a" * 14, True]
