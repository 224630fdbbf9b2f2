"""``ray.cloudpickle``: values pickled by hand travel as they do to other processes."""

from __future__ import annotations

import io
import pickle
from typing import Any

import cloudpickle as package
import pytest

from asyncray.api import cloudpickle
from asyncray.runtime import serialization
from asyncray.runtime.refs import ObjectRef
from tests.runtime.daemon_side import DaemonSide


class Locked:
    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        raise TypeError("it cannot be pickled")


def test_functions_without_a_name_go_by_value() -> None:
    number = 3
    function = cloudpickle.loads(cloudpickle.dumps(lambda x: x * number))
    assert function(2) == 6


def test_a_file_and_bytes_hold_the_same() -> None:
    file = io.BytesIO()
    cloudpickle.dump({"a": [1, 2]}, file)
    assert file.getvalue() == cloudpickle.dumps({"a": [1, 2]})
    file.seek(0)
    assert cloudpickle.load(file) == {"a": [1, 2]}


def test_protocol_and_buffers_are_those_of_pickle() -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = cloudpickle.dumps(pickle.PickleBuffer(bytearray(b"abc")), buffer_callback=buffers.append)
    assert bytes(cloudpickle.loads(data, buffers=buffers)) == b"abc"
    assert cloudpickle.dumps(1, protocol=2) == pickle.dumps(1, protocol=2)


def test_refs_may_be_among_the_values(daemon: DaemonSide) -> None:
    ref: ObjectRef[int] = ObjectRef(b"o" * 26)
    assert cloudpickle.loads(cloudpickle.dumps([ref])) == [ref]


def test_registered_serializers_count() -> None:
    with pytest.raises(TypeError, match="it cannot be pickled"):
        cloudpickle.dumps(Locked(4))
    serialization.register(Locked, lambda locked: locked.number, Locked)
    try:
        assert cloudpickle.loads(cloudpickle.dumps(Locked(4))).number == 4
    finally:
        serialization.deregister(Locked)


def test_other_names_are_those_of_the_package() -> None:
    assert cloudpickle.register_pickle_by_value is package.register_pickle_by_value
    with pytest.raises(AttributeError):
        _ = cloudpickle.nonsense
