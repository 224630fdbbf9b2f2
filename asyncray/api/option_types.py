"""The options of ``init``, tasks, actors and methods for type checkers: their names and types.

Does not: matter at run time. ``asyncray.api.options`` and ``asyncray.api.init_arguments`` check the values, and a test
holds the names here against theirs. ``num_returns`` is missing, because overloads have it as a parameter of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from asyncray.api.strategies import SchedulingStrategy

Exceptions = Sequence[type[BaseException]]
Strategy = SchedulingStrategy | Literal["DEFAULT", "SPREAD"] | None


class CommonOptions(TypedDict, total=False):
    """Options of tasks and of actors."""

    num_cpus: float | None
    num_gpus: float | None
    memory: float | None
    resources: Mapping[str, float] | None
    accelerator_type: str | None
    label_selector: Mapping[str, str] | None
    fallback_strategy: list[dict[str, Any]] | None
    scheduling_strategy: Strategy
    name: str | None
    runtime_env: dict[str, Any] | None
    enable_task_events: bool


class TaskOptions(CommonOptions, total=False):
    """Options of tasks."""

    max_retries: int | None
    retry_exceptions: bool | Exceptions
    _generator_backpressure_num_objects: int | None


class ActorOptions(CommonOptions, total=False):
    """Options of actors."""

    namespace: str | None
    get_if_exists: bool
    lifetime: Literal["detached", "non_detached"] | None
    max_restarts: int | None
    max_task_retries: int | None
    max_concurrency: int | None
    max_pending_calls: int | None
    concurrency_groups: dict[str, int] | None
    allow_out_of_order_execution: bool | None


class RemoteOptions(TaskOptions, ActorOptions, total=False):
    """Options of the decorator, which does not know yet whether it decorates a function or a class."""

    max_calls: int | None


class MethodOptions(TypedDict, total=False):
    """Options of an actor's method."""

    name: str | None
    concurrency_group: str | None
    max_task_retries: int | None
    retry_exceptions: bool | Exceptions
    enable_task_events: bool | None
    _generator_backpressure_num_objects: int | None


class InitOptions(TypedDict, total=False):
    """Arguments of ``init`` besides the address."""

    num_cpus: float | None
    num_gpus: float | None
    resources: Mapping[str, float] | None
    labels: Mapping[str, str] | None
    object_store_memory: float | None
    local_mode: bool | None
    ignore_reinit_error: bool
    include_dashboard: bool | None
    dashboard_host: object
    dashboard_port: object
    job_config: object
    configure_logging: bool
    logging_level: str | int | None
    logging_format: object
    logging_config: object
    log_to_driver: bool | None
    namespace: str | None
    runtime_env: dict[str, Any] | None
