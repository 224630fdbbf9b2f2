"""The state of an exception, and an instance with that state that no constructor has made.

Constructors of users' exceptions may take any arguments. pickle calls the class with ``args``, which fails for many.
"""

from __future__ import annotations

from types import GetSetDescriptorType, MemberDescriptorType
from typing import cast

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: set unless the type is built in
_NOT_STATE = frozenset(
    {"__class__", "__dict__", "__weakref__", "__traceback__", "__cause__", "__context__", "__suppress_context__"}
)


def exception_state(exc: BaseException) -> tuple[dict[str, object], dict[str, object]]:
    """The state of an exception: (args, slots and members that C code keeps; a copy of its `__dict__`)."""
    members: dict[str, object] = {}
    for cls in type(exc).__mro__:
        for name, descriptor in vars(cls).items():
            if isinstance(descriptor, (MemberDescriptorType, GetSetDescriptorType)) and name not in _NOT_STATE:
                try:
                    value = descriptor.__get__(exc, type(exc))
                except (AttributeError, TypeError):  # never set
                    continue
                if value is not None or cls.__flags__ & _HEAP_TYPE:  # in C, None stands for a member that was never set
                    members.setdefault(name, value)
    return members, dict(object.__getattribute__(exc, "__dict__"))


def revive(cls: type[BaseException], members: dict[str, object], attributes: dict[str, object]) -> BaseException:
    """An instance of `cls` with the given state. Runs no constructor, because that may require any arguments."""
    built_in: type = cls
    while built_in.__flags__ & _HEAP_TYPE:
        built_in = cast(type, built_in.__base__)
    contents = (members["message"], members["exceptions"]) if issubclass(cls, BaseExceptionGroup) else ()
    exc: BaseException = built_in.__new__(cls, *contents)
    for name, value in members.items():
        try:
            object.__setattr__(exc, name, value)
        except (AttributeError, TypeError):  # read-only, such as the contents of a group
            continue
    object.__getattribute__(exc, "__dict__").update(attributes)
    return exc


def link(exc: BaseException, cause: BaseException | None, context: BaseException | None, *, suppress: bool) -> None:
    """Gives `exc` the chain that pickle and copy drop."""
    # Not by plain assignment: an exception may be a frozen dataclass. Setting __cause__ also sets
    # __suppress_context__, so that one comes last.
    object.__setattr__(exc, "__context__", context)
    object.__setattr__(exc, "__cause__", cause)
    object.__setattr__(exc, "__suppress_context__", suppress)
