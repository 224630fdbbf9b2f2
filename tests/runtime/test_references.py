"""The messages with which a process reports its refs to the daemon, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from asyncray.messages import ADD_REFS, FUNCTION, RELEASE_REFS, SHARED, UNPIN, UNRESOLVED, FunctionMessage
from asyncray.runtime.references import ELSEWHERE, References, ValueHasLeft
from asyncray.runtime.refs import ObjectRef, borrow, own

PLACE = ["segment", 0, 1]

MESSAGE: FunctionMessage = (FUNCTION, 1, b"digest", b"", None)


class View:
    """Something that a weak reference may point to."""


def name(number: int) -> bytes:
    return number.to_bytes(26, "big")


def test_the_first_ref_of_a_borrowed_object_and_the_last_of_any_are_reported() -> None:
    references = References(lambda: None)
    refs = [own(references, name(1)), borrow(references, name(2)), borrow(references, name(2))]
    assert references.collect() == [(ADD_REFS, [name(2)])]
    del refs[2]
    assert references.collect() == []
    del refs[1]
    del refs[0]
    assert references.collect() == [(RELEASE_REFS, [name(2), name(1)])]
    assert references.table == {}


def test_a_message_is_sent_before_the_release_and_after_the_addition_of_what_it_uses() -> None:
    references = References(lambda: None)
    ref: ObjectRef[Any] | None = borrow(references, name(1))
    references.posted.append(MESSAGE)
    ref = None
    assert ref is None
    assert references.collect() == [(ADD_REFS, [name(1)]), MESSAGE, (RELEASE_REFS, [name(1)])]


def test_a_ref_that_is_made_again_cancels_a_release_that_is_queued() -> None:
    references = References(lambda: None)
    ref = own(references, name(1))
    local = ref._local
    del ref
    with references._lock:
        references._drain()
    again = borrow(references, name(1))
    assert references.collect() == []
    assert again._local is not local


def test_a_place_is_given_back_with_the_last_ref_and_the_last_view() -> None:
    references = References(lambda: None)
    ref, view = own(references, name(1)), View()
    assert references.on_shared_value(name(1), PLACE, may_leave=False) is ref._local
    assert references.on_shared_value(name(1), PLACE, may_leave=False) is None  # the daemon may send it twice
    pin = ref._local.pin
    assert pin is not None
    references.watch(pin, view)
    del ref
    assert references.collect() == [(RELEASE_REFS, [name(1)])]
    del view
    assert references.collect() == [(UNPIN, [(name(1), 2)])]


def test_a_place_that_comes_after_the_last_ref_goes_back_at_once() -> None:
    asked: list[bool] = []
    references = References(lambda: asked.append(True))
    assert references.on_shared_value(name(1), PLACE, may_leave=True) is None
    assert references.collect() == [(UNPIN, [(name(1), 1)])]
    assert asked


def test_the_place_of_a_copy_is_given_back_with_the_last_view_and_comes_again() -> None:
    references = References(lambda: None)
    ref, views = own(references, name(1)), [View(), View()]
    for turn in range(2):
        local = references.on_shared_value(name(1), PLACE, may_leave=True)
        assert local is ref._local
        assert references.on_shared_value(name(1), PLACE, may_leave=True) is None
        assert references.collect() == []  # no view yet: a thread is about to read it
        local.payload, local.kind = PLACE, SHARED
        pin = local.pin
        assert pin is not None
        for view in views:
            references.watch(pin, view)
        del views[0], view
        assert references.collect() == []
        assert local.kind == SHARED
        views.clear()
        assert references.collect() == [(UNPIN, [(name(1), 2)])]
        assert (local.kind, local.payload, local.pin, local.push_expected) == (UNRESOLVED, ELSEWHERE, None, False)
        views += [View(), View()]
        # Another thread has read the pin before the place was given back.
        with pytest.raises(ValueHasLeft):
            references.watch(pin, views[turn])
    views.clear()
    assert references.collect() == []
    del ref, local
    assert references.collect() == [(RELEASE_REFS, [name(1)])]


def test_the_views_of_a_copy_may_outlive_its_ref() -> None:
    references = References(lambda: None)
    ref, view = own(references, name(1)), View()
    local = references.on_shared_value(name(1), PLACE, may_leave=True)
    assert local is not None
    local.payload, local.kind = PLACE, SHARED
    assert local.pin is not None
    references.watch(local.pin, view)
    del ref
    assert references.collect() == [(RELEASE_REFS, [name(1)])]
    del view
    assert references.collect() == [(UNPIN, [(name(1), 1)])]
    assert local.kind == SHARED


def test_a_session_that_has_ended_asks_for_nothing() -> None:
    asked: list[bool] = []
    references = References(lambda: asked.append(True))
    ref = own(references, name(1))
    references.close()
    del ref
    assert asked == []
