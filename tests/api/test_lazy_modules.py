"""``ray.cloudpickle`` and ``ray.types``: there when they are asked for, and not before."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import asyncray.sync as ray
from tests.system.conftest import node, nothing_left, own_node, sessions  # real processes run here, too
from tests.system.pickles import Box, register

__all__ = ["node", "nothing_left", "own_node", "sessions"]

ROOT = Path(__file__).parent.parent.parent


def test_nothing_is_imported_before() -> None:
    program = "import sys, asyncray.sync as ray; print('cloudpickle' in sys.modules); ray.cloudpickle; ray.types"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_object_ref_in_annotations() -> None:
    def f(ref: ray.types.ObjectRef[int]) -> None: ...

    assert ray.types.ObjectRef is ray.ObjectRef
    assert typing.get_type_hints(f)["ref"] == ray.ObjectRef[int]


def test_functions_by_value_and_back() -> None:
    offset = 2
    pickled = ray.cloudpickle.dumps(lambda x: x + offset)
    assert ray.cloudpickle.loads(pickled)(1) == 3
    file = io.BytesIO()
    ray.cloudpickle.dump([1], file, protocol=4)
    file.seek(0)
    assert file.getvalue()[:2] == b"\x80\x04"
    assert ray.cloudpickle.load(file) == [1]
    buffers: list[pickle.PickleBuffer] = []
    pickled = ray.cloudpickle.dumps(pickle.PickleBuffer(b"xy"), buffer_callback=buffers.append)
    assert ray.cloudpickle.loads(pickled, buffers=[b"ab"]) == b"ab"
    assert [bytes(buffer) for buffer in buffers] == [b"xy"]


def test_the_other_names_are_those_of_the_package() -> None:
    assert ray.cloudpickle.register_pickle_by_value is cloudpickle.register_pickle_by_value
    with pytest.raises(AttributeError):
        ray.cloudpickle.no_such_name  # noqa: B018 - to ask for it is the test


@pytest.mark.usefixtures("node")
def test_refs_and_handles_here_and_in_a_task() -> None:
    class Counter:
        def add(self, x: int) -> int:
            return x + 1

    @ray.remote
    def use(pickled: bytes) -> Any:
        ref, handle = ray.cloudpickle.loads(pickled)
        return ray.get(handle.add.remote(ray.get(ref)))

    ref, handle = ray.put(5), ray.remote(Counter).remote()
    pickled = ray.cloudpickle.dumps((ref, handle))
    assert ray.cloudpickle.loads(pickled) == (ref, handle)
    assert ray.get(use.remote(pickled)) == 6


@pytest.mark.usefixtures("node")
def test_registered_serializers_count() -> None:
    register()
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps([Box(1), lambda: 1]))[0] == Box(1)
    ray.shutdown()
    with pytest.raises(TypeError):
        ray.cloudpickle.dumps(Box(1))
