"""The first message of a driver, for tests that speak to a node by themselves."""

from __future__ import annotations

from typing import Any

from asyncray.runtime.interpreters import this_interpreter
from asyncray.words import JobSetup

SETUP: JobSetup = {
    "code_paths": {"before": [], "between": [], "after": [], "shadowed": []},
    "directory": None,
    "interpreter": this_interpreter(),
    "log_to_driver": True,
    "namespace": "raw",
}
DRIVER: dict[str, Any] = {"pid": 1, "namespace": "raw", "setup": SETUP}
