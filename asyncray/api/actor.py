"""Actor classes, and the ends of actors. Handles are in ``asyncray.api.handle``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, Protocol, Self, TypeVar, cast, overload

from asyncray.api.function import DECORATOR
from asyncray.api.handle import ActorHandle, ActorType, MethodType, known_descriptor
from asyncray.api.options import (
    actor_demand,
    complete_actor_options,
    override_actor_options,
    reject_unsupported,
    validate_method_options,
)
from asyncray.api.signature import Signature, is_asynchronous, is_generator
from asyncray.api.source import MOST_TEMPLATES, ExportedFunction, Options
from asyncray.api.strategies import place
from asyncray.api.typing import MYPY, P, Submit
from asyncray.exceptions import ActorClassInheritanceException, ActorHandleNotFoundError
from asyncray.ids import PUT_INDEX
from asyncray.messages import KILL
from asyncray.runtime import context
from asyncray.runtime.context import running_task
from asyncray.runtime.exports import Export
from asyncray.runtime.runtime import Runtime, require
from asyncray.units import fixed

if TYPE_CHECKING:
    from typing import Unpack

    from asyncray.api.option_types import ActorOptions, MethodOptions
    from asyncray.words import TemplateSpec

C = TypeVar("C")
C_co = TypeVar("C_co", covariant=True)
F = TypeVar("F", bound=Callable[..., Any])

METHOD_OPTIONS_ATTRIBUTE = "__asyncray_method_options__"
ASYNC_CONCURRENCY = 1000


if TYPE_CHECKING:

    class HasClass(Protocol[P, C_co]):
        """An actor class, for ``CreateOf``: the class is the function that makes its instances."""

        @property
        def _asyncray_class(self) -> Callable[P, C_co]: ...

    class CreateOf:
        """The attribute ``remote`` of an actor class, where a type checker can see a class as a function."""

        def __get__(
            self, instance: HasClass[P, C], owner: object = None
        ) -> Submit[P, ActorHandle[C], Callable[P, ActorHandle[C]]]:
            raise NotImplementedError  # no instances exist


class ActorClassSpec:
    """The parts of an actor class that all its ``.options()`` copies share."""

    def __init__(self, cls: type) -> None:
        self.source = ExportedFunction(cls, f"actor {cls.__name__}", Signature.of_class(cls))
        self.asynchronous = _has_coroutines(cls)
        # (max_task_retries, max_pending_calls) -> the type that handles of such actors share.
        self._descriptors: dict[tuple[int, int], ActorType] = {}

    def __repr__(self) -> str:
        return f"<ActorClassSpec {self.source}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptors": {}}

    def descriptor(self, named: Options) -> ActorType:
        """The type that handles of actors with these options share."""
        options: dict[str, Any] = complete_actor_options(named)
        key = options["max_task_retries"], options["max_pending_calls"]
        descriptor = self._descriptors.get(key)
        if descriptor is None:
            known = next(iter(self._descriptors.values()), None)
            methods = _methods(self.source.target) if known is None else known.copy_methods()
            if len(self._descriptors) >= MOST_TEMPLATES:
                self._descriptors.clear()
            descriptor = self._descriptors[key] = ActorType(self.source.name, self.source.path, methods, *key)
        return descriptor

    def template(self, runtime: Runtime, named: Options) -> tuple[int, ActorType, Export]:
        """The template of actors with these options: its number, the type that their handles share, and its export."""
        return self.source.templates.get_or_make(runtime, "", named, self._make_template)

    def _make_template(self, runtime: Runtime, named: Options) -> tuple[int, ActorType, Export]:
        options: dict[str, Any] = complete_actor_options(named)
        demand, descriptor = actor_demand(named), self.descriptor(named)
        concurrency = options["max_concurrency"] or (ASYNC_CONCURRENCY if self.asynchronous else 1)
        function = self.source.export(runtime)
        spec: TemplateSpec = {
            "name": self.source.name,
            "function": function.digest,
            "returns": 1,
            "retries": 0,
            "demand": fixed(demand.placement),
            "life": fixed(demand.lifetime),
            "options": {
                "shown": f"{self.source.path}.__init__",
                "asynchronous": self.asynchronous,
                "concurrency": concurrency,
                "ordered": concurrency == 1 and not self.asynchronous and not options["allow_out_of_order_execution"],
                "restarts": options["max_restarts"],
                "detached": options["lifetime"] == "detached",
                "descriptor": descriptor.pickled(),
            },
        }
        place(spec, named, demand.placement, f"actor {self.source.name}")
        export = runtime.submitter.template(spec, function)
        return export.number, descriptor, export


class ActorClass(Generic[C]):
    """A class whose instances live in processes of their own. Made by ``@remote``.

    Example::

        @asyncray.remote
        class Counter: ...

        counter = Counter.remote()
    """

    if TYPE_CHECKING:
        _asyncray_class: type[C]

    # Attributes of ours would hide those of the user's class, so all have a prefix that users' classes do not use.

    def __init__(self, spec: ActorClassSpec, options: dict[str, object]) -> None:
        self._asyncray_spec = spec
        self._asyncray_options = options
        # The session, the number of the template there, the type of the handles, and the export of the template.
        self._asyncray_exported: tuple[Runtime, int, ActorType, Export] | None = None
        _check_order(options, asynchronous=spec.asynchronous)
        cls = spec.source.target
        self.__doc__ = cls.__doc__
        self.__name__ = cls.__name__
        self.__module__ = cls.__module__

    def __repr__(self) -> str:
        return f"ActorClass({self.__name__})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_asyncray_exported": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    if TYPE_CHECKING:

        def __call__(self, write_remote_instead: Never, /) -> Any:
            """An error of the caller. Not NoReturn, which would end the check of the function."""

    else:

        def __call__(self, /, *args: object, **kwargs: object) -> NoReturn:
            name = self.__name__
            raise TypeError(f"Actors cannot be instantiated directly. Instead of '{name}()', use '{name}.remote()'.")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise ActorClassInheritanceException(
            "Inheriting from actor classes is not currently supported. Inherit from the plain class "
            f"{self.__name__} and make the subclass an actor class."
        )

    def __getattr__(self, name: str) -> Any:
        if "_asyncray_spec" not in self.__dict__:
            raise AttributeError(name)  # while it is being unpickled
        return getattr(self._asyncray_spec.source.target, name)

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *dir(self._asyncray_spec.source.target)]

    def options(self, **options: Unpack[ActorOptions]) -> Self:
        """The same class with other options for its actors. Options that are not named stay.

        Raises:
            ValueError: an unknown option, or one that is not possible here.
            TypeError: a value of a wrong type.
        """
        return type(self)(
            self._asyncray_spec, reject_unsupported(override_actor_options(self._asyncray_options, options))
        )

    def _asyncray_create(self, /, *args: Any, **kwargs: Any) -> ActorHandle[C]:
        """Makes an actor; returns its handle at once. The constructor runs in the actor's process.

        Raises:
            TypeError: the arguments do not fit the constructor, or cannot be pickled.
            OwnerDiedError: a ref among them is of a session that has ended.
            ActorAlreadyExistsError: its name is taken (a ValueError, too).
        """
        source, options = self._asyncray_spec.source, self._asyncray_options
        source.signature.check(args, kwargs)
        runtime = require()
        exported = self._asyncray_exported
        if exported is None or exported[0] is not runtime or context.capturing:
            exported = self._asyncray_export(runtime)
        _, template, descriptor, _ = exported
        actor_name = options.get("name")
        if actor_name is None and options.get("lifetime") != "detached":
            life = runtime.submitter.create(template, args, kwargs, source.name)
            return ActorHandle(life.binary()[: -len(PUT_INDEX)], descriptor, life)
        message, life, keep = runtime.submitter.prepare(template, args, kwargs, source.name)
        namespace = options.get("namespace") or runtime.facts["namespace"]
        reuse = bool(options.get("get_if_exists"))
        runtime.flush()  # a release, which goes last in a batch, may free the name
        found = runtime.request("create_named", namespace, actor_name or "", reuse, descriptor.pickled(), message)
        del keep  # the refs among the arguments had to live until here
        if found is not None:
            return ActorHandle(found[0], known_descriptor(found[1]), None)
        return ActorHandle(life.binary()[: -len(PUT_INDEX)], descriptor, life)

    if MYPY:
        remote: Submit[..., ActorHandle[C], Callable[..., ActorHandle[C]]]
    else:
        remote: CreateOf = cast("CreateOf", _asyncray_create)

    def _asyncray_export(self, runtime: Runtime) -> tuple[Runtime, int, ActorType, Export]:
        options = self._asyncray_options
        if context.capturing:
            from asyncray.api.placement_groups import captured_options  # start-up cost: few programs have groups

            options = captured_options(options)
        exported = (runtime, *self._asyncray_spec.template(runtime, options))
        if options is self._asyncray_options:
            self._asyncray_exported = exported
        return exported


if TYPE_CHECKING:

    class TypedActorClass(ActorClass[C], Generic[C, P]):
        """An actor class with the parameters of its constructor, for mypy."""

        remote: Submit[P, ActorHandle[C], Callable[P, ActorHandle[C]]]


def _check_order(options: Options, *, asynchronous: bool) -> None:
    concurrent = asynchronous or (options.get("max_concurrency") or 1) != 1
    if concurrent and options.get("allow_out_of_order_execution") is False:
        raise ValueError(
            "allow_out_of_order_execution=False is not possible for async or threaded actors: their calls overlap."
        )


def _has_coroutines(cls: type) -> bool:
    members = (value for base in cls.__mro__ for value in vars(base).values())
    return any(is_asynchronous(getattr(value, "__func__", value)) for value in members)


def _methods(cls: type) -> dict[str, MethodType]:
    methods = {}
    for name in dir(cls):
        member = getattr(cls, name, None)
        if name in vars(object) or not callable(member) or isinstance(member, type):
            continue
        options = getattr(member, METHOD_OPTIONS_ATTRIBUTE, {})
        if is_generator(getattr(member, "__func__", member)):
            options = {"num_returns": "streaming", **options}
        methods[name] = MethodType(name, Signature.of_method(cls, name), options, getattr(member, DECORATOR, None))
    for name in ("__ray_ready__", "__ray_call__", "__ray_terminate__"):
        methods[name] = MethodType(name, None, {})
    return methods


@overload
def method(function: F, /) -> F: ...
@overload
def method(
    *, num_returns: int | str | None, **options: Unpack[MethodOptions]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
@overload
def method(**options: Unpack[MethodOptions]) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...
def method(*functions: Any, **options: object) -> Any:
    """Sets defaults for the calls of an actor's method.

    Args:
        functions: the method, for ``@method`` without options, which changes nothing.
        options: ``num_returns``, ``max_task_retries``, ``retry_exceptions``, ``enable_task_events``.

    Raises:
        ValueError: no option, or an unknown one.
        TypeError: an argument that is no function.

    Example::

        @asyncray.method(num_returns=2)
        def pair(self): return 1, 2
    """
    if len(functions) == 1 and callable(functions[0]) and not options:
        return functions[0]
    if functions:
        raise TypeError("@method takes options by keyword, as in @method(num_returns=2).")
    if not options:
        raise ValueError("@method takes options by keyword, as in @method(num_returns=2).")
    checked = reject_unsupported(validate_method_options(options, in_options=False))

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        setattr(function, METHOD_OPTIONS_ATTRIBUTE, checked)
        return function

    return decorate


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """Ends an actor at once: no exit handlers run.

    Args:
        actor: a handle of it.
        no_restart: False makes it count as a crash: the actor is restarted if ``max_restarts`` allows.

    Raises:
        ValueError: not a handle.
        ActorHandleNotFoundError: a handle of an earlier session (a ValueError, too).

    Example::

        counter = Counter.remote()
        ray.kill(counter)
        ray.get(counter.increment.remote())  # raises ActorDiedError
    """
    runtime = require()
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill() only supported for actors. Got: {type(actor)}.")
    life = actor._asyncray_life
    if life is not None and life._local.table is not runtime.references:
        raise ActorHandleNotFoundError(
            f"ActorHandle objects are not valid across Ray sessions: {actor!r} belongs to a session that has ended."
        )
    runtime.post((KILL, actor._asyncray_id, bool(no_restart)))  # numpy's cannot be sent
    runtime.flush()


def exit_actor() -> NoReturn:
    """Ends the actor that this code runs in: this call, queued and later ones fail with ``ActorDiedError``.

    Raises:
        TypeError: this code runs in no actor.
    """
    runtime = require()
    if runtime.workplace is None:
        raise TypeError(f"exit_actor API is called on a non-actor worker ({running_task() or 'a driver'}).")
    runtime.workplace.exit_actor()
