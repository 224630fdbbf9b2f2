"""The arguments of ``init``, without a node: those that it takes, and the errors for all others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from asyncray.api.init_arguments import InitArguments


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("asyncray")
    level = logger.level
    yield logger
    logger.setLevel(level)


def check(address: object = "local", **options: Any) -> None:
    InitArguments.read(options).check(address)


def test_the_defaults_of_ray_pass() -> None:
    check(
        num_cpus=None, num_gpus=None, resources=None, labels=None, object_store_memory=None, local_mode=False,
        ignore_reinit_error=False, include_dashboard=None, dashboard_host="127.0.0.1", dashboard_port=None,
        job_config=None, configure_logging=True, logging_level="info", logging_format=None, logging_config=None,
        log_to_driver=None, namespace=None, runtime_env=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"include_dashboard": False},
        {"dashboard_host": "0.0.0.0", "dashboard_port": 8265},
        {"configure_logging": False, "logging_format": "%(message)s"},
        {"labels": {}, "runtime_env": {}, "job_config": {}, "logging_config": {}},
        {"local_mode": None},
        {"logging_level": logging.DEBUG},
        {"object_store_memory": 78643200},
        {"object_store_memory": 1e8},
        {"num_gpus": 2.0},
        {"num_cpus": 0, "num_gpus": 0, "resources": {"disk": 0.5}},
    ],
)
def test_what_changes_nothing_passes(options: dict[str, Any]) -> None:
    check(**options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("labels", {"zone": "a"}),
        ("local_mode", True),
        ("include_dashboard", True),
        ("job_config", object()),
        ("logging_config", object()),
        ("runtime_env", {"env_vars": {"TOKEN": "secret"}}),
        ("runtime_env", []),
    ],
)
def test_what_this_release_does_not_have_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{name}.*This release of asyncray has no") as caught:
        check(**{name: value})
    assert "secret" not in str(caught.value)


def test_unknown_keywords_are_named() -> None:
    with pytest.raises(RuntimeError, match="num_gpu, numcpus"):
        InitArguments.read({"numcpus": 2, "num_gpu": 1, "num_cpus": 2})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"address": 5}, TypeError, "The address must be a string, not int"),
        ({"namespace": 5}, TypeError, "The namespace must be a string, not int"),
        ({"namespace": ""}, ValueError, '"" is not a valid namespace'),
        ({"num_cpus": -1}, ValueError, "num_cpus must be a number that is not negative"),
        ({"num_cpus": "two"}, ValueError, "num_cpus must be a number that is not negative"),
        ({"num_cpus": float("nan")}, ValueError, "num_cpus"),
        ({"object_store_memory": float("inf")}, ValueError, "object_store_memory"),
        ({"num_gpus": 0.5}, ValueError, "num_gpus must be a whole number, not 0.5"),
        ({"object_store_memory": 0}, ValueError, "0 bytes, but the minimum allowed is 78643200 bytes"),
        ({"object_store_memory": 78643199}, ValueError, "78643199 bytes, but the minimum allowed is 78643200 bytes"),
        ({"resources": [1]}, TypeError, "resources must be a dict"),
        ({"resources": {"GPU": 1}}, ValueError, "num_gpus"),
        ({"resources": {"disk": -1}}, ValueError, "'disk' to -1"),
        ({"logging_level": "loud"}, ValueError, "logging_level must be one of .*INFO.*, not 'loud'"),
        ({"logging_level": 2.5}, TypeError, "logging_level must be a name or a number, not float"),
    ],
)
def test_nonsense_is_told(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check(**options)


def test_a_node_that_runs_has_its_amounts() -> None:
    check("auto", namespace="shop", log_to_driver=False)
    with pytest.raises(ValueError, match=r"num_cpus, object_store_memory must not be provided\."):
        check("auto", num_cpus=1, object_store_memory=10**9)
    for labels in ({"zone": "a"}, {}):
        with pytest.raises(ValueError, match=r"labels must not be provided\."):
            check("auto", labels=labels, resources={})


@pytest.mark.parametrize("level", ["warning", "WARNING", logging.WARNING])
def test_the_level_of_the_logger(logger: logging.Logger, level: object) -> None:
    logger.setLevel(logging.DEBUG)
    InitArguments.read({}).configure()
    InitArguments.read({"logging_level": level, "configure_logging": False}).configure()
    assert logger.level == logging.DEBUG
    InitArguments.read({"logging_level": level}).configure()
    assert logger.level == logging.WARNING


def test_slips_are_told_what_was_meant() -> None:
    with pytest.raises(
        RuntimeError, match=r"^Unknown keyword argument\(s\) of init: num_cpu\. Did you mean 'num_cpus'\?$"
    ):
        check(num_cpu=2)
    with pytest.raises(RuntimeError, match=r"init: nonsense\.$"):
        check(nonsense=2)
    with pytest.raises(TypeError, match=r"not int\. Did you mean init\(num_cpus=4\)\?$"):
        check(4)
    with pytest.raises(ValueError, match=r"num_cpus must not be provided\. ASYNCRAY_ADDRESS=auto names that node"):
        InitArguments.read({"num_cpus": 2}).check("auto", "ASYNCRAY_ADDRESS")
