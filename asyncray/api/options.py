"""The options of tasks, actors and methods: their names, types, defaults and checks.

Owns the three tables, the check of a mapping against its table, the merge of two mappings for ``.options()``, and the
resources that options ask for.

Promises: a checked value is of the right type, in range and in the form that is kept (memory in whole bytes, amounts in
multiples of 0.0001, lists of exceptions as tuples, dicts copied); error types and messages are those that programs for
Ray match on. A mapping holds only what the program named; ``None`` stands for the default, as everywhere in Ray.

Does not: look at the function or class that the options are for, nor into a runtime environment or a strategy object.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from asyncray.api.hints import did_you_mean
from asyncray.api.strategies import SchedulingStrategy
from asyncray.units import UNIT

Check = Callable[[str, Any], object]
"""(name, value that is not None) -> the value to keep. Raises ValueError, or TypeError for an item inside the value."""


class Option(NamedTuple):
    """One row of a table."""

    types: type | tuple[type, ...]
    default: object = None
    check: Check | None = None

    def clean(self, name: str, value: object) -> object:
        """The value to keep. Raises TypeError or ValueError."""
        if not isinstance(value, self.types):
            raise TypeError(f"The type of keyword '{name}' must be {self.types}, but received type {type(value)}")
        return value if value is None or self.check is None else self.check(name, value)


Table = Mapping[str, Option]


# Numbers

_LARGEST = 2**31 - 1
"""Of numbers that are counted: as in Ray, and as far as an index of a return value goes."""

_LARGEST_AMOUNT = 2**62 // UNIT
"""Of a resource: no machine has more, and messages carry no larger integers."""


def _at_least(lowest: int, accepted: str) -> Check:
    def check(name: str, value: int) -> int:
        if value < lowest:
            raise ValueError(f"The keyword '{name}' only accepts {accepted}")
        if value > _LARGEST:
            raise ValueError(f"The keyword '{name}' only accepts numbers up to {_LARGEST}, but received {value}")
        return value

    return check


_counted = _at_least(0, "None, 0 or a positive integer.")
_counted_or_infinite = _at_least(-1, "None, 0, -1 or a positive integer, where -1 represents infinity.")
_concurrency = _at_least(1, "None or a positive integer: max_concurrency must be greater than 0.")


def _num_returns(name: str, value: int | str) -> int | str:
    if value == "streaming" if isinstance(value, str) else 0 <= value < _LARGEST:
        return value
    raise ValueError(
        f"The keyword '{name}' only accepts None, a non-negative integer, 'streaming' (for generators), or 'dynamic'"
        f" (which is old and left out here: use 'streaming'), but received {value!r}"
    )


def _backpressure(name: str, value: int) -> int:
    if value == 0 or value < -1:
        raise ValueError(f"{name}={value} is not allowed. Use a value > 0, or -1 to switch it off.")
    return value


# Resources


def check_amount(name: str, amount: float) -> float:
    if not 0 <= amount < float("inf"):
        problem = "cannot be negative" if amount < 0 else f"must be a finite number, but is {amount}"
        raise ValueError(f"The quantity of resource {name} {problem}")
    if amount > _LARGEST_AMOUNT:
        raise ValueError(f"The quantity of resource {name} can be {_LARGEST_AMOUNT} at most, but is {amount}")
    if 0 < amount * UNIT < 1:
        raise ValueError(
            f"The precision of the fractional quantity of resource {name} cannot go beyond 0.0001, but it is {amount}"
        )
    # Down, so that six tasks of 1/6 fit in 1. The millionth is for floats: 0.29 * 10000 is 2899.9999999999995.
    return amount if isinstance(amount, int) else int(amount * UNIT + 1e-6) / UNIT


def _gpus(name: str, amount: float) -> float:
    if amount > 1 and amount % 1:
        raise ValueError(f"The quantity of resource {name} must be whole when it is greater than 1, but is {amount}")
    return check_amount(name, amount)


def _memory(name: str, amount: float) -> int:
    return int(check_amount(name, amount))


_OWN_KEYWORDS = {
    "CPU": "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword",
    "GPU": "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword",
    "memory": "Use the 'memory' keyword instead of 'memory' in 'resources' keyword",
    "object_store_memory": "'object_store_memory' is the node's own and cannot be asked for in 'resources' keyword",
}


def _resources(name: str, value: dict[Any, Any]) -> dict[str, float]:
    for resource, amount in value.items():
        if not isinstance(resource, str) or not isinstance(amount, int | float):
            raise TypeError(f"'{name}' must map str to int or float, but has {resource!r}: {amount!r}")
        if resource in _OWN_KEYWORDS:
            raise ValueError(_OWN_KEYWORDS[resource])
    return {resource: check_amount(resource, amount) for resource, amount in value.items()}


# Where it runs


def _strategy(name: str, value: object) -> object:
    if isinstance(value, str):
        if value not in ("DEFAULT", "SPREAD"):
            raise ValueError(f"Invalid {name} {value!r}: use 'DEFAULT', 'SPREAD' or a strategy object.")
    elif not isinstance(value, SchedulingStrategy):
        raise TypeError(f"The type of keyword '{name}' must be str or a strategy, but received type {type(value)}")
    return value


_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = rf"([A-Za-z0-9]([A-Za-z0-9.-]{{0,251}}[A-Za-z0-9])?/)?{_LABEL_NAME}"
_LABEL_VALUE = rf"!?{_LABEL_NAME}|!?in\({_LABEL_NAME}(, ?{_LABEL_NAME})*\)|"


def check_labels(name: str, value: dict[Any, Any]) -> dict[str, str]:
    import re  # start-up cost, for an option that few programs name

    for key, expression in value.items():
        if not isinstance(key, str) or not isinstance(expression, str):
            raise TypeError(f"'{name}' must map str to str, but has {key!r}: {expression!r}")
        if not re.fullmatch(_LABEL_KEY, key):
            raise ValueError(f"Invalid label key {key!r} in '{name}': it must be [prefix/]name.")
        if not re.fullmatch(_LABEL_VALUE, expression):
            raise ValueError(
                f"Invalid label selector value {expression!r} in '{name}': it must be value, !value, in(a, b) or"
                " !in(a, b), with values of at most 63 letters, digits, '-', '_' and '.'."
            )
    return dict(value)


def _fallbacks(name: str, value: list[Any]) -> list[dict[str, dict[str, str]]]:
    for fallback in value:
        if not isinstance(fallback, dict):
            raise TypeError(f"Each element in {name} must be a dictionary, but one is {fallback!r}")
        if list(fallback) != ["label_selector"]:
            raise ValueError(f"Each element in {name} must have 'label_selector' and nothing else, not {fallback!r}")
        if not isinstance(fallback["label_selector"], dict):
            raise TypeError(f"The value of 'label_selector' in {name} must be a dictionary, not {fallback!r}")
    return [{"label_selector": check_labels(name, fallback["label_selector"])} for fallback in value]


# The rest


def _copied(name: str, value: dict[Any, Any]) -> dict[Any, Any]:
    return dict(value)


def _retry_exceptions(name: str, value: Any) -> bool | tuple[type[Exception], ...]:
    if isinstance(value, bool):
        return value
    if not all(isinstance(item, type) and issubclass(item, Exception) for item in value):
        raise ValueError(f"{name} must be either a boolean or a list of exceptions, but is {value!r}")
    return tuple(value)


def _lifetime(name: str, value: str) -> str:
    if value not in ("detached", "non_detached"):
        raise ValueError(f"actor `{name}` argument must be one of 'detached', 'non_detached' and 'None', not {value!r}")
    return value


def _actor_name(name: str, value: str) -> str:
    if not value:
        raise ValueError("Actor name cannot be an empty string.")
    return value


def _namespace(name: str, value: str) -> str:
    if not value:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')
    return value


def _groups(name: str, value: dict[Any, Any]) -> dict[str, int]:
    for group, size in value.items():
        if not isinstance(group, str) or not isinstance(size, int):
            raise TypeError(f"'{name}' must map str to int, but has {group!r}: {size!r}")
        if size < 1:
            raise ValueError(f"max_concurrency must be greater than 0, but is {size} for the group '{group}'.")
    return dict(value)


# The tables

_INT = (int, NoneType)
_STR = (str, NoneType)
_DICT = (dict, NoneType)
_AMOUNT = (float, int, NoneType)

_COMMON: dict[str, Option] = {
    "num_cpus": Option(_AMOUNT, check=check_amount),
    "num_gpus": Option(_AMOUNT, check=_gpus),
    "memory": Option(_AMOUNT, check=_memory),
    "resources": Option(_DICT, check=_resources),
    "accelerator_type": Option(_STR),
    "label_selector": Option(_DICT, check=check_labels),
    "fallback_strategy": Option((list, NoneType), check=_fallbacks),
    "scheduling_strategy": Option(object, check=_strategy),
    "name": Option(_STR),
    "runtime_env": Option(_DICT, check=_copied),
    "enable_task_events": Option(bool, default=True),
}

TASK_OPTIONS: Table = MappingProxyType(
    _COMMON
    | {
        "num_cpus": Option(_AMOUNT, 1, check_amount),
        "num_returns": Option((int, str, NoneType), check=_num_returns),
        "max_retries": Option(_INT, 3, _counted_or_infinite),
        "retry_exceptions": Option((bool, list, tuple), default=False, check=_retry_exceptions),
        "max_calls": Option(_INT, 0, _counted),
        "_generator_backpressure_num_objects": Option(_INT, check=_backpressure),
    }
)

ACTOR_OPTIONS: Table = MappingProxyType(
    _COMMON
    | {
        "name": Option(_STR, check=_actor_name),
        "namespace": Option(_STR, check=_namespace),
        "get_if_exists": Option(bool, default=False),
        "lifetime": Option(_STR, check=_lifetime),
        "max_restarts": Option(_INT, 0, _counted_or_infinite),
        "max_task_retries": Option(_INT, 0, _counted_or_infinite),
        "max_concurrency": Option(_INT, check=_concurrency),
        "max_pending_calls": Option(_INT, -1, _counted_or_infinite),
        "concurrency_groups": Option(_DICT, check=_groups),
        "allow_out_of_order_execution": Option((bool, NoneType)),
    }
)

METHOD_OPTIONS: Table = MappingProxyType(
    {
        "num_returns": Option((int, str, NoneType), check=_num_returns),
        "name": Option(_STR),
        "concurrency_group": Option(_STR),
        # None: the option of the actor counts.
        "max_task_retries": Option(_INT, check=_counted_or_infinite),
        "retry_exceptions": Option((bool, list, tuple), default=False, check=_retry_exceptions),
        "enable_task_events": Option((bool, NoneType)),
        "_generator_backpressure_num_objects": Option(_INT, check=_backpressure),
    }
)


# Features that this release lacks

_ABSENT_FEATURES = {
    "runtime_env": "runtime environments: set variables and paths before the node starts",
    "concurrency_groups": "concurrency groups: max_concurrency holds for all methods of an actor",
    "concurrency_group": "concurrency groups: max_concurrency holds for all methods of an actor",
}


def reject_unsupported(options: dict[str, object]) -> dict[str, object]:
    """The same checked options, none of which asks for a feature that this release lacks: to ignore it would be a lie.

    Raises:
        ValueError: an option asks for one.
    """
    for name, value in options.items():
        if value and name in _ABSENT_FEATURES:
            raise ValueError(f"The option {name} cannot be used yet: this release has no {_ABSENT_FEATURES[name]}.")
    return options


# Checking


def _unknown(name: str, valid: list[str], kind: str) -> ValueError:
    return ValueError(f"Invalid option keyword {name} for {kind}. Valid ones are {valid}.{did_you_mean(name, valid)}")


def _validate(table: Table, options: Mapping[str, object], kind: str) -> dict[str, object]:
    cleaned: dict[str, object] = {}
    for name, value in options.items():
        option = table.get(name)
        if option is None:
            raise _unknown(name, list(table), kind)
        cleaned[name] = option.clean(name, value)
    return cleaned


def _refuse_in_options(options: Mapping[str, object], name: str) -> None:
    if name in options:
        raise ValueError(f"Setting '{name}' is not supported in '.options()'.")


def validate_task_options(options: Mapping[str, object], *, in_options: bool) -> dict[str, object]:
    """Checks the options of a task.

    Args:
        options: What the program named, by keyword.
        in_options: True for ``.options(...)``, False for the decorator.

    Returns:
        The same names with the values to keep. Defaults are not filled in.

    Raises:
        TypeError: A value has the wrong type.
        ValueError: A name is unknown or not allowed here, or a value is out of range.

    Example:
        >>> validate_task_options({"memory": 10.7}, in_options=False)
        {'memory': 10}
    """
    if in_options:
        _refuse_in_options(options, "max_calls")
    return _validate(TASK_OPTIONS, options, "remote functions")


def validate_actor_options(options: Mapping[str, object], *, in_options: bool) -> dict[str, object]:
    """Checks the options of an actor class. Arguments, result and errors as of ``validate_task_options``.

    For the decorator this also checks that ``get_if_exists`` comes with a name. For ``.options``,
    ``override_actor_options`` checks it, because the name may come from the decorator.
    """
    if in_options:
        _refuse_in_options(options, "concurrency_groups")
    cleaned = _validate(ACTOR_OPTIONS, options, "actors")
    if not in_options:
        _check_get_if_exists(cleaned)
    return cleaned


def validate_method_options(options: Mapping[str, object], *, in_options: bool) -> dict[str, object]:
    """Checks the options of an actor's method. Arguments, result and errors as of ``validate_task_options``.

    ``name`` belongs to one call, hence to ``.options`` and not to ``@method``.
    """
    if not in_options and "name" in options:
        raise _unknown("name", [name for name in METHOD_OPTIONS if name != "name"], "the method decorator")
    return _validate(METHOD_OPTIONS, options, "actor methods")


def _check_get_if_exists(options: Mapping[str, object]) -> None:
    if options.get("get_if_exists") and options.get("name") is None:
        raise ValueError("The actor name must be specified to use `get_if_exists`.")


# Two mappings, and the defaults


def override_task_options(options: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """The options of ``f.options(**overrides)``: the checked overrides, and all others from ``options``.

    Example:
        >>> override_task_options({"num_cpus": 2, "max_retries": 1}, {"max_retries": 0})
        {'num_cpus': 2, 'max_retries': 0}
    """
    return {**options, **validate_task_options(overrides, in_options=True)}


def override_actor_options(options: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """The options of ``A.options(**overrides)``. See ``override_task_options``."""
    merged = {**options, **validate_actor_options(overrides, in_options=True)}
    _check_get_if_exists(merged)
    return merged


def override_method_options(options: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, object]:
    """The options of ``handle.m.options(**overrides)``. See ``override_task_options``."""
    return {**options, **validate_method_options(overrides, in_options=True)}


def default_max_retries() -> int:
    """The ``max_retries`` of a task that names none: ASYNCRAY_TASK_MAX_RETRIES, or 3.

    Read at each call and not at import, because programs set the variable themselves, before they define functions.

    Raises:
        ValueError: The variable is not an integer of -1 or more.
    """
    text = os.environ.get("ASYNCRAY_TASK_MAX_RETRIES", "3")
    try:
        retries = int(text)
    except ValueError:
        retries = -2
    if retries < -1:
        raise ValueError(f"ASYNCRAY_TASK_MAX_RETRIES must be an integer of -1 or more, not {text!r}")
    return retries


def _with_defaults(table: Table, options: Mapping[str, object]) -> dict[str, object]:
    named = {name: value for name, value in options.items() if value is not None}
    return {name: named.get(name, option.default) for name, option in table.items()}


def complete_task_options(options: Mapping[str, object]) -> dict[str, object]:
    """Every option of a task: from the checked ``options``, or its default where it is absent or None.

    A task with GPUs has ``max_calls`` 1 unless it names another: the process ends, and the device's memory is free.

    Example:
        >>> complete_task_options({"num_gpus": 1})["max_calls"]
        1
    """
    complete = _with_defaults(TASK_OPTIONS, options)
    if options.get("max_retries") is None:
        complete["max_retries"] = default_max_retries()
    if options.get("max_calls") is None and complete["num_gpus"]:
        complete["max_calls"] = 1
    return complete


def complete_actor_options(options: Mapping[str, object]) -> dict[str, object]:
    """Every option of an actor: from the checked ``options``, or its default where it is absent or None."""
    return _with_defaults(ACTOR_OPTIONS, options)


def complete_method_options(options: Mapping[str, object]) -> dict[str, object]:
    """Every option of a method: from the checked ``options``, or its default where it is absent or None."""
    return _with_defaults(METHOD_OPTIONS, options)


# Resources that options ask for


def task_demand(options: Mapping[str, Any]) -> dict[str, float]:
    """The resources of a task with these checked options; defaults need not be filled in. Zero amounts are dropped.

    Example:
        >>> task_demand({"num_gpus": 0.5, "accelerator_type": "T4"})
        {'CPU': 1, 'GPU': 0.5, 'accelerator_type:T4': 0.001}
    """
    return _demand(options, 1)


class ActorDemand(NamedTuple):
    """The resources that an actor needs to be placed, and those of them that it holds for life."""

    placement: dict[str, float]
    lifetime: dict[str, float]


def actor_demand(options: Mapping[str, Any]) -> ActorDemand:
    """The resources of an actor with these checked options. Zero amounts are dropped.

    An actor that names no CPUs needs one to be placed, so that many actors spread and none goes to a node without CPUs.
    For life it holds none, so that any number of them fits on a node.

    Example:
        >>> actor_demand({"num_gpus": 1})
        ActorDemand(placement={'CPU': 1, 'GPU': 1}, lifetime={'GPU': 1})
    """
    return ActorDemand(_demand(options, 1), _demand(options, 0))


def _demand(options: Mapping[str, Any], cpus_unless_named: int) -> dict[str, float]:
    cpus = options.get("num_cpus")
    amounts: dict[str, float | None] = {
        "CPU": cpus_unless_named if cpus is None else cpus,
        "GPU": options.get("num_gpus"),
        "memory": options.get("memory"),
        **(options.get("resources") or {}),
    }
    accelerator = options.get("accelerator_type")
    if accelerator is not None:
        amounts[f"accelerator_type:{accelerator}"] = 0.001
    return {name: amount for name, amount in amounts.items() if amount}
