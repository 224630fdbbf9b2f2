from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncray.api import options
from asyncray.api.actor import method
from asyncray.api.decorator import remote
from asyncray.api.options import ActorDemand, actor_demand, reject_unsupported, task_demand
from asyncray.api.strategies import NodeAffinitySchedulingStrategy
from asyncray.units import fixed

Validate = Callable[..., dict[str, object]]

KINDS: dict[str, tuple[options.Table, Validate]] = {
    "task": (options.TASK_OPTIONS, options.validate_task_options),
    "actor": (options.ACTOR_OPTIONS, options.validate_actor_options),
    "method": (options.METHOD_OPTIONS, options.validate_method_options),
}


def clean(kind: str, given: Mapping[str, object], in_options: bool = False) -> dict[str, object]:
    return KINDS[kind][1](given, in_options=in_options)


# Every option of every table


@pytest.mark.parametrize("kind", KINDS)
def test_each_option_takes_its_default_and_refuses_a_foreign_type(kind: str) -> None:
    class Foreign:
        pass

    for name, option in KINDS[kind][0].items():
        in_options = kind == "method"
        assert clean(kind, {name: option.default}, in_options) == {name: option.default}
        if option.types is not object:
            with pytest.raises(TypeError) as caught:
                clean(kind, {name: Foreign()}, in_options)
            expected = f"The type of keyword '{name}' must be {option.types}, but received type {Foreign}"
            assert str(caught.value) == expected


def test_type_errors_are_worded_as_in_ray() -> None:
    with pytest.raises(TypeError) as caught:
        clean("task", {"max_retries": 3.5})
    assert str(caught.value) == (
        "The type of keyword 'max_retries' must be (<class 'int'>, <class 'NoneType'>),"
        " but received type <class 'float'>"
    )


COUNTED = "only accepts None, 0 or a positive integer"
INFINITE = "only accepts None, 0, -1 or a positive integer, where -1 represents infinity."
NUM_RETURNS = "only accepts None, a non-negative integer, 'streaming' (for generators), or 'dynamic'"
PRECISION = "The precision of the fractional quantity of resource {} cannot go beyond 0.0001"
RESOURCES = "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword"
EXCEPTIONS = "retry_exceptions must be either a boolean or a list of exceptions"
BACKPRESSURE = "backpressure_num_objects=0 is not allowed"


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        ("task", "max_calls", -1, f"The keyword 'max_calls' {COUNTED}"),
        ("task", "max_retries", -2, f"The keyword 'max_retries' {INFINITE}"),
        ("actor", "max_restarts", -2, f"The keyword 'max_restarts' {INFINITE}"),
        ("actor", "max_task_retries", -2, f"The keyword 'max_task_retries' {INFINITE}"),
        ("method", "max_task_retries", -2, f"The keyword 'max_task_retries' {INFINITE}"),
        ("actor", "max_pending_calls", -2, f"The keyword 'max_pending_calls' {INFINITE}"),
        ("actor", "max_concurrency", 0, "max_concurrency must be greater than 0"),
        ("actor", "concurrency_groups", {"io": 0}, "max_concurrency must be greater than 0"),
        ("task", "num_returns", -1, NUM_RETURNS),
        ("task", "num_returns", "dynamic", NUM_RETURNS),
        ("method", "num_returns", "many", NUM_RETURNS),
        ("task", "_generator_backpressure_num_objects", 0, BACKPRESSURE),
        ("method", "_generator_backpressure_num_objects", 0, BACKPRESSURE),
        ("task", "num_gpus", 0.0000001, PRECISION.format("num_gpus")),
        ("actor", "num_cpus", 0.00009, PRECISION.format("num_cpus")),
        ("task", "resources", {"x": 0.0000001}, PRECISION.format("x")),
        ("task", "num_gpus", 1.5, "num_gpus must be whole when it is greater than 1"),
        ("task", "num_cpus", -1, "The quantity of resource num_cpus cannot be negative"),
        ("task", "memory", -0.5, "The quantity of resource memory cannot be negative"),
        ("task", "resources", {"x": -1}, "The quantity of resource x cannot be negative"),
        ("task", "num_cpus", 1e30, "The quantity of resource num_cpus can be 461168601842738 at most, but is 1e+30"),
        ("task", "max_retries", 2**70, "'max_retries' only accepts numbers up to 2147483647, but received 118059"),
        ("task", "num_returns", 2**40, "The keyword 'num_returns' only accepts None, a non-negative integer"),
        ("task", "num_cpus", float("nan"), "must be a finite number"),
        ("task", "num_cpus", float("inf"), "must be a finite number"),
        ("task", "resources", {"CPU": 1}, RESOURCES),
        ("actor", "resources", {"GPU": 1}, RESOURCES),
        ("task", "resources", {"memory": 1}, "Use the 'memory' keyword"),
        ("task", "retry_exceptions", [ValueError, 3], EXCEPTIONS),
        ("method", "retry_exceptions", (KeyboardInterrupt,), EXCEPTIONS),
        ("task", "scheduling_strategy", "PACK", "'DEFAULT', 'SPREAD' or a strategy object"),
        ("task", "label_selector", {"-key": "x"}, "Invalid label key '-key'"),
        ("task", "label_selector", {"a/b/c": "x"}, "Invalid label key 'a/b/c'"),
        ("task", "label_selector", {"key": "a b"}, "Invalid label selector value 'a b'"),
        ("task", "label_selector", {"key": "in()"}, "Invalid label selector value 'in()'"),
        ("task", "label_selector", {"key": "x" * 64}, "Invalid label selector value"),
        ("actor", "fallback_strategy", [{"label_selector": {}, "num_cpus": 1}], "'label_selector' and nothing else"),
        ("actor", "fallback_strategy", [{"label_selector": {"k": "!!v"}}], "Invalid label selector value"),
        ("actor", "lifetime", "forever", "must be one of 'detached', 'non_detached' and 'None'"),
        ("actor", "name", "", "Actor name cannot be an empty string"),
        ("actor", "namespace", "", "is not a valid namespace"),
        ("actor", "get_if_exists", True, "The actor name must be specified to use `get_if_exists`."),
    ],
)
def test_values_out_of_range_are_value_errors(kind: str, name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        clean(kind, {name: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resources", {"x": "1"}),
        ("resources", {1: 1}),
        ("label_selector", {"key": 1}),
        ("label_selector", ["key"]),
        ("fallback_strategy", ["key"]),
        ("fallback_strategy", [{"label_selector": ["key"]}]),
        ("concurrency_groups", {"io": 1.5}),
        ("scheduling_strategy", 3),
        ("name", 1),
        ("namespace", 2),
    ],
)
def test_types_inside_of_values_are_checked(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=name):
        clean("actor", {name: value})


@pytest.mark.parametrize(
    ("kind", "name", "value", "kept"),
    [
        ("task", "num_cpus", True, 1),
        ("task", "num_cpus", 0.29, 0.29),
        ("task", "num_gpus", 2.0, 2.0),
        ("task", "num_gpus", 1 / 3, 0.3333),
        ("task", "memory", 1024.9, 1024),
        ("task", "resources", {"x": 1.23456, "y": 2}, {"x": 1.2345, "y": 2}),
        ("task", "num_returns", "streaming", "streaming"),
        ("task", "num_returns", 0, 0),
        ("task", "retry_exceptions", [ValueError, OSError], (ValueError, OSError)),
        ("task", "scheduling_strategy", "SPREAD", "SPREAD"),
        ("task", "max_retries", -1, -1),
        ("method", "_generator_backpressure_num_objects", -1, -1),
        ("actor", "concurrency_groups", {"io": 2}, {"io": 2}),
        ("actor", "label_selector", {"ray.io/zone": "!in(a, b-c)", "k": "!v", "l": "in(a)"}, None),
        ("actor", "fallback_strategy", [{"label_selector": {"k": "v"}}], None),
    ],
)
def test_kept_values(kind: str, name: str, value: object, kept: object) -> None:
    assert clean(kind, {name: value}) == {name: value if kept is None else kept}


def test_strategy_objects_pass_and_dicts_are_copied() -> None:
    strategy = NodeAffinitySchedulingStrategy("ab", soft=True)
    assert clean("task", {"scheduling_strategy": strategy}) == {"scheduling_strategy": strategy}
    for name in ("resources", "runtime_env", "label_selector"):
        mine: dict[str, object] = {}
        assert clean("task", {name: mine})[name] is not mine


# Names


@pytest.mark.parametrize(
    ("kind", "name", "suggestion"),
    [
        ("task", "max_retrys", "max_retries"),
        ("task", "max_restarts", "max_retries"),
        ("actor", "num_cpu", "num_cpus"),
        ("method", "num_return", "num_returns"),
    ],
)
def test_unknown_names_are_told_with_the_valid_ones(kind: str, name: str, suggestion: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid option keyword {name} for ") as caught:
        clean(kind, {name: 1})
    assert str(caught.value).endswith(f"Valid ones are {list(KINDS[kind][0])}. Did you mean '{suggestion}'?")


@pytest.mark.parametrize("name", ["placement_group", "placement_group_bundle_index", "_metadata", "_labels"])
def test_old_and_internal_options_are_unknown(name: str) -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=f"Invalid option keyword {name}"):
            clean(kind, {name: None})


def test_what_belongs_to_one_place_only() -> None:
    for kind, name in (("task", "max_calls"), ("actor", "concurrency_groups")):
        clean(kind, {name: None})
        with pytest.raises(ValueError) as caught:
            clean(kind, {name: None}, in_options=True)
        assert str(caught.value) == f"Setting '{name}' is not supported in '.options()'."
    clean("method", {"name": "call"}, in_options=True)
    with pytest.raises(ValueError, match="Invalid option keyword name"):
        clean("method", {"name": "call"})


# Overrides and defaults


def test_overrides_keep_what_they_do_not_name() -> None:
    decorated = clean("task", {"num_cpus": 2, "max_calls": 1, "retry_exceptions": True})
    assert options.override_task_options(decorated, {"num_cpus": 0.5, "name": "t"}) == {
        "num_cpus": 0.5,
        "max_calls": 1,
        "retry_exceptions": True,
        "name": "t",
    }
    assert decorated["num_cpus"] == 2
    groups = clean("actor", {"concurrency_groups": {"io": 1}, "max_restarts": 1})
    assert options.override_actor_options(groups, {"max_restarts": 2}) == {**groups, "max_restarts": 2}
    assert options.override_method_options({"num_returns": 2}, {"name": "m"}) == {"num_returns": 2, "name": "m"}


def test_get_if_exists_and_its_name_may_stand_apart() -> None:
    named = clean("actor", {"name": "x"})
    assert options.override_actor_options(named, {"get_if_exists": True})["name"] == "x"
    with pytest.raises(ValueError, match="actor name must be specified"):
        options.override_actor_options({}, {"get_if_exists": True})


def test_defaults_are_those_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASYNCRAY_TASK_MAX_RETRIES", raising=False)
    task = options.complete_task_options({"max_retries": None, "num_returns": 2})
    assert task == dict.fromkeys(options.TASK_OPTIONS) | {
        "num_cpus": 1,
        "num_returns": 2,
        "max_retries": 3,
        "retry_exceptions": False,
        "max_calls": 0,
        "enable_task_events": True,
    }
    assert options.complete_actor_options({}) == dict.fromkeys(options.ACTOR_OPTIONS) | {
        "enable_task_events": True,
        "get_if_exists": False,
        "max_restarts": 0,
        "max_task_retries": 0,
        "max_pending_calls": -1,
    }
    assert options.complete_method_options({}) == dict.fromkeys(options.METHOD_OPTIONS) | {"retry_exceptions": False}


def test_gpu_tasks_end_their_process_unless_they_say_otherwise() -> None:
    assert options.complete_task_options({"num_gpus": 0.5})["max_calls"] == 1
    assert options.complete_task_options({"num_gpus": 0.5, "max_calls": 0})["max_calls"] == 0
    assert options.complete_task_options({"num_gpus": 0})["max_calls"] == 0


def test_the_environment_changes_the_default_of_max_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TASK_MAX_RETRIES", "-1")
    assert options.complete_task_options({})["max_retries"] == -1
    assert options.complete_task_options({"max_retries": 0})["max_retries"] == 0
    for text in ("many", "-2", ""):
        monkeypatch.setenv("ASYNCRAY_TASK_MAX_RETRIES", text)
        with pytest.raises(ValueError, match="ASYNCRAY_TASK_MAX_RETRIES must be an integer"):
            options.complete_task_options({})


# Resources


@pytest.mark.parametrize(
    ("given", "demand"),
    [
        ({}, {"CPU": 1}),
        ({"num_cpus": None}, {"CPU": 1}),
        ({"num_cpus": 0}, {}),
        ({"num_cpus": 2, "num_gpus": 1, "memory": 5}, {"CPU": 2, "GPU": 1, "memory": 5}),
        ({"num_cpus": 0, "resources": {"x": 2, "y": 0}, "num_gpus": 0, "memory": 0}, {"x": 2}),
        ({"accelerator_type": "T4"}, {"CPU": 1, "accelerator_type:T4": 0.001}),
    ],
)
def test_demand_of_a_task(given: dict[str, object], demand: dict[str, float]) -> None:
    cleaned = clean("task", given)
    assert task_demand(cleaned) == demand
    assert task_demand(options.complete_task_options(cleaned)) == demand


@pytest.mark.parametrize(
    ("given", "demand"),
    [
        ({}, ActorDemand({"CPU": 1}, {})),
        ({"num_cpus": 0}, ActorDemand({}, {})),
        ({"num_cpus": 1}, ActorDemand({"CPU": 1}, {"CPU": 1})),
        ({"num_gpus": 1}, ActorDemand({"CPU": 1, "GPU": 1}, {"GPU": 1})),
        ({"num_cpus": 0, "resources": {"x": 1}}, ActorDemand({"x": 1}, {"x": 1})),
    ],
)
def test_demand_of_an_actor(given: dict[str, object], demand: ActorDemand) -> None:
    cleaned = clean("actor", given)
    assert actor_demand(cleaned) == demand
    assert actor_demand(options.complete_actor_options(cleaned)) == demand


@settings(deadline=None)  # the machine is shared
@given(st.one_of(st.floats(0.0001, 10_000), st.integers(0, 10_000).map(lambda units: units / 10_000)))
def test_amounts_are_kept_in_units_rounded_down(amount: float) -> None:
    kept: Any = clean("task", {"num_cpus": amount})["num_cpus"]
    units = dict(fixed({"CPU": kept})).get("CPU", 0)
    assert kept == units / 10_000
    # A millionth of a unit is forgiven, because most decimal fractions are no floats.
    assert units <= Fraction(amount) * 10_000 + Fraction(1, 10**5) < units + 1 + Fraction(2, 10**5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("runtime_env", {"env_vars": {"A": "1"}}),
        ("concurrency_groups", {"io": 2}),
    ],
)
def test_what_is_not_there_is_refused_and_not_ignored(name: str, value: object) -> None:
    class Plain: ...

    def function() -> None: ...

    for target in (Plain, function) if name != "concurrency_groups" else (Plain,):
        options: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match="release has no"):
            remote(**options)(target)
        options[name] = None
        remote(**options)(target)
        if name != "concurrency_groups":
            plain: Any = remote(target)
            with pytest.raises(ValueError, match="release has no"):
                plain.options(**{name: value})
    assert reject_unsupported({"scheduling_strategy": "SPREAD", "runtime_env": {}, "num_cpus": 1})
    with pytest.raises(ValueError, match="release has no concurrency groups"):
        method(concurrency_group="io")


def test_a_generator_function_needs_the_number_of_its_values() -> None:
    @remote
    def generate() -> Any:
        yield 1

    for function in (generate, generate.options(num_returns="streaming")):
        with pytest.raises(ValueError, match="one by one"):
            function._make_template(cast(Any, None), function._options)
