"""Runs one invocation: bytes in, a message for the daemon out.

User code may do anything here: raise anything, return anything, take for ever. Its exceptions become FAILED messages;
only ``SystemExit`` passes through, because it ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from asyncray.config import INLINE_LIMIT
from asyncray.messages import (
    DONE,
    DONE_MANY,
    ERROR,
    FAILED,
    FAULT,
    OBJECT,
    PLAIN,
    SHARED,
    Message,
    Received,
    WorkMessage,
)
from asyncray.runtime.arguments import NO_ARGUMENTS, unpack
from asyncray.runtime.context import TaskContext
from asyncray.runtime.references import Pin
from asyncray.runtime.reservation import Reservation
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import PicklingFailed, Serialized, serialize
from asyncray.runtime.values import dump_failure, inline, nested_ids
from asyncray.worker.definitions import Definition
from asyncray.worker.start_report import describe

NONE = serialize(None).pickled

_ADVICE = "Return what it is made from, or give its class a __reduce__ method."

_MOST_INLINE = 16 * 1024 * 1024
"""Bytes of values in one reply. Further values go through shared memory."""


class Invocation:
    """One RUN, CONSTRUCT or INVOKE message at work."""

    __slots__ = ("context", "definition", "id", "message", "name", "started")

    def __init__(self, message: WorkMessage, definition: Definition) -> None:
        self.message: Received = message
        self.id: bytes = message[1]
        self.definition = definition
        self.name: str = message[6] or definition.name  # of this call, or of its function
        self.started = perf_counter_ns()
        self.context = TaskContext(self.id, self.name, definition.shown)
        self.context.group = definition.group

    def __repr__(self) -> str:
        return f"<Invocation {self.id.hex()} {self.name}>"

    def load(self) -> Any:
        """The function, for its first call here.

        Loading takes longer than most calls, and longer than a lease's slice. So it is not part of the call's time:
        otherwise a worker would run one task and lose its lease to other shapes.
        """
        function = self.definition.load()
        self.started = perf_counter_ns()
        return function

    def microseconds(self) -> int:
        """The run time so far: since the invocation was made, or since its function was loaded."""
        return (perf_counter_ns() - self.started) // 1000


class Runner:
    """Turns invocations into replies.

    Args:
        describe: the repr of the actor of this process, or None.
    """

    def __init__(self, runtime: Runtime, describe: Callable[[], str | None]) -> None:
        self._runtime = runtime
        self._describe = describe

    def arguments(self, message: WorkMessage) -> tuple[Sequence[Any], dict[str, Any]]:
        """The arguments of the call. Raises what their unpickling raises."""
        # A slice takes 0.04 us more.
        kind, payload, values = message[3], message[4], message[5]
        if not values:
            if payload == NO_ARGUMENTS and kind == PLAIN:  # saves unpickling, 0.4 us
                return (), {}
            content = self._runtime.values.load(kind, payload, None)
            return content[0], content[1]
        load = self._runtime.values.load
        pins = self._pins(message)
        try:
            loaded = self._load_all(values, pins)
        finally:
            self._give_back(pins)  # from here on only the views hold them
        content = loaded.pop() if kind == OBJECT else load(kind, payload, None)
        return unpack(content, loaded)

    def _load_all(self, values: Sequence[Any], pins: dict[bytes, Pin]) -> list[Any]:
        load = self._runtime.values.load
        return [load(kind, value, pins.get(object_id)) for object_id, kind, value in values]

    @staticmethod
    def _pins(message: WorkMessage) -> dict[bytes, Pin]:
        return {object_id: Pin(object_id, 1) for object_id, kind, _ in message[5] or () if kind == SHARED}

    def _give_back(self, pins: dict[bytes, Pin]) -> None:
        for pin in pins.values():
            self._runtime.references.released(pin)

    def discard(self, message: WorkMessage) -> None:
        """A call that was sent here will not run here: gives back the memory that is kept for its arguments."""
        self._give_back(self._pins(message))

    def succeeded(self, invocation: Invocation, result: Any) -> tuple[Message, object]:
        """The reply for a result, and what must live until it was posted."""
        reply, kept = self.small_reply(invocation, result)
        return (reply, kept) if reply is not None else self._large_reply(invocation, kept)

    def small_reply(self, invocation: Invocation, result: Any) -> tuple[Message | None, Any]:
        """The reply, unless values need room in shared memory: for one small value, or for an error.

        Returns:
            The reply and what must live until it was posted; or None and the values, for ``large_reply_async``.
        """
        definition = invocation.definition
        if definition.returns != 1:
            try:
                return None, self._several(invocation, result) if definition.returns else []
            # For a wrong number of values, or any exception of the user's pickling.
            except Exception as error:
                return self.failed(invocation, error)
        if result is None or definition.discards:
            return (DONE, invocation.id, invocation.microseconds(), PLAIN, NONE, None), None
        try:
            value = serialize(result)
        except PicklingFailed as failure:
            return self.failed(invocation, _explain(invocation, result, failure))
        if value.size > INLINE_LIMIT:
            return None, [value]
        kind, payload = inline(value)
        microseconds = (perf_counter_ns() - invocation.started) // 1000
        return (DONE, invocation.id, microseconds, kind, payload, nested_ids(value) if value.refs else None), value

    def _large_reply(self, invocation: Invocation, values: Sequence[Serialized]) -> tuple[Message, object]:
        try:
            large = self._large_of(values)
            return self._done(invocation, values, dict(zip(large, self._store_all(values, large), strict=True)))
        except Exception as error:  # a full store, for example
            return self.failed(invocation, error)

    async def large_reply_async(self, invocation: Invocation, values: Sequence[Serialized]) -> tuple[Message, object]:
        """The reply for the values from ``small_reply``, in an event loop, which goes on while the store is full.

        Raises:
            CancelledError: the call was cancelled meanwhile.
        """
        try:
            large = self._large_of(values)
            stored = await self._store_all_async(values, large)
            return self._done(invocation, values, dict(zip(large, stored, strict=True)))
        except Exception as error:  # as above
            return self.failed(invocation, error)

    def _large_of(self, values: Sequence[Serialized]) -> list[int]:
        """The numbers of the values that go through shared memory: many small ones are one large message, too."""
        large: list[int] = []
        inlined = 0
        for number, value in enumerate(values):
            inlined += 0 if self._runtime.values.is_large(value) else value.size
            if inlined > _MOST_INLINE or self._runtime.values.is_large(value):
                large.append(number)
        return large

    def _store_all(self, values: Sequence[Serialized], large: Sequence[int]) -> list[Reservation]:
        """Writes all the large values to shared memory, or none."""
        stored: list[Reservation] = []
        try:
            for number in large:
                stored.append(self._runtime.values.store(values[number]))
        except BaseException:
            _abandon_all(stored)
            raise
        return stored

    async def _store_all_async(self, values: Sequence[Serialized], large: Sequence[int]) -> list[Reservation]:
        """The same for event loops."""
        stored: list[Reservation] = []
        try:
            for number in large:
                stored.append(await self._runtime.values.store_async(values[number]))
        except BaseException:
            _abandon_all(stored)
            raise
        return stored

    @staticmethod
    def _done(
        invocation: Invocation, values: Sequence[Serialized], stored: dict[int, Reservation]
    ) -> tuple[Message, object]:
        encoded = []
        for number, value in enumerate(values):
            kind_and_payload = (SHARED, stored[number].place) if number in stored else inline(value)
            encoded.append((*kind_and_payload, nested_ids(value)))
        for reservation in stored.values():
            reservation.seal()
        if invocation.definition.returns == 1:
            return (DONE, invocation.id, invocation.microseconds(), *encoded[0]), values
        return (DONE_MANY, invocation.id, invocation.microseconds(), encoded), values

    def _several(self, invocation: Invocation, result: Any) -> list[Serialized]:
        name, returns = invocation.name, invocation.definition.returns
        try:
            values = list(result)
        except TypeError:
            raise ValueError(
                f"{name} has num_returns={returns} but returned {type(result).__name__}, not {returns} values"
            ) from None
        if len(values) != returns:
            raise ValueError(f"{name} has num_returns={returns} but returned {len(values)} values")
        return [_serialize(invocation, value) for value in values]

    def failed(self, invocation: Invocation, error: BaseException, skip_frames: int = 1) -> tuple[Message, object]:
        """The reply for an exception, and what must live until it was posted. KeyboardInterrupt means cancelled."""
        if isinstance(error, KeyboardInterrupt):
            return self.cancelled(invocation.id, invocation.microseconds()), None
        return self.raised(invocation, error, skip_frames)

    def raised(self, invocation: Invocation, error: BaseException, skip_frames: int = 1) -> tuple[Message, object]:
        """The same for an exception of any class, with its traceback."""
        definition = invocation.definition
        payload, refs = dump_failure(
            error,
            function_name=invocation.name,
            ip=self._runtime.facts.get("ip", "127.0.0.1"),
            actor_repr=self._describe(),
            skip_frames=skip_frames,
        )
        retryable = definition.retries(error)
        nested = [ref.binary() for ref in refs] or None
        return (FAILED, invocation.id, invocation.microseconds(), ERROR, payload, retryable, nested), refs

    @staticmethod
    def exited(invocation: Invocation, error: SystemExit) -> Message:
        """The reply for a task that raised SystemExit beside other tasks: it fails, and the process lives on."""
        message = f"{invocation.name} raised SystemExit({error.code!r})"
        fault = ["WorkerCrashedError", {"message": message}]
        return (FAILED, invocation.id, invocation.microseconds(), FAULT, fault, True, None)

    @staticmethod
    def lacks_thread(task_id: bytes, name: str, error: RuntimeError, *, retryable: bool) -> Message:
        """The reply for an invocation that cannot begin, because the system gives no thread for it."""
        fault = "WorkerCrashedError" if retryable else "AsyncraySystemError"
        message = f"{name} could not begin: {describe(error)}"
        return (FAILED, task_id, 0, FAULT, [fault, {"message": message}], retryable, None)

    @staticmethod
    def cancelled(task_id: bytes, microseconds: int = 0) -> Message:
        """The reply for a task that was stopped."""
        return (FAILED, task_id, microseconds, FAULT, ["TaskCancelledError", {"task_id": task_id.hex()}], False, None)


def _serialize(invocation: Invocation, value: Any) -> Serialized:
    try:
        return serialize(value)
    except PicklingFailed as failure:
        error = _explain(invocation, value, failure)
    raise error


def _explain(invocation: Invocation, value: Any, failure: PicklingFailed) -> Exception:
    from asyncray.runtime.culprits import explain  # start-up cost: most values can be pickled

    return explain({"return value": value}, f" of {invocation.name}", _ADVICE, failure)


def _abandon_all(stored: Sequence[Reservation]) -> None:
    for reservation in stored:
        reservation.abandon()
