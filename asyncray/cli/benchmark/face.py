"""The module under test: ``asyncray.sync``, or any other with Ray's interface.

ASYNCRAY_BENCHMARK_FACE=ray runs the same rows on Ray, where that is installed: the same work, the same hour, the same
machine. Row code takes ``ray`` from here and uses nothing that Ray does not have.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

VARIABLE = "ASYNCRAY_BENCHMARK_FACE"
NAME = os.environ.get(VARIABLE, "asyncray.sync")

if TYPE_CHECKING:
    import asyncray.sync as ray
else:
    ray = importlib.import_module(NAME)

__all__ = ["NAME", "VARIABLE", "ray"]
