"""Key-value pairs: the meanings of Ray's ``internal_kv``, and their bounds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncray.core import key_values
from asyncray.core.key_values import LARGEST_VALUE, LONGEST_KEY, KeyValues, TooLarge


def test_a_value_is_put_found_and_deleted_in_its_namespace() -> None:
    pairs = KeyValues()
    assert not pairs.put(b"a", b"key", b"1", overwrite=True)
    assert pairs.put(b"a", b"key", b"2", overwrite=False)
    assert pairs.get(b"a", b"key") == b"1"
    assert pairs.put(b"a", b"key", b"2", overwrite=True)
    assert pairs.get(b"a", b"key") == b"2"
    assert pairs.get(b"b", b"key") is None
    pairs.put(b"a", b"king", b"", overwrite=True)
    pairs.put(b"a", b"queen", b"", overwrite=True)
    assert pairs.list(b"a", b"k") == [b"key", b"king"]
    assert pairs.list(b"b", b"") == []
    assert pairs.delete(b"a", b"k", by_prefix=False) == 0
    assert pairs.delete(b"a", b"k", by_prefix=True) == 2
    assert pairs.delete(b"a", b"queen", by_prefix=False) == 1
    assert repr(pairs) == "<KeyValues 0 pairs, 0 bytes>"


def test_sizes_have_bounds_and_a_pair_that_is_too_large_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = KeyValues()
    for key, value in ((bytes(LONGEST_KEY + 1), b""), (b"key", bytes(LARGEST_VALUE + 1))):
        with pytest.raises(TooLarge, match="at most"):
            pairs.put(b"", key, value, overwrite=True)
    with pytest.raises(TooLarge):
        pairs.put(bytes(LONGEST_KEY + 1), b"", b"", overwrite=True)
    monkeypatch.setattr(key_values, "MOST_PAIRS", 2)
    pairs.put(b"", b"1", b"x", overwrite=True)
    pairs.put(b"", b"2", b"", overwrite=True)
    with pytest.raises(TooLarge, match="all keys and values"):
        pairs.put(b"", b"3", b"", overwrite=True)
    assert pairs.put(b"", b"1", b"longer", overwrite=True)
    monkeypatch.setattr(key_values, "MOST_BYTES", pairs._bytes)
    with pytest.raises(TooLarge, match="all keys and values"):
        pairs.put(b"", b"1", b"longer!", overwrite=True)
    assert pairs.put(b"", b"1", b"y", overwrite=True)
    pairs.check()


def test_messages_name_operations() -> None:
    pairs = KeyValues()
    asked: list[tuple[str, Any]] = [
        ("put", (b"", b"key", b"1", True)),
        ("exists", (b"", b"key")),
        ("get", (b"", b"key")),
        ("list", (b"", b"")),
        ("delete", (b"", b"key", False)),
        ("exists", (b"", b"key")),
    ]
    assert [pairs.perform(*each) for each in asked] == [False, True, b"1", [b"key"], 1, False]
    for operation, arguments in (("put", (b"", "text", b"", True)), ("put", (b"", b"", 7, True)), ("drop", (b"", b""))):
        with pytest.raises(ValueError):
            pairs.perform(operation, arguments)


@given(
    st.lists(
        st.tuples(
            st.sampled_from((b"a", b"b")),
            st.sampled_from((b"", b"k", b"key", b"l")),
            st.one_of(st.none(), st.binary(max_size=9)),
            st.booleans(),
        )
    )
)
def test_the_counts_are_right(steps: list[tuple[bytes, bytes, bytes | None, bool]]) -> None:
    pairs = KeyValues()
    for namespace, key, value, flag in steps:
        if value is None:
            pairs.delete(namespace, key, by_prefix=flag)
        else:
            pairs.put(namespace, key, value, overwrite=flag)
        pairs.check()
