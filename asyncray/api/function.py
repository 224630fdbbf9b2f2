"""Remote functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Never, NoReturn, cast, overload

from asyncray.api.options import complete_task_options, override_task_options, reject_unsupported, task_demand
from asyncray.api.signature import Signature, is_generator
from asyncray.api.source import ExportedFunction, Options
from asyncray.api.strategies import place
from asyncray.api.typing import Out_co, P, Submit
from asyncray.runtime import context, current
from asyncray.runtime.exports import Export
from asyncray.runtime.runtime import Runtime, require
from asyncray.runtime.serialization import serialize
from asyncray.units import fixed

if TYPE_CHECKING:
    from typing import Unpack

    from asyncray.api.option_types import TaskOptions
    from asyncray.words import TemplateSpec

DECORATOR = "__ray_invocation_decorator__"
"""The attribute of a function or method that is wrapped around its calls. The name is Ray's."""


class RemoteFunction(Generic[P, Out_co]):
    """A function that runs in other processes. Made by ``@remote``.

    Example::

        @asyncray.remote
        def square(x: int) -> int: return x * x

        assert await square.remote(3) == 9
    """

    def __init__(self, source: ExportedFunction, options: dict[str, object]) -> None:
        self._source = source
        self._options = options
        # By ``options(name=...)``; None: the function's name. Travels with each call, so that it makes no template.
        self._task_name = cast("str | None", options.get("name")) or None
        # The session, the number of the template there, the number of returns, and what keeps the template there.
        self._exported: tuple[Runtime, int, int, Export] | None = None
        self.__doc__ = getattr(source.target, "__doc__", None)
        self.__name__ = source.name
        self.__module__ = source.module
        self.__wrapped__ = source.target

    def __repr__(self) -> str:
        return f"<RemoteFunction {self.__module__}.{self.__name__}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_exported": None}

    if TYPE_CHECKING:

        def __call__(self, write_remote_instead: Never, /) -> Any:
            """An error of the caller. Not NoReturn, which would end the check of the function."""

    else:

        def __call__(self, /, *args: object, **kwargs: object) -> NoReturn:
            raise TypeError(
                f"Remote functions cannot be called directly. Instead of running '{self.__name__}()', try "
                f"'{self.__name__}.remote()'."
            )

    @overload
    def options(self, *, num_returns: int | str, **options: Unpack[TaskOptions]) -> RemoteFunction[P, Any]: ...
    @overload
    def options(self, **options: Unpack[TaskOptions]) -> RemoteFunction[P, Out_co]: ...
    def options(self, **options: object) -> RemoteFunction[P, Any]:
        """The same function with other options for its calls. Options that are not named stay.

        Raises:
            ValueError: an unknown option, or one that calls cannot have.
            TypeError: a value of a wrong type.
        """
        return type(self)(self._source, reject_unsupported(override_task_options(self._options, options)))

    @property
    def demand(self) -> dict[str, float]:
        """The resources that a task takes while it runs: name -> amount."""
        return task_demand(self._options)

    @property
    def has_one_result(self) -> bool:
        """True unless ``num_returns`` says otherwise."""
        return self._options.get("num_returns") in (None, 1)

    @property
    def may_retry_errors(self) -> bool:
        """True if an exception of the function can make the task run again."""
        return bool(self._options.get("retry_exceptions"))

    def wrapped_by(self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> RemoteFunction[..., Any]:
        """A remote function with these options that runs ``wrap(function)``, and takes any arguments."""
        target = wrap(self._source.target)
        source = ExportedFunction(target, f"remote function {self.__name__}", Signature(target))
        return RemoteFunction(source, self._options)

    def _submit(self, /, *args: object, **kwargs: object) -> object:
        """Runs the function elsewhere; returns at once.

        Returns:
            A ref to the result; a list of refs with ``num_returns`` > 1, None with 0.

        Raises:
            TypeError: the arguments do not fit the function, as a local call would say, or cannot be pickled.
            OwnerDiedError: a ref among them is of a session that has ended.
        """
        source = self._source
        source.signature.check(args, kwargs)
        exported = self._exported
        if exported is None or exported[0] is not current.session or context.capturing:
            exported = self._export()
        runtime, number, returns, _ = exported
        return runtime.submitter.submit(number, returns, args, kwargs, source.name, self._task_name)

    remote: Submit[P, Out_co, Callable[P, Out_co]] = cast("Submit[P, Out_co, Callable[P, Out_co]]", _submit)

    def _export(self) -> tuple[Runtime, int, int, Export]:
        runtime, options = require(), self._options
        if context.capturing:
            from asyncray.api.placement_groups import captured_options  # start-up cost: few programs have groups

            options = captured_options(options)
        source = self._source
        exported = (runtime, *source.templates.get_or_make(runtime, source.name, options, self._make_template))
        if options is self._options:
            self._exported = exported
        return exported

    def _make_template(self, runtime: Runtime, named: Options) -> tuple[int, int, Export]:
        source = self._source
        options = complete_task_options(named)
        returns = options["num_returns"]
        if returns is None and is_generator(source.target):
            returns = "streaming"
        elif returns is None:
            returns = 1
        if not isinstance(returns, int):
            raise ValueError(
                f"{source.name} would hand out its results one by one, which this release cannot. Return a list, "
                "or give the number of values by num_returns."
            )
        function = source.export(runtime)
        spec: TemplateSpec = {
            "name": source.name,
            "function": function.digest,
            "returns": returns,
            "retries": cast(int, options["max_retries"]),
            "demand": fixed(task_demand(named)),
            "options": {
                "shown": source.path,
                "max_calls": cast(int, options["max_calls"]),
                "retry_on": retry_on(options["retry_exceptions"]),
            },
        }
        place(spec, named, task_demand(named), f"function {source.name}")
        export = runtime.submitter.template(spec, function)
        return export.number, returns, export


class DecoratedFunction(RemoteFunction[P, Out_co]):
    """A remote function with ``__ray_invocation_decorator__``, which is wrapped around each call.

    Example::

        def twice(invoke):
            return lambda args, kwargs: [invoke(args, kwargs), invoke(args, kwargs)]

        def square(x): return x * x

        square.__ray_invocation_decorator__ = twice
        first, second = asyncray.remote(square).remote(3)
    """

    def _submit_decorated(self, /, *args: object, **kwargs: object) -> object:
        """Has the decorator wrap the invocation, and returns the result of the wrapper."""
        decorate = getattr(self._source.target, DECORATOR)
        return decorate(lambda args, kwargs: self._submit(*args, **kwargs))(args, kwargs)

    remote: Submit[P, Out_co, Callable[P, Out_co]] = cast("Submit[P, Out_co, Callable[P, Out_co]]", _submit_decorated)


def retry_on(exceptions: object) -> bool | bytes:
    """The option ``retry_exceptions`` for the worker: a truth value, or pickled classes."""
    return exceptions if isinstance(exceptions, bool) else serialize(exceptions).pickled
