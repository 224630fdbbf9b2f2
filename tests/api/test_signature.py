from __future__ import annotations

import functools
import inspect
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncray.api.signature import Signature

NAMES = "abcdef"


def verdict(call: Callable[[], object]) -> str:
    try:
        call()
    except TypeError as error:
        return str(error)
    return "fits"


@st.composite
def definitions(draw: st.DrawFn) -> str:
    """Parameters of a ``def``: any mix of the five kinds, with and without defaults."""
    positional = draw(st.integers(0, 4))
    plain = draw(st.integers(0, positional))  # without default
    slash = draw(st.integers(0, positional))
    parts = [NAMES[i] if i < plain else f"{NAMES[i]}=0" for i in range(positional)]
    if slash:
        parts.insert(slash, "/")
    keywords = [f"{name}{draw(st.sampled_from(['', '=0']))}" for name in NAMES[4 : 4 + draw(st.integers(0, 2))]]
    if draw(st.booleans()):
        parts.append("*rest")
    elif keywords:
        parts.append("*")
    parts += keywords
    if draw(st.booleans()):
        parts.append("**more")
    return ", ".join(parts)


calls = st.tuples(
    st.lists(st.integers(), max_size=5), st.dictionaries(st.sampled_from([*NAMES, "x", "self", "args"]), st.integers())
)


@settings(deadline=None)  # the machine is shared
@given(definitions(), calls, st.booleans())
def test_check_says_what_a_local_call_says(text: str, call: tuple[list[int], dict[str, int]], method: bool) -> None:
    namespace: dict[str, Any] = {}
    exec(f"class C:\n def m(self{', ' + text if text else ''}): pass\ndef f({text}): pass", namespace)
    args, kwargs = call
    if method:
        local, signature = namespace["C"]().m, Signature.of_method(namespace["C"], "m")
    else:
        local, signature = namespace["f"], Signature(namespace["f"])
    expected = verdict(lambda: local(*args, **kwargs))
    assert verdict(lambda: signature.check(args, kwargs)) == expected
    assert verdict(lambda: pickle.loads(pickle.dumps(signature)).check(args, kwargs)) == expected


def pair(x: int, y: int = 0) -> int:
    return x + y


@functools.wraps(pair)
def wrapped(*args: Any, **kwargs: Any) -> Any:
    return pair(*args, **kwargs)


class CallableObject:
    def __call__(self, x: int) -> int:
        return x


class Actor:
    kept = CallableObject()
    half = functools.partialmethod(lambda self, x, y: x + y, 1)

    def __init__(self, x: int) -> None:
        pass

    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def make(cls, x: int) -> None:
        pass

    async def wait(self, x: int) -> None:
        pass


class Child(Actor):
    pass


class Bare:
    pass


class Record(NamedTuple):
    x: int


@pytest.mark.parametrize(
    "signature",
    [
        Signature(CallableObject()),
        Signature(functools.partial(pair, 1)),
        *(Signature.of_method(Child, name) for name in ("kept", "half", "static", "make", "wait")),
        Signature.of_class(Child),
        Signature.of_class(Record),
    ],
    ids=repr,
)
def test_every_kind_of_callee_with_one_parameter(signature: Signature) -> None:
    signature.check((1,), {})
    for args, kwargs in (((1, 2, 3), {}), ((1,), {"z": 1})):
        with pytest.raises(TypeError):
            signature.check(args, kwargs)


def test_messages_of_methods_and_constructors_are_those_of_local_calls() -> None:
    assert verdict(lambda: Signature.of_class(Actor).check((), {})) == verdict(lambda: Actor())  # type: ignore[call-arg]  # on purpose
    assert verdict(lambda: Signature.of_class(Bare).check((1,), {})) == verdict(lambda: Bare(1))  # type: ignore[call-arg]  # on purpose
    assert verdict(lambda: Signature.of_class(Bare).check((), {})) == "fits"
    assert verdict(lambda: Signature.of_method(Actor, "make").check((), {})) == verdict(lambda: Actor.make())  # type: ignore[call-arg]  # on purpose


def test_wraps_is_followed_as_inspect_does() -> None:
    Signature(wrapped).check((1,), {"y": 2})
    with pytest.raises(TypeError, match=r"pair\(\) missing 1 required positional argument: 'x'"):
        Signature(wrapped).check((), {})


def test_callee_without_a_signature_takes_anything() -> None:
    Signature(max).check((1, 2, 3), {"whatever": 1})


def test_defaults_are_neither_evaluated_nor_kept_and_names_may_be_any() -> None:
    class Loud:
        def __repr__(self) -> str:
            raise AssertionError("the text of a default was asked for")

    def f(self: object, args: object = Loud(), *, größe: object = Loud(), stub: object = Loud()) -> None:
        pass

    Signature(f).check((), {"self": 1, "größe": 2, "stub": 3})


def test_unknown_method_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Actor' has no method 'nope'"):
        Signature.of_method(Actor, "nope")


# Names that no ``def`` can have ---------------------------------------------------------------------------------------


def with_parameters(*parameters: tuple[str, Any]) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name, kind in parameters]
    )
    return function


def test_a_positional_only_parameter_may_be_called_like_a_keyword() -> None:
    only, plain = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = Signature(with_parameters(("from", only), ("None", only), ("from_", plain)))
    for again in (signature, pickle.loads(pickle.dumps(signature))):
        again.check((1, 2), {"from_": 3})
        with pytest.raises(TypeError, match="missing 2 required positional arguments"):
            again.check((1,), {})
        with pytest.raises(TypeError, match="takes 3 positional arguments but 4 were given"):
            again.check((1, 2, 3, 4), {})


@pytest.mark.parametrize("names", [("__debug__",), ("x", "\N{MATHEMATICAL BOLD SMALL X}")])
def test_what_no_definition_can_say_takes_anything(names: tuple[str, ...]) -> None:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    Signature(with_parameters(*((name, kind) for name in names))).check((1, 2, 3), {"y": 4})
