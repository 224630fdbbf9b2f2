"""A class that cannot be pickled, and how it can be: for tests of serializers, in a module that workers can import."""

from __future__ import annotations

import threading
from typing import Any

import asyncray.sync as ray


class Box:
    """Holds a lock."""

    def __init__(self, content: Any) -> None:
        self.content = content
        self.lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.content == other.content

    __hash__ = None  # type: ignore[assignment]  # Python's way to say so


class Failure(Exception):
    """Holds a lock, too."""

    def __init__(self, number: int, lock: Any) -> None:
        super().__init__(number, lock)
        self.number = number


def content_of(box: Box) -> Any:
    return box.content


def register(**options: Any) -> None:
    ray.util.register_serializer(Box, **{"serializer": content_of, "deserializer": Box, **options})


@ray.remote
def content(box: Box) -> Any:
    return box.content


@ray.remote
def give(value: Any = None, **named: Any) -> Any:
    return value


@ray.remote
def make(value: Any, registers: bool) -> Box:
    if registers:
        register()
    return Box(value)


@ray.remote
def fail(registers: bool) -> None:
    if registers:
        ray.util.register_serializer(
            Failure, serializer=lambda e: e.number, deserializer=lambda n: Failure(n, threading.Lock())
        )
    raise Failure(7, threading.Lock())
