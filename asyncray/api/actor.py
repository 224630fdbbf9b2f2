"""Actor classes, handles and their methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Never, NoReturn, TypeVar

from asyncray.api.arguments import check_namespace
from asyncray.api.function import retry_on
from asyncray.api.options import (
    actor_demand,
    complete_actor_options,
    complete_method_options,
    override_actor_options,
    override_method_options,
    validate_method_options,
)
from asyncray.api.signature import Signature
from asyncray.core.resources import fixed
from asyncray.core.states import UNRESOLVED
from asyncray.exceptions import ActorClassInheritanceException, PendingCallsLimitExceeded
from asyncray.ids import PUT_INDEX, ActorID
from asyncray.messages import KILL
from asyncray.runtime import current
from asyncray.runtime.context import running_task
from asyncray.runtime.refs import ObjectRef
from asyncray.runtime.runtime import Runtime, require
from asyncray.runtime.serialization import deserialize, serialize

C = TypeVar("C")

METHOD_OPTIONS_ATTRIBUTE = "__asyncray_method_options__"
ASYNC_CONCURRENCY = 1000


class MethodInfo:
    """What handles know of a method."""

    __slots__ = ("name", "options", "signature", "template")

    def __init__(self, name: str, signature: Signature | None, options: dict[str, object]) -> None:
        self.name = name
        self.signature = signature  # None: anything passes
        self.options = options
        self.template: tuple[Runtime, int, int] | None = None  # session, number there, number of returns

    def __repr__(self) -> str:
        return f"<MethodInfo {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return MethodInfo, (self.name, self.signature, self.options)


class Descriptor:
    """What all handles of an actor share; travels with them.

    Args:
        methods: by name.
        retries: ``max_task_retries`` of the actor.
        limit: ``max_pending_calls``.
    """

    def __init__(self, class_name: str, methods: dict[str, MethodInfo], retries: int, limit: int) -> None:
        self.class_name = class_name
        self.methods = methods
        self.retries = retries
        self.limit = limit
        self._pickled: bytes | None = None

    def __repr__(self) -> str:
        return f"<Descriptor {self.class_name} {sorted(self.methods)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Descriptor, (self.class_name, self.methods, self.retries, self.limit)

    def pickled(self) -> bytes:
        """The descriptor as bytes; made once."""
        if self._pickled is None:
            self._pickled = serialize(self).pickled
        return self._pickled

    def template(self, runtime: Runtime, info: MethodInfo) -> tuple[Runtime, int, int]:
        """The template of one of the methods in this session: (session, its number there, number of returns)."""
        template = info.template
        if template is None or template[0] is not runtime:
            template = info.template = (runtime, *self._make_template(runtime, info))
        return template

    def _make_template(self, runtime: Runtime, info: MethodInfo) -> tuple[int, int]:
        options = complete_method_options(info.options)
        returns = options["num_returns"]
        returns = 1 if returns is None else returns
        if not isinstance(returns, int):
            raise ValueError(f"num_returns={returns!r} needs a generator method; {info.name} is none.")
        retries = options["max_task_retries"]
        spec = {
            "name": options["name"] or f"{self.class_name}.{info.name}",
            "function": b"",
            "returns": returns,
            "retries": self.retries if retries is None else retries,
            "demand": (),
            "options": {"method": info.name, "retry_on": retry_on(options["retry_exceptions"] or False)},
        }
        return runtime.submitter.template(spec), returns


class ActorMethod:
    """A method of an actor, seen from outside.

    Example::

        ref = counter.add.remote(2)
    """

    __slots__ = ("_handle", "_info")

    def __init__(self, handle: ActorHandle[Any], info: MethodInfo) -> None:
        self._handle = handle
        self._info = info

    def __repr__(self) -> str:
        return f"<ActorMethod {self._handle._descriptor.class_name}.{self._info.name}>"

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        name = self._info.name
        raise TypeError(
            f"Actor methods cannot be called directly. Instead of running 'object.{name}()', try "
            f"'object.{name}.remote()'."
        )

    def options(self, **options: object) -> ActorMethod:
        """The same method with other options for its calls."""
        info = self._info
        return ActorMethod(
            self._handle, MethodInfo(info.name, info.signature, override_method_options(info.options, options))
        )

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the method in the actor's process; returns at once, as ``f.remote`` does.

        Raises:
            TypeError: the arguments do not fit the method, or cannot be pickled.
            OwnerDiedError: a ref among them is of a session that is over.
            PendingCallsLimitExceeded: ``max_pending_calls`` of this handle are unfinished.
        """
        handle, info = self._handle, self._info
        if info.signature is not None:
            info.signature.check(args, kwargs)
        runtime = require()
        descriptor = handle._descriptor
        _, template, returns = descriptor.template(runtime, info)
        if descriptor.limit > 0:
            handle._check_pending(descriptor.limit)
        result = runtime.submitter.call(handle._id, template, returns, args, kwargs, info.name)
        if descriptor.limit > 0 and result is not None:
            handle._pending.append(result[0] if isinstance(result, list) else result)
        return result


class ActorHandle(Generic[C]):
    """A reference to an actor. It may be passed to tasks and actors, and pickled.

    The actor lives as long as any handle anywhere (and what was submitted to it); handles that were got by name or from
    ``current_actor`` do not keep it alive.
    """

    def __init__(self, actor_id: bytes, descriptor: Descriptor, life: ObjectRef[Any] | None) -> None:
        self._id = actor_id
        self._descriptor = descriptor
        self._life = life
        self._pending: list[ObjectRef[Any]] = []  # refs, for what nobody refers to does not come

    def __repr__(self) -> str:
        return f"Actor({self._descriptor.class_name}, {self._id.hex()})"

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._id == other._id

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_handle, (self._id, self._descriptor.pickled(), self._life)

    def __dir__(self) -> list[str]:
        return [*self._descriptor.methods, *object.__dir__(self)]

    def __getattr__(self, name: str) -> ActorMethod:
        info = self.__dict__["_descriptor"].methods.get(name) if "_descriptor" in self.__dict__ else None
        if info is None:
            raise AttributeError(f"'{self._descriptor.class_name}' has no method '{name}'")
        return ActorMethod(self, info)

    @property
    def _actor_id(self) -> ActorID:
        return ActorID(self._id)

    _ray_actor_id = _actor_id

    def _check_pending(self, limit: int) -> None:
        self._pending = [ref for ref in self._pending if ref._local.kind == UNRESOLVED]
        if len(self._pending) >= limit:
            raise PendingCallsLimitExceeded(
                f"The actor {self!r} has {len(self._pending)} pending calls; max_pending_calls is {limit}."
            )


_descriptors: dict[bytes, Descriptor] = {}
"""Descriptors that came from elsewhere, by their bytes: one per actor class, so that templates are sent once."""


def _restore_handle(actor_id: bytes, pickled: bytes, life: ObjectRef[Any] | None) -> ActorHandle[Any]:
    return ActorHandle(actor_id, _known(pickled), life)


def _known(pickled: bytes) -> Descriptor:
    descriptor = _descriptors.get(pickled)
    if descriptor is None:
        descriptor = _descriptors[pickled] = deserialize(pickled)
    return descriptor


class ActorClass(Generic[C]):
    """A class whose instances live in processes of their own. Made by ``@remote``.

    Example::

        @asyncray.remote
        class Counter: ...

        counter = Counter.remote()
    """

    def __init__(self, cls: type[C], options: dict[str, object]) -> None:
        self._class = cls
        self._options = options
        self._signature = Signature.of_class(cls)
        self._asynchronous = _has_coroutines(cls)
        self._check_order()
        self._descriptor_cache: Descriptor | None = None
        self._exported: tuple[Runtime, int] | None = None
        self.__doc__ = cls.__doc__
        self.__name__ = cls.__name__
        self.__module__ = cls.__module__

    def _check_order(self) -> None:
        concurrent = self._asynchronous or (self._options.get("max_concurrency") or 1) != 1
        if concurrent and self._options.get("allow_out_of_order_execution") is False:
            raise ValueError(
                "allow_out_of_order_execution=False is not possible for async or threaded actors: their calls overlap."
            )

    def __repr__(self) -> str:
        return f"ActorClass({self._class.__name__})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_exported": None, "_descriptor_cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __call__(self, *args: Never, **kwargs: Never) -> NoReturn:
        name = self._class.__name__
        raise TypeError(f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'.")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            "Inheriting from actor classes is not currently supported. Inherit from the plain class "
            f"{self._class.__name__} and make the subclass an actor class."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") and "_class" not in self.__dict__:
            raise AttributeError(name)  # while it is being unpickled
        return getattr(self._class, name)

    def options(self, **options: object) -> ActorClass[C]:
        """The same class with other options for its actors; what is not named is kept.

        Raises:
            ValueError: an unknown option, or one that is not possible here.
            TypeError: a value of a wrong type.
        """
        return ActorClass(self._class, override_actor_options(self._options, options))

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[C]:
        """Makes an actor; returns its handle at once. The constructor runs in the actor's process.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be pickled.
            OwnerDiedError: a ref among them is of a session that is over.
            ActorAlreadyExistsError: its name is taken (a ValueError, too).
        """
        self._signature.check(args, kwargs)
        runtime = require()
        if self._exported is None or self._exported[0] is not runtime:
            self._exported = (runtime, self._export(runtime))
        template, name = self._exported[1], self._class.__name__
        descriptor = self._descriptor()
        actor_name = self._options.get("name")
        if actor_name is None:
            life = runtime.submitter.create(template, args, kwargs, name)
            return ActorHandle(life.binary()[: -len(PUT_INDEX)], descriptor, life)
        message, life, keep = runtime.submitter.prepare(template, args, kwargs, name)
        namespace = self._options.get("namespace") or runtime.facts["namespace"]
        reuse = bool(self._options.get("get_if_exists"))
        runtime.flush()  # the end of a handle, which goes last in a batch, may free the name
        found = runtime.request("create_named", namespace, actor_name, reuse, descriptor.pickled(), message)
        del keep  # the refs among the arguments had to live until here
        if found is not None:
            return ActorHandle(found[0], _known(found[1]), None)
        return ActorHandle(message[1], descriptor, life)

    def _export(self, runtime: Runtime) -> int:
        options: dict[str, Any] = complete_actor_options(self._options)
        demand = actor_demand(self._options)
        concurrency = options["max_concurrency"] or (ASYNC_CONCURRENCY if self._asynchronous else 1)
        spec = {
            "name": self._class.__name__,
            "function": runtime.submitter.export(self._class, f"actor {self._class.__name__}"),
            "returns": 1,
            "retries": 0,
            "demand": fixed(demand.placement),
            "life": fixed(demand.lifetime),
            "options": {
                "asynchronous": self._asynchronous,
                "concurrency": concurrency,
                "ordered": concurrency == 1 and not self._asynchronous and not options["allow_out_of_order_execution"],
                "restarts": options["max_restarts"],
                "detached": options["lifetime"] == "detached",
                "descriptor": self._descriptor().pickled(),
            },
        }
        return runtime.submitter.template(spec)

    def _descriptor(self) -> Descriptor:
        if self._descriptor_cache is None:
            options: dict[str, Any] = complete_actor_options(self._options)
            self._descriptor_cache = Descriptor(
                self._class.__name__, _methods(self._class), options["max_task_retries"], options["max_pending_calls"]
            )
        return self._descriptor_cache


def _has_coroutines(cls: type) -> bool:
    # What inspect.iscoroutinefunction looks at, without the cost of importing inspect. 0x80: a coroutine function,
    # 0x200: an asynchronous generator function.
    for base in cls.__mro__:
        for value in vars(base).values():
            code = getattr(getattr(value, "__func__", value), "__code__", None)
            if code is not None and code.co_flags & (0x80 | 0x200):
                return True
    return False


def _methods(cls: type) -> dict[str, MethodInfo]:
    methods = {}
    for name in dir(cls):
        member = getattr(cls, name, None)
        if name in vars(object) or not callable(member) or isinstance(member, type):
            continue
        options = getattr(member, METHOD_OPTIONS_ATTRIBUTE, {})
        methods[name] = MethodInfo(name, Signature.of_method(cls, name), options)
    for name in ("__ray_ready__", "__ray_call__", "__ray_terminate__"):
        methods[name] = MethodInfo(name, None, {})
    return methods


def method(**options: object) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Sets defaults for the calls of an actor's method.

    Args:
        options: ``num_returns``, ``max_task_retries``, ``retry_exceptions``, ``enable_task_events``.

    Raises:
        ValueError: no option, or an unknown one.

    Example::

        @asyncray.method(num_returns=2)
        def pair(self): return 1, 2
    """
    if not options:
        raise ValueError("@method takes options by keyword, as in @method(num_returns=2).")
    checked = validate_method_options(options, in_options=False)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, METHOD_OPTIONS_ATTRIBUTE, checked)
        return function

    return decorate


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Ends an actor at once: no exit handlers run.

    Args:
        no_restart: False counts as a crash: it is restarted if ``max_restarts`` allows.

    Raises:
        ValueError: not a handle.
    """
    runtime = require()
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() only supported for actors. Got: {type(actor)}.")
    runtime.post((KILL, actor._id, no_restart))
    runtime.flush()


def exit_actor() -> NoReturn:
    """Ends the actor that this code runs in: this call, queued and later ones fail with ``ActorDiedError``.

    Raises:
        TypeError: this is no actor.
    """
    runtime = require()
    if runtime.workplace is None:
        raise TypeError(f"exit_actor API is called on a non-actor worker ({running_task() or 'a driver'}).")
    runtime.workplace.exit_actor()


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
    """The handle from what the daemon answered about a name.

    Raises:
        ValueError: there is none.
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
    return ActorHandle(actor_id, _known(descriptor), None)
