"""Actor classes, and the ends of actors. Handles are in ``asyncray.api.handle``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Never, NoReturn, TypeVar

from asyncray.api.handle import ActorHandle, Descriptor, MethodInfo, known_descriptor
from asyncray.api.options import actor_demand, complete_actor_options, override_actor_options, validate_method_options
from asyncray.api.signature import Signature
from asyncray.core.resources import fixed
from asyncray.exceptions import ActorClassInheritanceException
from asyncray.ids import PUT_INDEX
from asyncray.messages import KILL
from asyncray.runtime.context import running_task
from asyncray.runtime.runtime import Runtime, require

C = TypeVar("C")

METHOD_OPTIONS_ATTRIBUTE = "__asyncray_method_options__"
ASYNC_CONCURRENCY = 1000


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
            return ActorHandle(found[0], known_descriptor(found[1]), None)
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
