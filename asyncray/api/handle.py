"""Handles of actors and their methods.

All handles of an actor share its ``ActorType``. It travels with them, so that a process without the class knows the
signatures and options of its methods.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, TypeVar, cast, overload

from asyncray.api.function import retry_on
from asyncray.api.hints import did_you_mean
from asyncray.api.init_arguments import check_namespace
from asyncray.api.options import complete_method_options, override_method_options, reject_unsupported
from asyncray.api.signature import Signature
from asyncray.api.source import MOST_TEMPLATES, Options, Templates
from asyncray.exceptions import ActorDiedError, PendingCallsLimitExceeded
from asyncray.ids import ActorID
from asyncray.messages import UNRESOLVED
from asyncray.runtime import current
from asyncray.runtime.exports import Export
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import Runtime
from asyncray.runtime.serialization import deserialize, serialize

if TYPE_CHECKING:
    from typing import Unpack

    from asyncray.api.option_types import MethodOptions
    from asyncray.words import TemplateSpec

C = TypeVar("C")


class MethodType:
    """A method as handles know it.

    Args:
        signature: None: any arguments pass.
        decorator: its ``__ray_invocation_decorator__``.
    """

    __slots__ = ("call_name", "decorator", "name", "options", "signature", "template")

    def __init__(
        self,
        name: str,
        signature: Signature | None,
        options: dict[str, object],
        decorator: Callable[..., Any] | None = None,
    ) -> None:
        self.name = name
        self.signature = signature
        self.options = options
        # By ``options(name=...)``; None: "Class.method". Travels with each call, so that it makes no template.
        self.call_name = cast("str | None", options.get("name")) or None
        self.decorator = decorator
        # The session, the number of the template there, the number of returns, and what keeps the template there.
        self.template: tuple[Runtime, int, int, Export] | None = None

    def __repr__(self) -> str:
        return f"<MethodType {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return MethodType, (self.name, self.signature, self.options, self.decorator)

    def copy(self, options: dict[str, object]) -> MethodType:
        """The same method with other options."""
        return MethodType(self.name, self.signature, options, self.decorator)


class ActorType:
    """The methods and options of an actor: all its handles share it, and it travels with them.

    Args:
        class_name: as in ``Class.method``, the name of a call.
        path: the same with module and outer classes.
        methods: by name.
        retries: ``max_task_retries`` of the actor.
        limit: ``max_pending_calls``.
    """

    def __init__(self, class_name: str, path: str, methods: dict[str, MethodType], retries: int, limit: int) -> None:
        self.class_name = class_name
        self.path = path
        self.methods = methods
        self.retries = retries
        self.limit = limit
        self._templates = Templates()
        # This descriptor as bytes, once they were needed.
        self._pickled: bytes | None = None

    def __repr__(self) -> str:
        return f"<ActorType {self.class_name} {sorted(self.methods)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorType, (self.class_name, self.path, self.methods, self.retries, self.limit)

    def copy_methods(self) -> dict[str, MethodType]:
        """The methods, for a descriptor with other options."""
        return {name: info.copy(info.options) for name, info in self.methods.items()}

    def pickled(self) -> bytes:
        """The descriptor as bytes; made once."""
        if self._pickled is None:
            self._pickled = serialize(self).pickled
        return self._pickled

    def template(self, runtime: Runtime, info: MethodType) -> tuple[Runtime, int, int, Export]:
        """The template of one of the methods in this session, as in ``MethodType.template``."""
        make = partial(self._make_template, info.name)
        template = info.template = (runtime, *self._templates.get_or_make(runtime, info.name, info.options, make))
        return template

    def _make_template(self, name: str, runtime: Runtime, named: Options) -> tuple[int, int, Export]:
        options = complete_method_options(named)
        returns = options["num_returns"]
        returns = 1 if returns is None else returns
        if not isinstance(returns, int):
            raise ValueError(
                f"{name} would hand out its results one by one (num_returns={returns!r}), which this release cannot."
            )
        retries = options["max_task_retries"]
        # Where calls are counted, a call without a result returns None, so that the handle learns of its end.
        counted = self.limit > 0 and not returns
        spec: TemplateSpec = {
            "name": f"{self.class_name}.{name}",
            "function": b"",
            "returns": 1 if counted else returns,
            "retries": self.retries if retries is None else cast(int, retries),
            "demand": (),
            "options": {
                "method": name,
                "shown": f"{self.path}.{name}",
                "discards": counted,
                "retry_on": retry_on(options["retry_exceptions"] or False),
            },
        }
        export = runtime.submitter.template(spec)
        return export.number, returns, export


class ActorMethod:
    """A method of an actor, seen from outside.

    Example::

        ref = counter.add.remote(2)
    """

    __slots__ = ("_handle", "_info")

    def __init__(self, handle: ActorHandle[Any], info: MethodType) -> None:
        self._handle = handle
        self._info = info

    def __repr__(self) -> str:
        return f"<ActorMethod {self._handle._asyncray_descriptor.class_name}.{self._info.name}>"

    if TYPE_CHECKING:

        def __call__(self, write_remote_instead: Never, /) -> Any:
            """An error of the caller. Not NoReturn, which would end the check of the function."""

    else:

        def __call__(self, /, *args: object, **kwargs: object) -> NoReturn:
            name = self._info.name
            raise TypeError(
                f"Actor methods cannot be called directly. Instead of running 'object.{name}()', try "
                f"'object.{name}.remote()'."
            )

    @overload
    def options(self, *, num_returns: int | str | None, **options: Unpack[MethodOptions]) -> ActorMethod: ...
    @overload
    def options(self, **options: Unpack[MethodOptions]) -> ActorMethod: ...
    def options(self, **options: object) -> ActorMethod:
        """The same method with other options for its calls."""
        info = self._info
        return type(self)(self._handle, info.copy(reject_unsupported(override_method_options(info.options, options))))

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the method in the actor's process; returns at once, as ``f.remote`` does.

        Raises:
            TypeError: the arguments do not fit the method, or cannot be pickled.
            OwnerDiedError: a ref among them is of a session that has ended.
            PendingCallsLimitExceeded: ``max_pending_calls`` of this handle are unfinished.
        """
        handle, info = self._handle, self._info
        if info.signature is not None:
            info.signature.check(args, kwargs)
        exported, descriptor = info.template, handle._asyncray_descriptor
        if exported is None or exported[0] is not current.session:
            exported = descriptor.template(_session_of(handle), info)
        runtime, template, returns, _ = exported
        call = runtime.submitter.call
        if descriptor.limit <= 0:
            return call(handle._asyncray_id, template, returns, args, kwargs, info.name, info.call_name)
        _check_pending(handle, descriptor.limit)
        result = call(handle._asyncray_id, template, returns or 1, args, kwargs, info.name, info.call_name)
        handle._asyncray_pending.append(result[0] if returns > 1 else result)
        return result if returns else None


class DecoratedMethod(ActorMethod):
    """A method with ``__ray_invocation_decorator__``: see ``asyncray.api.function.DecoratedFunction``."""

    __slots__ = ()

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Has the decorator wrap the invocation, and returns the result of the wrapper."""
        invoke = super().remote
        assert self._info.decorator is not None
        return self._info.decorator(lambda args, kwargs: invoke(*args, **kwargs))(args, kwargs)


class ActorHandle(Generic[C]):
    """A reference to an actor. It may be passed to tasks and actors, and pickled.

    The actor lives as long as any handle of it in any process, and until the calls that were submitted have finished.
    Handles that were got by name or from ``current_actor`` do not keep it alive.
    """

    # Attributes of ours would hide methods of the user's class, so all are prefixed, except the two that Ray has.

    def __init__(self, actor_id: bytes, descriptor: ActorType, life: ObjectRef[Any] | None) -> None:
        self._asyncray_id = actor_id
        self._asyncray_descriptor = descriptor
        self._asyncray_life = life
        # Of unfinished calls, where they are counted. Refs, because values without refs do not arrive.
        self._asyncray_pending: list[ObjectRef[Any]] = []

    def __repr__(self) -> str:
        return f"Actor({self._asyncray_descriptor.class_name}, {self._asyncray_id.hex()})"

    def __hash__(self) -> int:
        return hash(self._asyncray_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._asyncray_id == other._asyncray_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_handle, (self._asyncray_id, self._asyncray_descriptor.pickled(), self._asyncray_life)

    def __dir__(self) -> list[str]:
        return [*self._asyncray_descriptor.methods, *object.__dir__(self)]

    def __getattr__(self, name: str) -> ActorMethod:
        descriptor: ActorType | None = self.__dict__.get("_asyncray_descriptor")
        if descriptor is None:
            raise AttributeError(name)  # while it is being made
        info = descriptor.methods.get(name)
        if info is None:
            raise AttributeError(f"'{descriptor.class_name}' has no method '{name}'.{_hint(name, descriptor)}")
        return ActorMethod(self, info) if info.decorator is None else DecoratedMethod(self, info)

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._asyncray_id)

    _ray_actor_id = _actor_id


def _hint(name: str, descriptor: ActorType) -> str:
    if name.startswith("__"):
        # Python itself looks for those, and no person reads the answer.
        return ""
    return did_you_mean(name, descriptor.methods) or (
        " Attributes cannot be read from outside: write a method that returns what you want."
    )


def _session_of(handle: ActorHandle[Any]) -> Runtime:
    """The session of this process. None is started for a handle: its own has ended.

    Raises:
        ActorDiedError: no session runs.
        NotStartedError: no session runs, and none is started implicitly.
    """
    session = current.session
    if session is None:
        current.check_started()
        raise ActorDiedError(f"{handle!r} has died: its session was left by shutdown(), or belongs to another process.")
    return cast(Runtime, session)


def _check_pending(handle: ActorHandle[Any], limit: int) -> None:
    pending = [ref for ref in handle._asyncray_pending if ref._local.kind == UNRESOLVED]
    handle._asyncray_pending = pending
    if len(pending) >= limit:
        raise PendingCallsLimitExceeded(
            f"The actor {handle!r} has {len(pending)} pending calls; max_pending_calls is {limit}."
        )


_descriptors: dict[bytes, ActorType] = {}
"""Descriptors that came from other processes, by their bytes. One per actor class, so that templates are sent once.

Cleared when it holds MOST_TEMPLATES. Handles keep theirs.
"""


def _restore_handle(actor_id: bytes, pickled: bytes, life: ObjectRef[Any] | None) -> ActorHandle[Any]:
    return ActorHandle(actor_id, known_descriptor(pickled), life)


def known_descriptor(pickled: bytes) -> ActorType:
    """The one descriptor of this process for these bytes."""
    descriptor = _descriptors.get(pickled)
    if descriptor is None:
        descriptor = deserialize(pickled)
        if len(_descriptors) >= MOST_TEMPLATES:
            _descriptors.clear()
        _descriptors[pickled] = descriptor
    return descriptor


def check_name(name: object, namespace: object) -> str:
    """The name of an actor that is looked for.

    Raises:
        ValueError: it cannot be one, or the namespace cannot.
        TypeError: the namespace is no string.
    """
    current.check_started()
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"Please supply a non-empty name to get_actor, not {name!r}.")
    if namespace is not None:
        check_namespace(namespace)
    return name


def named_handle(found: list[Any] | None, name: str, namespace: str) -> ActorHandle[Any]:
    """The handle from the daemon's answer about a name.

    Raises:
        ValueError: no actor has the name.
    """
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. This could be because 1. You are trying to look up a named "
            "actor you didn't create. 2. The named actor died. 3. You did not use a namespace matching the namespace "
            f"of the actor (looked in {namespace!r})."
        )
    return weak_handle(found[0], found[1])


def weak_handle(actor_id: bytes, descriptor: bytes) -> ActorHandle[Any]:
    """A handle that does not keep the actor alive."""
    return ActorHandle(actor_id, known_descriptor(descriptor), None)
