"""Serializers that users register: the values that they apply to, their reach, and their end."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import asyncray.sync as ray
from asyncray.exceptions import TaskError, UnserializableException
from asyncray.runtime import serialization
from tests.system.pickles import Box, Failure, content, fail, give, make, register

pytestmark = pytest.mark.usefixtures("node")


def through_a_put(value: Any) -> Any:
    return ray.get(ray.put(value))


def test_everywhere_in_what_this_process_pickles() -> None:
    box = Box([1, 2])
    with pytest.raises(TypeError, match="cannot pickle"):
        ray.put(box)
    register()
    assert through_a_put(box) == box
    deep = {"a": [(box, {1: box})], "b": box}
    found = through_a_put(deep)
    assert found == deep
    assert found["b"] is found["a"][0][0]
    assert ray.get(content.remote(box)) == [1, 2]
    assert ray.get(content.remote(box=box)) == [1, 2]
    assert ray.get(content.remote(ray.put(box))) == [1, 2]
    assert ray.get(ray.remote(lambda: box.content).remote()) == [1, 2]
    actor: Any = ray.remote(Keeper).remote(box)
    assert ray.get(actor.content.remote()) == [1, 2]


class Keeper:
    def __init__(self, box: Box) -> None:
        self.box = box

    def content(self) -> Any:
        return self.box.content


def test_what_the_serializer_makes_is_pickled_as_usual() -> None:
    register()
    ref = give.remote(5)
    box = through_a_put(Box([ref, Box("inner"), np.arange(100_000)]))
    assert ray.get(box.content[0]) == 5
    assert box.content[1] == Box("inner")
    assert not box.content[2].flags.writeable  # it stayed in shared memory
    nested = ray.put(Box(ray.put("kept")))  # the only ref of the inner object
    assert ray.get(ray.get(nested).content) == "kept"


def test_functions_that_only_exist_here() -> None:
    factor = 2

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value
            self.lock = threading.Lock()

    ray.util.register_serializer(
        Local, serializer=lambda local: local.value, deserializer=lambda value: Local(value * factor)
    )
    found = through_a_put([Local(1), Local(2)])
    assert [item.value for item in found] == [2, 4]
    assert type(found[0]) is Local
    assert ray.get(ray.remote(lambda local: local.value).remote(Local(5))) == 10


def test_exactly_the_class() -> None:
    class Special(Box): ...

    register()
    with pytest.raises(TypeError, match="cannot pickle"):
        ray.put(Special(1))


def test_results_are_pickled_where_they_are_made() -> None:
    register()
    with pytest.raises(TypeError, match="Could not serialize the return value"):
        ray.get(make.remote(1, False))
    assert ray.get(make.remote(2, True)) == Box(2)


def test_errors() -> None:
    with pytest.raises(TaskError) as caught:
        ray.get(fail.remote(False))
    assert isinstance(caught.value.cause, UnserializableException)
    with pytest.raises(Failure) as known:
        ray.get(fail.remote(True))
    assert known.value.number == 7


def test_what_a_serializer_raises_comes_to_whoever_pickles() -> None:
    def refuse(box: Box) -> Any:
        raise LookupError(f"not {box.content}")

    register(serializer=refuse)
    with pytest.raises(LookupError, match="not 3"):
        ray.put(Box(3))
    with pytest.raises(LookupError, match="not 3"):
        content.remote(Box(3))
    with pytest.raises(LookupError, match="not 3"):
        give.remote(deep=[Box(3)])
    with pytest.raises(TypeError, match=r"argument number 0\[1\] of"):
        give.remote([1, threading.Lock()])  # others are explained as ever

    @ray.remote
    def refused() -> Box:
        register(serializer=refuse_everything)
        return Box(1)

    with pytest.raises(LookupError, match="everything"):
        ray.get(refused.remote())


def refuse_everything(box: Box) -> Any:
    raise LookupError("everything")


def test_what_a_deserializer_raises_comes_to_whoever_unpickles() -> None:
    def refuse(content: Any) -> Box:
        raise LookupError(f"not {content}")

    register(deserializer=refuse)
    ref = ray.put(Box(4))
    with pytest.raises(ray.exceptions.RaySystemError, match="LookupError: not 4"):
        ray.get(ref)


def test_the_last_one_counts_until_it_is_taken_back() -> None:
    register()
    register(serializer=lambda box: "second")
    assert through_a_put(Box(1)) == Box("second")
    ref = ray.put(Box(1))
    ray.util.deregister_serializer(Box)
    ray.util.deregister_serializer(Box)
    ray.util.deregister_serializer(int)
    with pytest.raises(TypeError):
        ray.put(Box(1))
    assert ray.get(ref) == Box("second")


def test_it_ends_with_the_session() -> None:
    register()
    assert serialization.is_registered(Box)
    ray.shutdown()
    assert not serialization.is_registered(Box)
    ray.init(num_cpus=1)
    with pytest.raises(TypeError):
        ray.put(Box(1))
    with pytest.raises(TypeError):
        ray.put([lambda: 1, Box(1)])  # which cloudpickle pickles


def test_it_may_be_registered_before_the_session_begins() -> None:
    ray.shutdown()
    register()
    assert not ray.is_initialized()
    ray.init(num_cpus=1)
    assert through_a_put(Box(1)) == Box(1)


def test_only_classes_and_functions() -> None:
    with pytest.raises(TypeError, match="takes a class, not Box"):
        ray.util.register_serializer(Box(1), serializer=str, deserializer=str)
    with pytest.raises(TypeError, match="must be functions"):
        register(serializer=1)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot pickle"):
        register(deserializer=lambda content: lock)
    with pytest.raises(TypeError):
        ray.put(Box(1))


def test_in_threads_at_once() -> None:
    register()
    broken = []

    def put_many() -> None:
        for i in range(200):
            if through_a_put(Box(i)) != Box(i):
                broken.append(i)

    threads = [threading.Thread(target=put_many) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(50):
        ray.util.register_serializer(Failure, serializer=str, deserializer=str)
        ray.util.deregister_serializer(Failure)
        assert through_a_put([Box(i), lambda: 1])[0] == Box(i)
    for thread in threads:
        thread.join()
    assert broken == []
