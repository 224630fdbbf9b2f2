"""Submitting work: functions and templates go to the daemon once, invocations as small messages.

Nothing here waits for an answer, except for room in shared memory when arguments are large.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgpack

from asyncray.config import FUNCTION_LIMIT, INLINE_LIMIT
from asyncray.ids import FIRST_RETURN, PUT_INDEX, return_id
from asyncray.messages import CALL, CREATE, FUNCTION, OBJECT, PLAIN, SUBMIT, TEMPLATE, Message
from asyncray.runtime.arguments import NO_ARGUMENTS, pack
from asyncray.runtime.connection import Connection
from asyncray.runtime.context import running_task
from asyncray.runtime.exports import Export
from asyncray.runtime.late_paths import with_paths
from asyncray.runtime.object_client import ObjectClient
from asyncray.runtime.refs import ObjectRef, own
from asyncray.runtime.serialization import PicklingFailed, serialize_in_band
from asyncray.runtime.values import Values, inline, nested_ids

if TYPE_CHECKING:
    from asyncray.words import TemplateSpec

_SMALL_FUNCTION = 64 * 1024
"""Bytes. Larger functions are forgotten at once when a program drops them."""

Packed = tuple[int, Any, list[bytes] | None, list[bytes] | None, bytes | None]
"""kind, payload, dependencies, nested refs, parent task"""


class Submitter:
    """Submits work."""

    def __init__(self, connection: Connection, objects: ObjectClient, values: Values) -> None:
        self._references = connection.references
        self._exports = connection.references.exports
        self._objects = objects
        self._values = values
        self._waiters = connection.waiters
        self._send = connection.post
        self._next_task_id = connection.ids.next_task_id
        self._next_call_id = connection.ids.next_call_id

    def __repr__(self) -> str:
        return f"<Submitter {self._exports}>"

    def export(self, function: object, what: str) -> Export:
        """Sends a function or class, if the daemon does not have it. The daemon keeps it as long as the export lives.

        Args:
            what: "remote function f" or "actor C", for messages.

        Raises:
            ValueError: it is too large.
            TypeError: it cannot be pickled.
        """
        from _blake2 import blake2b  # start-up cost: hashlib takes 3 ms for all the others

        try:
            value = serialize_in_band(function)
        except PicklingFailed as failure:
            from asyncray.runtime.culprits import explain_function  # start-up cost: most functions can be pickled

            raise explain_function(function, what, failure) from failure.error
        if value.size > FUNCTION_LIMIT:
            raise ValueError(
                f"The {what} is too large ({value.size >> 20} MiB > {FUNCTION_LIMIT >> 20} MiB). Check that it does "
                "not capture a large array or other object; put() such data and pass the ref."
            )
        pickled = with_paths(value.pickled)
        digest = blake2b(pickled, digest_size=16).digest()
        export = self._exports.find(digest)
        if export is None:
            nested = nested_ids(value)
            export = self._exports.make(digest, lingers=value.size <= _SMALL_FUNCTION and nested is None)
            # Send before recording: otherwise another thread could see the digest and submit before FUNCTION is queued.
            self._send((FUNCTION, export.number, digest, pickled, nested))
            self._exports.sent(export)
        return export

    def template(self, spec: TemplateSpec, function: Export | None = None) -> Export:
        """Describes a function with its options, if the daemon does not know it. It has the number to submit with.

        Args:
            function: what ``spec["function"]`` names; None for a method.
        """
        from _blake2 import blake2b  # start-up cost, as above

        digest = blake2b(msgpack.packb(spec, unicode_errors="surrogatepass"), digest_size=16).digest()
        export = self._exports.find(digest)
        if export is None:
            export = self._exports.make(digest, lingers=function is None or function.lingers)
            self._send((TEMPLATE, export.number, digest, spec))
            self._exports.sent(export)
        del function  # it had to live until here
        return export

    def submit(
        self,
        template: int,
        returns: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        what: str,
        name: str | None = None,
    ) -> Any:
        """Submits a task.

        Args:
            what: the function's name, for messages about the arguments.
            name: the task's name; None: the template's.

        Returns:
            Its ref, a list of refs, or None, by the number of returns.
        """
        # ``_keep`` holds the refs among the arguments until the message was queued.
        packed, _keep = self._pack(args, kwargs, what)
        task_id = self._next_task_id()
        references = self._references
        result = own(references, task_id + FIRST_RETURN) if returns == 1 else self._own(task_id, returns)
        if self._waiters.broken is not None:
            self._waiters.check_alive()
        self._send((SUBMIT, task_id, template, *packed, name))
        return result

    def call(
        self,
        actor_id: bytes,
        template: int,
        returns: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        what: str,
        name: str | None = None,
    ) -> Any:
        """Submits a call of an actor's method. Arguments and result as of ``submit``."""
        packed, _keep = self._pack(args, kwargs, what)
        task_id = self._next_call_id()
        references = self._references
        result = own(references, task_id + FIRST_RETURN) if returns == 1 else self._own(task_id, returns)
        if self._waiters.broken is not None:
            self._waiters.check_alive()
        self._send((CALL, task_id, template, *packed, name, actor_id))
        return result

    def create(self, template: int, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> ObjectRef[Any]:
        """Makes an actor; returns the ref that stands for its life."""
        packed, _keep = self._pack(args, kwargs, what)
        actor_id = self._next_task_id()
        life = own(self._references, actor_id + PUT_INDEX)
        self._waiters.check_alive()
        self._send((CREATE, actor_id, template, *packed))
        return life

    def prepare(
        self, template: int, args: tuple[Any, ...], kwargs: dict[str, Any], what: str
    ) -> tuple[Message, ObjectRef[Any], object]:
        """Packs a named actor, which is made by a request because its name may be taken.

        Returns:
            The CREATE message, the ref that stands for the actor's life, and the objects that must live until the
            message was sent.
        """
        packed, keep = self._pack(args, kwargs, what)
        actor_id = self._next_task_id()
        life = own(self._references, actor_id + PUT_INDEX)
        return (CREATE, actor_id, template, *packed), life, keep

    def _own(self, task_id: bytes, returns: int) -> Any:
        """Refs to no or several return values."""
        if not returns:
            return None
        return [own(self._references, return_id(task_id, index)) for index in range(returns)]

    def _pack(self, args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> tuple[Packed, object]:
        task = running_task()
        # Work that a task submits after it was cancelled is its clean-up: it has no parent to be cancelled with.
        parent = None if task is None or task.cancelled else task.id
        if not args and not kwargs:
            return (PLAIN, NO_ARGUMENTS, None, None, parent), None
        value, dependencies = pack(args, kwargs, what, self._references)
        if value.size > INLINE_LIMIT:
            ref = self._objects.put_serialized(value)
            return (OBJECT, None, [*(dependencies or ()), ref.binary()], None, parent), (args, kwargs, ref)
        kind, payload = inline(value)
        nested = nested_ids(value) if value.refs else None
        return (kind, payload, dependencies, nested, parent), (args, kwargs, value)
