"""The templates and functions that a simulated worker knows, and the refs that functions capture.

A function that captures refs is a ``Content`` with these refs. A worker loads it with the first task that runs it: then
the refs are variables of the process, until the function is taken back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncray.messages import Received
from tests.core.programs import Content

if TYPE_CHECKING:
    from tests.core.processes import Worker


class Definitions:
    """The definitions of one worker, as DEFINE and UNDEFINE say."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.templates: dict[int, int] = {}  # number -> number of its function, 0 for none
        self.functions: dict[int, Any] = {}
        self._captured: dict[int, tuple[bytes, ...]] = {}  # by loaded functions

    def define(self, message: Received) -> None:
        _, number, spec, code = message
        assert (code is None) == (spec["function"] in self.functions), "a function is sent once"
        self.functions.setdefault(spec["function"], code)
        self.templates[number] = spec["function"]

    def undefine(self, message: Received) -> None:
        _, templates, functions = message
        for number in templates:
            del self.templates[number]
        for number in functions:
            del self.functions[number]
            for ref in self._captured.pop(number, ()):
                self._worker.drop(ref)

    def load(self, template: int) -> tuple[bytes, ...]:
        """Returns the refs that the function of a template captures."""
        number = self.templates.get(template)
        if number is None:
            return ()  # the daemon has ended the task
        code = self.functions[number]
        if not isinstance(code, Content):
            return ()
        if number not in self._captured:
            self._captured[number] = code.refs
            for ref in code.refs:
                self._worker.hold(ref)
        return code.refs
