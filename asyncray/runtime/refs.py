"""``ObjectRef``: a reference to a value that exists or will exist."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from asyncray.exceptions import NotStartedError, OwnerDiedError, TaskCancelledError, TaskError
from asyncray.ids import CLIENT_SIZE, OBJECT_SIZE, TASK_PREFIX_SIZE, TASK_SIZE, JobID, TaskID
from asyncray.runtime import current
from asyncray.runtime.references import LocalObject, References, ValueHasLeft
from asyncray.runtime.serialization import collecting_refs

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures
    import contextvars

T_co = TypeVar("T_co", covariant=True)


class ObjectRef(Generic[T_co]):
    """A reference to an object: the result of a task, or a value that was put.

    It can be awaited, any number of times, in any event loop and thread; passed to tasks and actors (as an argument of
    its own it is replaced by its value, inside other values it stays a ref); compared and hashed. The object lives as
    long as any ref to it anywhere.

    Args:
        binary: the object's ID. Refs are made by ``.remote()`` and ``put``; this is for tools.

    Raises:
        ValueError: an ID of a wrong length.

    Example::

        ref = square.remote(3)
        assert await ref == 9
    """

    __slots__ = ("__weakref__", "_local")
    _local: LocalObject

    def __init__(self, binary: bytes) -> None:
        if len(binary) != OBJECT_SIZE:
            raise ValueError(f"ID string needs to have length {OBJECT_SIZE}, got {len(binary)}")
        current.require().references.borrow(bytes(binary), self)

    def __del__(self) -> None:
        try:
            local = self._local
            table = local.table
            table.queue_release(local)
            if not table.closed:
                table.request_flush()
        except AttributeError:
            pass  # it was never made

    def __repr__(self) -> str:
        return f"ObjectRef({self._local.id.hex()})"

    def __hash__(self) -> int:
        return hash(self._local.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and self._local.id == other._local.id

    def __reduce__(self) -> tuple[Any, ...]:
        refs = collecting_refs()
        if refs is not None:
            refs.append(self)
        return restore, (self._local.id,)

    def hex(self) -> str:
        """The ID as hex digits, as errors and logs show it.

        Example::

            print(f"waiting for {ref.hex()}")
        """
        return self._local.id.hex()

    def binary(self) -> bytes:
        """The ID as bytes.

        Example::

            assert ObjectRef(ref.binary()) == ref
        """
        return self._local.id

    def task_id(self) -> TaskID:
        """The ID of the task that returns this object (or that stands for the ``put``).

        Example::

            one, two = divide.remote(17, 5)  # num_returns=2
            assert one.task_id() == two.task_id()
        """
        return TaskID(self._local.id[:TASK_SIZE])

    def job_id(self) -> JobID:
        """The ID of the job that the object belongs to.

        Example::

            assert ref.job_id().hex() == ray.get_runtime_context().get_job_id()
        """
        return JobID(self._local.id[CLIENT_SIZE:TASK_PREFIX_SIZE])

    def is_nil(self) -> bool:
        """True if it references nothing, as ``ObjectRef.nil()``."""
        return self._local.id == b"\xff" * OBJECT_SIZE

    @classmethod
    def nil(cls) -> ObjectRef[Any]:
        """A ref to nothing."""
        return cls(b"\xff" * OBJECT_SIZE)

    @classmethod
    def from_random(cls) -> ObjectRef[Any]:
        """A ref to an object that never was. For tests."""
        import os  # only here

        return cls(os.urandom(OBJECT_SIZE))

    def __await__(self) -> Generator[Any, None, T_co]:
        objects = current.session_of(self._local).objects
        value: T_co = yield from objects.load_async(self._local).__await__()
        return value

    def as_future(self) -> asyncio.Future[T_co]:
        """The ref as a future of the running loop, for functions that take nothing else.

        Returns:
            An ``asyncio.Future`` with the value or error. Cancelling it does not touch the task.

        Raises:
            RuntimeError: no event loop runs in this thread.

        Example::

            future = ref.as_future()
            done, pending = await asyncio.wait([future], timeout=1)
            future.cancel()
        """
        import asyncio  # start-up cost: a running loop has imported it

        async def wait() -> T_co:
            return await self

        return asyncio.ensure_future(wait())

    # The subset of the Future interface that asyncio.wait() uses. ``asyncio.isfuture(ref)`` stays False, so other
    # helpers wrap the ref as an awaitable.

    def done(self) -> bool:
        """True if the value or error has arrived: awaiting the ref takes no time.

        Example::

            while not ref.done():
                await asyncio.sleep(0.1)
            print(ref.result())
        """
        try:
            objects = current.session_of(self._local).objects
        except (OwnerDiedError, NotStartedError):  # the session has ended: nothing will arrive
            return True
        return objects.is_done(self._local)

    def result(self) -> T_co:
        """The value of a ref that is ``done()``.

        Raises:
            asyncio.InvalidStateError: it is not done.
            Exception: what awaiting it raises.

        Example::

            done, pending = await asyncio.wait(refs)
            print([ref.result() for ref in done])
        """
        objects = current.session_of(self._local).objects
        self._check_done()
        try:
            value: T_co = objects.load(self._local)
        except ValueHasLeft:
            raise self._not_ready() from None
        return value

    def exception(self) -> BaseException | None:
        """The exception that awaiting this ref raises, which must be ``done()``.

        Returns:
            The exception, not raised; None if there is a value.

        Raises:
            asyncio.InvalidStateError: it is not done.

        Example::

            done, pending = await asyncio.wait(refs)
            failures = [ref for ref in done if ref.exception()]
        """
        try:
            objects = current.session_of(self._local).objects
        except (OwnerDiedError, NotStartedError) as error:
            return error
        self._check_done()
        return objects.error(self._local)

    def cancelled(self) -> bool:
        """True if the ref is ``done()`` because its task, or one that it needs, was cancelled.

        Example::

            asyncray.cancel(ref)
            await asyncio.wait([ref])
            assert ref.cancelled()
        """
        error = self.exception() if self.done() else None
        return isinstance(error, TaskCancelledError) and not isinstance(error, TaskError)

    def add_done_callback(
        self, callback: Callable[[ObjectRef[Any]], object], *, context: contextvars.Context | None = None
    ) -> None:
        """Calls ``callback(ref)`` in the running event loop, soon after the ref is ``done()``.

        Args:
            callback: a plain function.
            context: runs it; by default a copy of the current one.

        Raises:
            RuntimeError: no event loop runs in this thread.

        Example::

            ref.add_done_callback(lambda ref: print("failed" if ref.exception() else ref.result()))
        """
        current.session_of(self._local).objects.add_callback(self, callback, context)

    def remove_done_callback(self, callback: Callable[[ObjectRef[Any]], object]) -> int:
        """Undoes ``add_done_callback``.

        Args:
            callback: the function that was given there.

        Returns:
            The number of calls that will not be made.

        Example::

            ref.add_done_callback(print)
            assert ref.remove_done_callback(print) == 1
        """
        try:
            waiters = current.session_of(self._local).waiters
        except (OwnerDiedError, NotStartedError):
            return 0  # they are made already
        return waiters.remove_callback(self._local, callback)

    def _check_done(self) -> None:
        if not self.done():
            raise self._not_ready()

    def _not_ready(self) -> Exception:
        import asyncio  # start-up cost: only here

        return asyncio.InvalidStateError(f"{self} is not ready.")

    def future(self) -> concurrent.futures.Future[T_co]:
        """The ref as a future for threads.

        Returns:
            A ``concurrent.futures.Future`` with the value or error. It is resolved on a thread that all futures share;
            callbacks run on up to four others. ``cancel()`` succeeds until the value is being read, and does not touch
            the task.

        Raises:
            OwnerDiedError: a ref of a session that has ended.

        Example::

            futures = [square.remote(i).future() for i in range(4)]
            for future in concurrent.futures.as_completed(futures):
                print(future.result())
        """
        objects = current.session_of(self._local).objects
        result: concurrent.futures.Future[T_co] = objects.future(self)
        return result


def own(references: References, object_id: bytes) -> ObjectRef[Any]:
    """The ref to an object that this process is about to make."""
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    references.own(object_id, ref)
    return ref


def borrow(references: References, object_id: bytes) -> ObjectRef[Any]:
    """A ref to an object that exists."""
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    references.borrow(object_id, ref)
    return ref


def restore(object_id: bytes) -> ObjectRef[Any]:
    """Makes the ref that a pickled ref stands for."""
    return borrow(current.require().references, object_id)
