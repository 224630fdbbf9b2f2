"""Arguments of a call to bytes and back."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from asyncray.runtime.arguments import pack, unpack
from asyncray.runtime.references import References
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.serialization import deserialize

HOME = cast(References, SimpleNamespace(queue_release=lambda local: None, closed=True))
"""All that a ref asks of its session here."""


def ref(number: int) -> ObjectRef[Any]:
    made: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    made._local = cast(Any, SimpleNamespace(id=bytes([number]), home=HOME, references=HOME, table=HOME))
    return made


def test_refs_that_are_arguments_become_dependencies() -> None:
    one, two = ref(1), ref(2)
    value, dependencies = pack((one, 5, two), {"a": one, "b": "x"}, "f", HOME)
    assert dependencies == [b"\1", b"\2"]
    assert value.refs == []
    args, kwargs = unpack(deserialize(value.pickled), ["first", "second"])
    assert (list(args), kwargs) == (["first", 5, "second"], {"a": "first", "b": "x"})


def test_plain_arguments() -> None:
    value, dependencies = pack((1, "a"), {"b": [2]}, "f", HOME)
    assert dependencies is None
    assert unpack(deserialize(value.pickled), []) == ((1, "a"), {"b": [2]})


def test_refs_inside_arguments_stay_refs() -> None:
    inner = ref(3)
    value, dependencies = pack(([inner],), {}, "f", HOME)
    assert dependencies is None
    assert value.refs == [inner]


def test_the_culprit_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the argument number 1\[0\] of f: lock"):
        pack((1, [lock]), {}, "f", HOME)
    with pytest.raises(TypeError, match=r"the argument where\['k'\] of f: lock"):
        pack((ref(1),), {"where": {"k": lock}}, "f", HOME)


def test_each_argument_is_pickled_once() -> None:
    class Rows:
        def __init__(self, source: Any) -> None:
            self.source = iter(source)

        def __reduce__(self) -> Any:
            return list, (list(self.source),)

    value, _ = pack((Rows(range(3)),), {"more": Rows(range(2)), "ref": ref(1)}, "f", HOME)
    args, kwargs = unpack(deserialize(value.pickled), ["v"])
    assert (list(args), kwargs) == ([[0, 1, 2]], {"more": [0, 1], "ref": "v"})
