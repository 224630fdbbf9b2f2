"""Running one invocation: bytes in, a message for the daemon out.

User code may do anything here: raise anything, return anything, take for ever. What it raises becomes a FAILED
message; only ``SystemExit`` goes through, for it ends the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from asyncray.messages import DONE, DONE_MANY, ERROR, FAILED, FAULT, OBJECT, PLAIN, SHARED, Message
from asyncray.runtime.arguments import unpack
from asyncray.runtime.context import TaskContext
from asyncray.runtime.culprits import find_culprit
from asyncray.runtime.errors import dump_task_error
from asyncray.runtime.references import Pin
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import Serialized, is_registered, serialize
from asyncray.runtime.values import inline
from asyncray.worker.definitions import Definition

NONE = serialize(None).pickled


class Invocation:
    """One RUN, CONSTRUCT or INVOKE message at work."""

    __slots__ = ("context", "definition", "id", "message", "started")

    def __init__(self, message: Message, definition: Definition, blocks: bool) -> None:
        self.message = message
        self.id: bytes = message[1]
        self.definition = definition
        self.started = perf_counter_ns()
        self.context = TaskContext(self.id, definition.name, definition.shown, blocks)

    def __repr__(self) -> str:
        return f"<Invocation {self.id.hex()} {self.definition.name}>"

    def microseconds(self) -> int:
        """Since it was made."""
        return (perf_counter_ns() - self.started) // 1000


class Runner:
    """Turns invocations into replies.

    Args:
        describe: the repr of the actor of this process, or None.
    """

    def __init__(self, runtime: Runtime, describe: Callable[[], str | None]) -> None:
        self._runtime = runtime
        self._describe = describe

    def arguments(self, message: Message) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments of the call. Raises what their unpickling raises."""
        kind, payload, values = message[3:6]
        load = self._runtime.values.load
        if not values:
            content = load(kind, payload, None)
            return content[0], content[1]
        loaded = []
        for object_id, value_kind, value in values:
            pin = Pin(object_id, 1) if value_kind == SHARED else None
            try:
                loaded.append(load(value_kind, value, pin))
            finally:
                if pin is not None:
                    self._runtime.references.ended(pin)  # from here on only the views hold it
        content = loaded.pop() if kind == OBJECT else load(kind, payload, None)
        return unpack(content, loaded)

    def succeeded(self, invocation: Invocation, result: Any) -> tuple[Message, object]:
        """The reply for a result, and what must live until it was posted."""
        returns = invocation.definition.returns
        if returns == 1 and result is None:
            return (DONE, invocation.id, invocation.microseconds(), PLAIN, NONE, None), None
        try:
            if returns == 1:
                value = self._serialize(invocation, result)
                reply = (*self._encode(value), [ref.binary() for ref in value.refs] or None)
                return (DONE, invocation.id, invocation.microseconds(), *reply), value
            values = self._several(invocation, result) if returns else []
            many = [(*self._encode(value), [ref.binary() for ref in value.refs] or None) for value in values]
            return (DONE_MANY, invocation.id, invocation.microseconds(), many), values
        except Exception as error:  # a wrong number of values, a full store, or whatever the user's pickling raises
            return self.failed(invocation, error), None

    def _several(self, invocation: Invocation, result: Any) -> list[Serialized]:
        name, returns = invocation.definition.name, invocation.definition.returns
        try:
            values = list(result)
        except TypeError:
            raise ValueError(
                f"{name} has num_returns={returns} but returned {type(result).__name__}, not {returns} values"
            ) from None
        if len(values) != returns:
            raise ValueError(f"{name} has num_returns={returns} but returned {len(values)} values")
        return [self._serialize(invocation, value) for value in values]

    def _encode(self, value: Serialized) -> tuple[int, Any]:
        if self._runtime.values.is_large(value):
            return SHARED, self._runtime.values.store(value)
        return inline(value)

    @staticmethod
    def _serialize(invocation: Invocation, result: Any) -> Serialized:
        try:
            return serialize(result)
        except Exception as error:  # pickling runs user code: anything may come
            place, part, reason = find_culprit(result, "the return value", serialize)
            if is_registered(type(part)):
                raise  # it is that of the user's serializer
            text = f"{place} of {invocation.definition.name} ({type(part).__name__}) cannot be pickled: {reason}"
            raise TypeError(f"Could not serialize {text}") from error

    def failed(self, invocation: Invocation, error: BaseException, skip_frames: int = 1) -> Message:
        """The reply for an exception."""
        definition = invocation.definition
        if isinstance(error, KeyboardInterrupt):
            return self.cancelled(invocation.id, invocation.microseconds())
        payload = dump_task_error(
            error,
            function_name=definition.name,
            pid=os.getpid(),
            ip=self._runtime.facts.get("ip", "127.0.0.1"),
            actor_repr=self._describe(),
            skip_frames=skip_frames,
            dumps=_dump,
        )
        retryable = definition.retries(error)
        return (FAILED, invocation.id, invocation.microseconds(), ERROR, payload, retryable)

    @staticmethod
    def exited(invocation: Invocation, error: SystemExit) -> Message:
        """The reply for a task that ended its process, where that is not to be done."""
        message = f"{invocation.definition.name} raised SystemExit({error.code!r})"
        fault = ["WorkerCrashedError", {"message": message}]
        return (FAILED, invocation.id, invocation.microseconds(), FAULT, fault, True)

    @staticmethod
    def cancelled(task_id: bytes, microseconds: int = 0) -> Message:
        """The reply for a task that was stopped."""
        return (FAILED, task_id, microseconds, FAULT, ["TaskCancelledError", {"task_id": task_id.hex()}], False)


def _dump(value: object) -> bytes:
    return serialize(value).pickled
