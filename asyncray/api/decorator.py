"""``remote``: makes functions and classes remote."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from asyncray.api.actor import ActorClass, ActorClassSpec
from asyncray.api.function import DECORATOR, DecoratedFunction, RemoteFunction
from asyncray.api.options import reject_unsupported, validate_actor_options, validate_task_options
from asyncray.api.signature import Signature, is_asynchronous
from asyncray.api.source import ExportedFunction
from asyncray.api.typing import MYPY, P
from asyncray.runtime.refs import ObjectRef

if TYPE_CHECKING:
    from functools import partial
    from typing import Unpack

    from asyncray.api.actor import TypedActorClass
    from asyncray.api.option_types import RemoteOptions
    from asyncray.api.typing import FunctionOf

C = TypeVar("C")
R = TypeVar("R")


class Decorator(Protocol):
    """The decorator that ``remote(**options)`` returns."""

    if MYPY:

        @overload
        def __call__(self, target: FunctionOf[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
        @overload
        def __call__(self, target: partial[R], /) -> RemoteFunction[..., ObjectRef[R]]: ...  # type: ignore[overload-overlap]
        @overload
        def __call__(self, target: Callable[P, C], /) -> TypedActorClass[C, P]: ...
    else:

        @overload
        def __call__(self, target: type[C], /) -> ActorClass[C]: ...
        @overload
        def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...


class DecoratorOfMany(Protocol):
    """The decorator of ``remote(num_returns=..., **options)``: type checkers do not know how many refs come back."""

    def __call__(self, target: Callable[P, object], /) -> RemoteFunction[P, Any]: ...


if MYPY:

    @overload
    def remote(target: FunctionOf[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
    @overload
    def remote(target: partial[R], /) -> RemoteFunction[..., ObjectRef[R]]: ...  # type: ignore[overload-overlap]
    @overload
    def remote(target: Callable[P, C], /) -> TypedActorClass[C, P]: ...
    @overload
    def remote(*, num_returns: int | str, **options: Unpack[RemoteOptions]) -> DecoratorOfMany: ...
    @overload
    def remote(**options: Unpack[RemoteOptions]) -> Decorator: ...
    def remote(*targets: Any, **options: object) -> Any:
        return _remote(targets, options)

else:

    @overload
    def remote(target: type[C], /) -> ActorClass[C]: ...
    @overload
    def remote(target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...
    @overload
    def remote(*, num_returns: int | str, **options: Unpack[RemoteOptions]) -> DecoratorOfMany: ...
    @overload
    def remote(**options: Unpack[RemoteOptions]) -> Decorator: ...
    def remote(*targets: Any, **options: object) -> Any:
        """Makes a function a remote function, or a class an actor class.

        Args:
            targets: the function or class, for ``@remote`` without options.
            options: for ``@remote(num_cpus=2, max_retries=0, ...)``.

        Raises:
            ValueError: an unknown option, neither function nor class, or ``async def``, with ``yield`` or without.
            TypeError: an option of a wrong type.

        Example::

            @asyncray.remote
            def square(x: int) -> int: return x * x
        """
        return _remote(targets, options)


def _remote(targets: tuple[Any, ...], options: dict[str, object]) -> Any:
    if targets:
        if len(targets) > 1 or options:
            raise ValueError("@remote takes one function or class, or options by keyword: @remote(num_cpus=2).")
        return _make(targets[0], {})
    if not options:
        raise ValueError(
            "The @remote decorator must be applied either with no arguments and no parentheses, for "
            "example '@remote', or with options by keyword, for example '@remote(num_cpus=2)'."
        )
    return lambda target: _make(target, options)


def _make(target: Any, options: dict[str, object]) -> Any:
    if isinstance(target, type):
        return ActorClass(ActorClassSpec(target), reject_unsupported(validate_actor_options(options, in_options=False)))
    if isinstance(target, (RemoteFunction, ActorClass)) or not callable(target):
        raise ValueError(
            f"The @remote decorator must be applied to either a function or a class, not to {target!r:.80}."
        )
    if is_asynchronous(target):
        raise ValueError(
            "'async def' should not be used for remote tasks, be it with 'yield' or without. Wrap the body in "
            "asyncio.run() in a plain function, or make it a method of an actor."
        )
    checked = reject_unsupported(validate_task_options(options, in_options=False))
    name = getattr(target, "__name__", type(target).__name__)
    kind = DecoratedFunction if hasattr(target, DECORATOR) else RemoteFunction
    return kind(ExportedFunction(target, f"remote function {name}", Signature(target)), checked)
