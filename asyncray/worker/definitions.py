"""The functions, classes and methods that a worker runs, as the daemon has described them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncray.runtime.context import capture_children
from asyncray.runtime.serialization import deserialize

if TYPE_CHECKING:
    from asyncray.words import WorkerSpec


class SentFunction:
    """A function or class as it was sent. Templates with different options share it, with its globals."""

    __slots__ = ("_function", "_pickled")

    def __init__(self, pickled: bytes) -> None:
        self._pickled = pickled
        # None until it was unpickled.
        self._function: Any = None

    def __repr__(self) -> str:
        return f"<SentFunction {'loaded' if self._function is not None else 'pickled'}>"

    def load(self) -> Any:
        """The function or class, unpickled when it is first needed. Raises what unpickling raises."""
        # Read first: another thread may finish loading in between, and clear the attribute.
        pickled = self._pickled
        if self._function is None:
            self._function = deserialize(pickled)
            self._pickled = b""
        return self._function


class Definition:
    """A template, as the daemon described it."""

    __slots__ = (
        "_retry_on", "_sent", "asynchronous", "calls", "concurrency", "descriptor", "discards", "function",
        "group", "max_calls", "method", "name", "returns", "shown",
    )  # fmt: skip

    def __init__(self, spec: WorkerSpec, function: SentFunction) -> None:
        self.name: str = spec["name"]
        self.returns: int = spec["returns"]
        # The return value is not wanted, only completion.
        self.discards: bool = spec.get("discards", False)
        self.shown: str = spec.get("shown", self.name)  # module-qualified, for people
        self.method: str = spec.get("method", "")
        self.max_calls: int = spec.get("max_calls", 0)
        # Of the constructor of an actor: it has coroutine methods, how many calls may run at once, and the pickled
        # class description from which handles of the actor are made.
        self.asynchronous: bool = spec.get("asynchronous", False)
        self.concurrency: int = spec.get("concurrency", 1)
        self.descriptor: bytes = spec.get("descriptor", b"")
        # The placement group that its tasks run in, and whether their children go there, too.
        group = spec.get("group")
        self.group: tuple[bytes, bool] | None = None
        if group is not None:
            self.group = group[0], group[1]
            if group[1]:
                capture_children()
        # The exceptions of user code after which a task is retried: none, all, or these classes, pickled until the
        # first exception.
        self._retry_on: bool | bytes | tuple[type[BaseException], ...] = spec.get("retry_on", False)
        # How many of its calls have run here, if it has ``max_calls``.
        self.calls = 0
        # The function or class. None until ``load`` was called.
        self.function: Any = None
        self._sent = function

    def __repr__(self) -> str:
        return f"<Definition {self.name} {self._sent}>"

    def load(self) -> Any:
        """The function or class. Raises what unpickling it raises."""
        self.function = self._sent.load()
        return self.function

    def retries(self, error: BaseException) -> bool:
        """True if the task is retried after this exception of user code."""
        retry_on = self._retry_on
        if isinstance(retry_on, bool):
            return retry_on and isinstance(error, Exception)
        if isinstance(retry_on, bytes):
            try:
                retry_on = self._retry_on = tuple(deserialize(retry_on))
            except Exception:  # unpickling runs user code; the caller needs the task's error
                return False
        return isinstance(error, retry_on)
