"""The types of ``.remote`` for type checkers: its arguments and its result.

Owns ``Submit``, the type of the ``remote`` attribute of a remote function, and the type variables that go with it.

Promises: for ``def f(x: int, y: str = "") -> str``, mypy and pyright let pass ``f.remote(1)``, ``f.remote(1, y="a")``
and ``f.remote(ref)`` with an ``ObjectRef[int]``, give them ``ObjectRef[str]``, and refuse a call with too few, too many
or unknown arguments, or with a value or ref of another type.

How: the last overload is the function's own signature, keywords and defaults included, for plain values. Those before
it take up to ten positional arguments, each plain or a ref, and find the parameters' types by matching the function
against ``Callable[[T0, T1], R]``; a function with defaults matches several of them. So a ref by keyword is the one
legal call that is refused: there is no type for "these keywords, each of them plain or a ref", and taking refs by any
keyword would let pass every call that forgets an argument.

Does not: matter at run time. The attribute is a plain method, and ``cast`` gives it this type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypeVar, Union, overload

if TYPE_CHECKING:
    from types import CodeType

    from asyncray.runtime.refs import ObjectRef

MYPY = False
"""mypy takes this name for True, and no other type checker does: those find the types of constructors differently."""

P = ParamSpec("P")
"""The parameters of the function."""

Out_co = TypeVar("Out_co", covariant=True)
"""The result of ``.remote``: an ``ObjectRef`` of the function's result, unless ``num_returns`` says otherwise."""

F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)
A = TypeVar("A")
R = TypeVar("R")
T0 = TypeVar("T0")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")
T7 = TypeVar("T7")
T8 = TypeVar("T8")
T9 = TypeVar("T9")

R_co = TypeVar("R_co", covariant=True)

Arg = Union[A, "ObjectRef[A]"]
"""A value, or a ref to one."""


class Submit(Generic[P, Out_co, F_co]):
    """The type of ``.remote``, always as ``Submit[P, Out, Callable[P, Out]]``.

    The parameters and the result appear twice for mypy's sake: it solves ``T0`` only in a ``Callable``, and the type
    variables of generic functions only in ``P``. It is no ``Protocol``, because mypy needs minutes to check the
    variances of a protocol with so many overloads.
    """

    @overload
    def __call__(self: Submit[..., object, Callable[[T0], R]], a0: Arg[T0], /) -> R: ...
    @overload
    def __call__(self: Submit[..., object, Callable[[T0, T1], R]], a0: Arg[T0], a1: Arg[T1], /) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2], R]], a0: Arg[T0], a1: Arg[T1], a2: Arg[T2], /
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3], R]], a0: Arg[T0], a1: Arg[T1], a2: Arg[T2], a3: Arg[T3], /
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        /,
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4, T5], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        a5: Arg[T5],
        /,
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4, T5, T6], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        a5: Arg[T5],
        a6: Arg[T6],
        /,
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4, T5, T6, T7], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        a5: Arg[T5],
        a6: Arg[T6],
        a7: Arg[T7],
        /,
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4, T5, T6, T7, T8], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        a5: Arg[T5],
        a6: Arg[T6],
        a7: Arg[T7],
        a8: Arg[T8],
        /,
    ) -> R: ...
    @overload
    def __call__(
        self: Submit[..., object, Callable[[T0, T1, T2, T3, T4, T5, T6, T7, T8, T9], R]],
        a0: Arg[T0],
        a1: Arg[T1],
        a2: Arg[T2],
        a3: Arg[T3],
        a4: Arg[T4],
        a5: Arg[T5],
        a6: Arg[T6],
        a7: Arg[T7],
        a8: Arg[T8],
        a9: Arg[T9],
        /,
    ) -> R: ...
    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Out_co: ...
    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise NotImplementedError  # no instances exist


if TYPE_CHECKING:

    class FunctionOf(Protocol[P, R_co]):
        """A function and not a class, for mypy: classes have no code."""

        @property
        def __code__(self) -> CodeType: ...

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
