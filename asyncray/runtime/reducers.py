"""Reductions that pickle lacks: functions and classes of the program itself, and objects of typing and functools.

Owns the decision whether something travels by its name or by value. By value go things of ``__main__`` (which is named
``__mp_main__`` in a process that multiprocessing has spawned), things that their module does not have under their name,
and things of modules that ``cloudpickle.register_pickle_by_value`` names. cloudpickle makes the reductions of functions
and classes; this module adds to them what a copy of a class lacks otherwise: slots, the qualified name, aliases and
attributes of enum members.

A class that travels by value has an *origin*: the process that defined it. There is one copy in each other process.

1. A pickle that comes back to the origin never changes the class there: the program may have assigned attributes.
2. A pickle from a copy makes new copies, but changes none: an assignment concerns only the process that makes it.
3. A pickle from the origin updates a copy, except for the attributes that the process of the copy has assigned itself.
4. Making a copy does not call ``__init_subclass__`` of other copies: its effects travel as attributes.

Does not import cloudpickle (20 ms) before something goes by value.
"""

from __future__ import annotations

import functools
import io
import sys
import threading
import typing
from collections.abc import Callable
from types import (
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

Reduction = tuple[Any, ...]

MAIN = frozenset({"__main__", "__mp_main__"})

_RECEIVED = "__asyncray_received__"
"""Attribute of each copy of a class: its attributes as they were received. The origin has none."""

_MISSING = object()

_CO_OPTIMIZED = 1
"""``inspect.CO_OPTIMIZED``, of functions and not of class bodies. Loading ``inspect`` takes 5 ms."""


def is_importable(thing: Any, name: str) -> bool:
    """True if other processes get the thing itself when they import it by its name.

    Args:
        name: within its module, as ``Outer.Inner``.
    """
    module_name = getattr(thing, "__module__", None)
    module = sys.modules.get(module_name)  # type: ignore[arg-type]  # no module has the name None
    if module is None or module_name in MAIN:
        return False
    found: Any = module
    if "." in name:
        for part in name.split("."):
            found = getattr(found, part, None)
    else:
        found = getattr(found, name, None)
    if found is not thing:
        return False
    # Not list_registry_pickle_by_value(), which copies: 0.1 µs for each class that is met.
    cloudpickle = sys.modules.get("cloudpickle.cloudpickle")
    registered = getattr(cloudpickle, "_PICKLE_BY_VALUE_MODULES", None)
    return not registered or not any(f"{module_name}.".startswith(f"{name}.") for name in tuple(registered))


# --- functions and classes -------------------------------------------------------------------------------------------


class CloudReducer:
    """cloudpickle's reductions for one run of a pickler: functions of one module share their globals in it."""

    def __init__(self) -> None:
        self._cloud = cloud()
        self._pickler = self._cloud.Pickler(io.BytesIO())

    def reduce(self, value: Any) -> Any:
        """The reduction of a function or class that is not importable."""
        return self._reduce_function(value) if type(value) is FunctionType else self._reduce_class(value)

    def _reduce_function(self, function: Any) -> Any:
        if function.__globals__ is vars(functools) and function.__code__ is _dispatch_code():
            return _reduce_dispatcher(function)
        reduced = self._pickler._dynamic_function_reduce(function)
        if names := _names_in_class_bodies(function.__code__):
            known = function.__globals__
            reduced[2][1]["__globals__"].update((name, known[name]) for name in names if name in known)
        return reduced

    def _reduce_class(self, cls: type) -> Any:
        if cls.__module__ not in MAIN:
            reduced = self._pickler.reducer_override(cls)
            if reduced is NotImplemented or len(reduced) < 6:  # NoneType and the like, which have no name
                return reduced
        else:
            reduced = self._cloud._dynamic_class_reduce(cls)
        return _reduce_class(cls, reduced)


def _names_in_class_bodies(code: CodeType) -> set[str]:
    """The names that classes inside a function read before they assign them. cloudpickle overlooks these.

    Only a class body looks names up at run time: its own first, then those of the module.
    """
    found: set[str] = set()
    for inner in code.co_consts:
        if type(inner) is CodeType:
            found |= _names_in_class_bodies(inner)
            if not inner.co_flags & _CO_OPTIMIZED:
                found |= _names_read(inner)
    return found


def _names_read(class_body: CodeType) -> set[str]:
    import dis  # start-up cost: few programs have classes in their functions

    read: set[str] = set()
    assigned: set[str] = set()
    for instruction in dis.get_instructions(class_body):
        if instruction.opname == "STORE_NAME":
            assigned.add(instruction.argval)
        elif instruction.opname in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and instruction.argval not in assigned:
            read.add(instruction.argval)
    return read


@functools.cache
def cloud() -> Any:
    """The module ``cloudpickle.cloudpickle``."""
    # Start-up cost: 20 ms, and not every program needs it. A driver that starts a node loads it meanwhile.
    from cloudpickle import cloudpickle

    return cloudpickle


def _reduce_class(cls: Any, reduced: Reduction) -> Reduction:
    make, arguments, (attributes, _), *_ = reduced
    arguments = list(arguments)
    *_, class_id, _ = arguments
    arguments[-2] = None  # _make_class looks for the class first
    members: dict[str, Any] = {}
    if make is cloud()._make_skeleton_enum:
        arguments[3] = {name: member.value for name, member in cls.__members__.items()}  # with aliases
        members = {name: own for name, member in cls.__members__.items() if (own := _own_attributes(vars(member)))}
        attributes = {name: value for name, value in attributes.items() if name not in cls.__members__}
    else:
        arguments[3]["__qualname__"] = cls.__qualname__
        # NamedTuple makes its slots itself.
        if "__slots__" in vars(cls) and typing.NamedTuple not in vars(cls).get("__orig_bases__", ()):
            arguments[3]["__slots__"] = _slots(cls)
    is_origin = attributes.pop(_RECEIVED, None) is None
    if type(hook := attributes.get("__init_subclass__")) is classmethod:
        attributes["__init_subclass__"] = _InitSubclass(hook.__func__)
    attributes.pop("__slotnames__", None)  # what pickle remembers of instances
    attributes = {name: value for name, value in attributes.items() if not _is_slot(cls, value)}
    state = attributes, members, is_origin
    return _make_class, (class_id, make, tuple(arguments)), state, None, None, _set_class_state


_ENUM_MACHINERY = frozenset({"_value_", "_name_", "__objclass__", "_sort_order_"})


def _own_attributes(member: dict[str, Any]) -> dict[str, Any]:
    """The attributes that the ``__init__`` or ``__new__`` of an enum has given to a member."""
    return {name: value for name, value in member.items() if name not in _ENUM_MACHINERY}


def _slots(cls: type) -> tuple[str, ...]:
    own = [name for name, value in vars(cls).items() if _is_slot(cls, value)]
    known = [name for name in ("__dict__", "__weakref__") if type(vars(cls).get(name)) is GetSetDescriptorType]
    return (*own, *known)


def _is_slot(cls: type, value: object) -> bool:
    return type(value) is MemberDescriptorType and value.__objclass__ is cls


def _make_class(class_id: str, make: Callable[..., Any], arguments: Reduction) -> Any:
    """The class with that ID. A new one has no attributes yet, as these may refer to the class itself."""
    found = cloud()._DYNAMIC_CLASS_TRACKER_BY_ID.get(class_id)
    if found is None:
        _making.is_under_way = True
        try:
            made = make(*arguments)
        finally:
            _making.is_under_way = False
        type.__setattr__(made, _RECEIVED, {})  # before other threads can find it
        found = cloud()._lookup_class_or_track(class_id, made)
    return found


class _Making(threading.local):
    """True while this thread makes a copy of a class."""

    is_under_way = False


_making = _Making()


class _InitSubclass(classmethod):  # type: ignore[type-arg]  # it has no parameters at run time
    """The ``__init_subclass__`` of a copy of a class. Does nothing while a copy of a subclass is made.

    That copy has no attributes yet, which the method may read, and nobody knows the keywords of its class statement.
    Methods behind it that belong to importable classes are called.
    """

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if not _making.is_under_way:
            return super().__get__(instance, owner)
        hooks = (vars(cls).get("__init_subclass__") for cls in owner.__mro__)
        return next(hook for hook in hooks if hook is not None and type(hook) is not _InitSubclass).__get__(None, owner)


def _reduce_init_subclass(hook: _InitSubclass) -> Reduction:
    return _InitSubclass, (hook.__func__,)


def _set_class_state(cls: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]], bool]) -> None:
    """Applies the rules in the head of this module."""
    attributes, members, from_origin = state
    received = vars(cls).get(_RECEIVED)
    if received is None or (received and not from_origin):
        return
    if received:
        unchanged = vars(cls)
        attributes = {
            name: value
            for name, value in attributes.items()
            if unchanged.get(name, _MISSING) is received.get(name, _MISSING)
        }
    cloud()._class_setstate(cls, (attributes, {}))
    for name, own in members.items():
        vars(cls.__members__[name]).update(own)
    now = vars(cls)
    received.update((name, now[name]) for name in attributes if name in now)


# --- objects of functools --------------------------------------------------------------------------------------------


@functools.cache
def _dispatch_code() -> CodeType:
    return functools.singledispatch(print).__code__  # type: ignore[attr-defined, no-any-return]  # it is a function


def _reduce_dispatcher(dispatcher: Any) -> Reduction:
    implementations = dict(dispatcher.registry)
    default = implementations.pop(object)
    own = _added_attributes(dispatcher, "registry", "dispatch", "register", "_clear_cache")
    return _make_dispatcher, (default,), (implementations, own), None, None, _set_implementations


def _make_dispatcher(default: Callable[..., Any]) -> Any:
    return functools.singledispatch(default)


def _set_implementations(dispatcher: Any, state: tuple[dict[type, Any], dict[str, Any]]) -> None:
    implementations, own = state
    for cls, implementation in implementations.items():
        dispatcher.register(cls, implementation)
    vars(dispatcher).update(own)


def _reduce_dispatching_method(method: Any) -> Reduction:
    return _make_dispatching_method, (method.func, method.dispatcher)


def _make_dispatching_method(function: Any, dispatcher: Any) -> Any:
    made = functools.singledispatchmethod(function)
    made.dispatcher = dispatcher
    return made


def _reduce_lru_cache(wrapper: Any) -> Any:
    if is_importable(wrapper, wrapper.__qualname__):
        return NotImplemented
    parameters = wrapper.cache_parameters()
    own = _added_attributes(wrapper, "cache_parameters")
    return _make_lru_cache, (wrapper.__wrapped__, parameters["maxsize"], parameters["typed"]), own or None


def _make_lru_cache(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:  # noqa: FBT001 - for pickle
    return functools.lru_cache(maxsize, typed)(function)


def _added_attributes(wrapper: Any, *machinery: str) -> dict[str, Any]:
    """The attributes of a wrapper that are neither its own machinery nor copied from the wrapped function."""
    wrapped = vars(wrapper.__wrapped__) if hasattr(wrapper.__wrapped__, "__dict__") else {}
    known = {"__wrapped__", *functools.WRAPPER_ASSIGNMENTS, *machinery}
    return {k: v for k, v in vars(wrapper).items() if k not in known and wrapped.get(k, _MISSING) is not v}


def _reduce_cached_property(cached: Any) -> Reduction:
    state = {name: value for name, value in vars(cached).items() if name != "lock"}  # which Python 3.11 has
    return functools.cached_property, (cached.func,), state


def _reduce_weak_dictionary(dictionary: Any) -> Reduction:
    """With the entries of now. Those that nothing else refers to at the receiver end there, as they do here."""
    return type(dictionary), (), None, None, iter([*dictionary.items()])


# --- objects of typing -----------------------------------------------------------------------------------------------


def _reduce_type_variable(variable: Any) -> Any:
    """For TypeVar, ParamSpec and TypeVarTuple."""
    if is_importable(variable, variable.__name__):
        return NotImplemented
    options = {
        option: getattr(variable, f"__{option}__")
        for option in ("bound", "covariant", "contravariant", "infer_variance")
        if getattr(variable, f"__{option}__", None)
    }
    if hasattr(variable, "has_default") and variable.has_default():
        options["default"] = variable.__default__
    arguments = (variable.__name__, *getattr(variable, "__constraints__", ()))
    variable_id = cloud()._get_or_create_tracker_id(variable)
    return _make_named, (variable_id, type(variable), arguments, options, variable.__module__)


def _reduce_new_type(new_type: Any) -> Any:
    if is_importable(new_type, new_type.__qualname__):
        return NotImplemented
    arguments = (new_type.__qualname__, new_type.__supertype__)
    new_type_id = cloud()._get_or_create_tracker_id(new_type)
    return _make_named, (new_type_id, typing.NewType, arguments, {}, new_type.__module__)


def _make_named(
    thing_id: str, make: Callable[..., Any], arguments: Reduction, options: dict[str, Any], module: str
) -> Any:
    """The one variable or type of this process with that ID."""
    found = cloud()._DYNAMIC_CLASS_TRACKER_BY_ID.get(thing_id)
    if found is None:
        made = make(*arguments, **options)
        made.__module__ = module
        found = cloud()._lookup_class_or_track(thing_id, made)
    return found


def _reduce_parameters(parameters: Any) -> Reduction:
    """For ``P.args`` and ``P.kwargs`` of a ParamSpec."""
    return getattr, (parameters.__origin__, "args" if type(parameters) is typing.ParamSpecArgs else "kwargs")


_TypeAlias: Any = getattr(typing, "TypeAliasType", None)  # from Python 3.12 on: type Name = ...

# An alias may contain itself. So its value comes after it.
_ALIAS = """
def make(content):
    type {0} = content[0]
    return {0}
"""


def _reduce_alias(alias: Any) -> Any:
    if is_importable(alias, alias.__name__):
        return NotImplemented
    if alias.__type_params__:
        return _make_generic_alias, (alias.__name__, alias.__value__, alias.__type_params__)
    content: list[Any] = []
    return _make_alias, (alias.__name__, content), (content, alias.__value__), None, None, _set_alias


def _make_generic_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return _TypeAlias(name, value, type_params=parameters)


def _make_alias(name: str, content: list[Any]) -> Any:
    names: dict[str, Any] = {}
    exec(_ALIAS.format(name), names)
    return names["make"](content)


def _set_alias(alias: Any, state: tuple[list[Any], Any]) -> None:
    content, value = state
    content.append(value)


# --- the table -------------------------------------------------------------------------------------------------------


def _reduce_by_cloudpickle(value: Any) -> Any:
    return cloud().Pickler.dispatch_table[type(value)](value)


def _reduce_code(code: CodeType) -> Reduction:
    """As cloudpickle, but with the name of the file.

    cloudpickle writes "<dynamic-code>" there, so that equal cells of notebooks pickle equally. Then tracebacks do not
    say which line of which file failed.
    """
    make, fields = _reduce_by_cloudpickle(code)
    return make, tuple(
        code.co_filename if type(field) is str and field == "<dynamic-code>" else field for field in fields
    )


def _reduce_module(module: ModuleType) -> Any:
    if module.__name__ in MAIN:
        return cloud().subimport, ("__main__",)
    return _reduce_by_cloudpickle(module)


REDUCERS: dict[type, Callable[[Any], Any]] = {
    CodeType: _reduce_code,
    ModuleType: _reduce_module,
    _InitSubclass: _reduce_init_subclass,
    functools._lru_cache_wrapper: _reduce_lru_cache,
    functools.cached_property: _reduce_cached_property,
    functools.singledispatchmethod: _reduce_dispatching_method,
    WeakKeyDictionary: _reduce_weak_dictionary,
    WeakValueDictionary: _reduce_weak_dictionary,
    typing.TypeVar: _reduce_type_variable,
    typing.ParamSpec: _reduce_type_variable,
    typing.TypeVarTuple: _reduce_type_variable,
    typing.ParamSpecArgs: _reduce_parameters,
    typing.ParamSpecKwargs: _reduce_parameters,
    typing.NewType: _reduce_new_type,
    **dict.fromkeys(
        (
            classmethod, staticmethod, property, io.TextIOWrapper, memoryview, CellType, GetSetDescriptorType,
            MethodType, MappingProxyType, WeakSet, type({}.keys()), type({}.values()), type({}.items()),
        ),
        _reduce_by_cloudpickle,
    ),
}  # fmt: skip
"""By the exact class of a value. The last group is what cloudpickle adds to pickle for built-in types."""

if _TypeAlias is not None:
    REDUCERS[_TypeAlias] = _reduce_alias
