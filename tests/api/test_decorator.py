"""``remote``: it makes templates of functions and classes, and refuses other things."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from asyncray.api.actor import ActorClass
from asyncray.api.decorator import remote
from asyncray.api.function import DECORATOR, DecoratedFunction, RemoteFunction


def square(x: int) -> int:
    return x * x


class Counter:
    pass


async def coroutine() -> None:
    pass


async def generator() -> AsyncIterator[int]:
    yield 1


def test_functions_become_remote_functions_and_classes_actor_classes() -> None:
    assert type(remote(square)) is RemoteFunction
    assert type(remote(Counter)) is ActorClass
    assert remote(square)._options == remote(Counter)._asyncray_options == {}


def test_options_are_checked_and_kept() -> None:
    function: Any = remote(num_cpus=2, max_retries=0)(square)
    assert function._options == {"num_cpus": 2, "max_retries": 0}
    actor: Any = remote(num_gpus=1, max_restarts=-1)(Counter)
    assert actor._asyncray_options == {"num_gpus": 1, "max_restarts": -1}
    with pytest.raises(ValueError, match="Invalid option keyword max_restarts for remote functions"):
        remote(max_restarts=1)(square)
    with pytest.raises(ValueError, match="Invalid option keyword max_calls for actors"):
        remote(max_calls=1)(Counter)
    with pytest.raises(TypeError, match="The type of keyword 'num_cpus'"):
        remote(num_cpus="2")(square)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="no concurrency groups"):
        remote(concurrency_groups={"io": 2})(Counter)


def test_callables_have_the_name_of_their_class() -> None:
    function: Any = remote(functools.partial(square, 3))
    assert (type(function), function.__name__) == (RemoteFunction, "partial")


def test_a_function_with_an_invocation_decorator_gets_its_own_kind() -> None:
    def wrapped() -> None:
        pass

    setattr(wrapped, DECORATOR, lambda invoke: invoke)
    assert type(remote(wrapped)) is DecoratedFunction


def test_it_takes_one_thing_or_options() -> None:
    untyped: Any = remote
    for targets, options in (((square, square), {}), ((square,), {"num_cpus": 1})):
        with pytest.raises(ValueError, match="takes one function or class, or options by keyword"):
            untyped(*targets, **options)


def test_empty_parentheses_are_refused() -> None:
    with pytest.raises(ValueError, match="either with no arguments and no parentheses"):
        remote()


@pytest.mark.parametrize("target", [3, "f", None, remote(square), remote(Counter)])
def test_other_things_are_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="applied to either a function or a class"):
        remote(target)


@pytest.mark.parametrize("target", [coroutine, generator])
def test_asynchronous_functions_are_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="'async def' should not be used for remote tasks"):
        remote(target)
