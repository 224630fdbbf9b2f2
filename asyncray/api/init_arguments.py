"""The arguments of ``init``: their names, defaults and checks, the same in both faces.

Promises: every argument of Ray's ``init`` is known by name. An argument that only tunes a
part of Ray which asyncray does not have is accepted. One that asks for a feature which this release lacks is refused:
to ignore it would be a lie.

Does not: start anything. The address is checked here for its type, and read by ``asyncray.runtime.launch.connect``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from asyncray.api.hints import did_you_mean
from asyncray.config import STORE_MINIMUM

if TYPE_CHECKING:
    from asyncray.words import NodeAmounts

_ABSENT_FEATURES: dict[str, tuple[object, str]] = {
    "labels": ({}, "labels of nodes"),
    "local_mode": (False, "local mode"),
    "include_dashboard": (False, "dashboard; `asyncray status` shows what a node does"),
    "job_config": ({}, "job configurations"),
    "logging_config": ({}, "logging configurations; logging_level is for this program"),
    "runtime_env": ({}, "runtime environments; set variables and paths before the node starts"),
}
"""Arguments for features that this release lacks: the value that passes besides None, and the feature."""


class InitArguments(NamedTuple):
    """The arguments of ``init`` besides the address. Names and defaults are Ray's, unless a comment says otherwise."""

    num_cpus: float | None = None
    num_gpus: float | None = None
    resources: dict[str, float] | None = None
    labels: dict[str, str] | None = None
    object_store_memory: int | None = None
    local_mode: bool | None = False
    ignore_reinit_error: bool = False
    include_dashboard: bool | None = None
    dashboard_host: object = "127.0.0.1"
    dashboard_port: object = None
    job_config: object = None
    configure_logging: bool = True
    # Ray's is "info". None does not import logging, which takes 4 ms.
    logging_level: str | int | None = None
    logging_format: object = None
    logging_config: object = None
    log_to_driver: bool | None = None  # None is True
    namespace: str | None = None
    runtime_env: dict[str, object] | None = None

    @classmethod
    def read(cls, options: dict[str, Any]) -> InitArguments:
        """The arguments from keywords.

        Raises:
            RuntimeError: an unknown one.
        """
        unknown = sorted(options.keys() - set(cls._fields))
        if unknown:
            hint = did_you_mean(unknown[0], cls._fields)
            raise RuntimeError(f"Unknown keyword argument(s) of init: {', '.join(unknown)}.{hint}")
        return cls(**options)

    @property
    def amounts(self) -> NodeAmounts:
        """The amounts of a new node."""
        return {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "resources": self.resources,
            "object_store_memory": self.object_store_memory,
        }

    def check(self, address: object, variable: str = "") -> None:
        """Raises TypeError or ValueError where something is not possible, or not at this address.

        Args:
            address: of the node; "local" for a new one.
            variable: the environment variable that the address comes from, if it does.
        """
        if not isinstance(address, str):
            hint = f" Did you mean init(num_cpus={address})?" if type(address) is int else ""
            raise TypeError(f"The address must be a string, not {type(address).__name__}.{hint}")
        if address != "local":
            self._check_connecting(f" {variable}={address} names that node: unset it to start one." if variable else "")
        for name, (nothing, what) in _ABSENT_FEATURES.items():
            value = getattr(self, name)
            if value is not None and not (type(value) is type(nothing) and value == nothing):
                raise ValueError(f"init({name}=...): leave it out. This release of asyncray has no {what}.")
        if self.namespace is not None:
            check_namespace(self.namespace)
        if self.logging_level is not None:
            _read_level(self.logging_level)
        for name in ("num_cpus", "num_gpus", "object_store_memory"):
            amount = getattr(self, name)
            if amount is not None and not _is_amount(amount):
                raise ValueError(f"{name} must be a number that is not negative, not {amount!r}.")
        if self.num_gpus is not None and self.num_gpus != int(self.num_gpus):
            raise ValueError(f"num_gpus must be a whole number, not {self.num_gpus!r}: tasks may ask for parts of one.")
        if self.object_store_memory is not None:
            check_store(self.object_store_memory)
        if self.resources is not None:
            check_resources(self.resources)

    def _check_connecting(self, reason: str) -> None:
        of_a_new_node = {**self.amounts, "labels": self.labels}
        given = [name for name, value in of_a_new_node.items() if value is not None]
        if given:
            raise ValueError(f"When connecting to an existing node, {', '.join(given)} must not be provided.{reason}")

    def configure(self) -> None:
        """Sets the level of this program's logger ``asyncray``, if that was asked for."""
        if self.configure_logging and self.logging_level is not None:
            import logging  # start-up cost: only those who ask

            logging.getLogger("asyncray").setLevel(_read_level(self.logging_level))


def check_namespace(namespace: object) -> None:
    """Raises TypeError or ValueError where this is no name of a namespace."""
    if not isinstance(namespace, str):
        raise TypeError(f"The namespace must be a string, not {type(namespace).__name__}.")
    if not namespace:
        raise ValueError('"" is not a valid namespace. Pass None to not specify a namespace.')


def check_store(size: float) -> None:
    """Raises ValueError where an object store of ``size`` bytes is too small."""
    if size < STORE_MINIMUM:
        raise ValueError(
            f"object_store_memory is {size:.15g} bytes, but the minimum allowed is {STORE_MINIMUM} bytes "
            f"({STORE_MINIMUM >> 20} MiB)."
        )


def check_resources(custom: object) -> None:
    """Raises TypeError or ValueError where custom resources are no dict of names and amounts."""
    if not isinstance(custom, dict):
        raise TypeError(f"resources must be a dict of names and numbers, not {type(custom).__name__}.")
    for name, amount in custom.items():
        if name in ("CPU", "GPU", "memory", "object_store_memory"):
            raise ValueError(f"Use num_cpus, num_gpus or object_store_memory instead of {name!r} in resources.")
        if not isinstance(name, str) or not _is_amount(amount):
            raise ValueError(f"resources must map names to numbers that are not negative, not {name!r} to {amount!r}.")


def _is_amount(amount: object) -> bool:
    return isinstance(amount, (int, float)) and 0 <= amount < float("inf")  # nan is neither


def _read_level(level: object) -> int:
    import logging  # start-up cost, as above

    if isinstance(level, str):
        levels = logging.getLevelNamesMapping()
        if level.upper() not in levels:
            raise ValueError(f"logging_level must be one of {', '.join(levels)}, not {level!r}.")
        return levels[level.upper()]
    if not isinstance(level, int):
        raise TypeError(f"logging_level must be a name or a number, not {type(level).__name__}.")
    return level
