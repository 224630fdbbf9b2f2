"""The options for type checkers have the names of those that are checked at run time."""

from __future__ import annotations

from typing import get_type_hints

from asyncray.api import option_types as types
from asyncray.api.init_arguments import InitArguments
from asyncray.api.options import ACTOR_OPTIONS, METHOD_OPTIONS, TASK_OPTIONS


def names(options: type) -> set[str]:
    return set(get_type_hints(options))


def test_each_option_is_in_both() -> None:
    assert names(types.TaskOptions) == set(TASK_OPTIONS) - {"num_returns", "max_calls"}
    assert names(types.ActorOptions) == set(ACTOR_OPTIONS)
    assert names(types.RemoteOptions) == (set(TASK_OPTIONS) | set(ACTOR_OPTIONS)) - {"num_returns"}
    assert names(types.MethodOptions) == set(METHOD_OPTIONS) - {"num_returns"}
    assert names(types.InitOptions) == set(InitArguments._fields)
