"""Functions and classes that go by value, also those that typing and functools have wrapped or extended.

cloudpickle keeps the classes that a process knows by an ID, in tables. A test plays another process by replacing these
tables for a while.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import sys
import threading
import typing
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import pytest
from cloudpickle import cloudpickle, register_pickle_by_value, unregister_pickle_by_value

from asyncray.runtime.reducers import REDUCERS, is_importable
from asyncray.runtime.serialization import deserialize, serialize

Tables = dict[str, Any]

TABLES = "_DYNAMIC_CLASS_TRACKER_BY_CLASS", "_DYNAMIC_CLASS_TRACKER_BY_ID"


class Elsewhere:
    """Another process, as far as classes are concerned."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self._tables: Tables = {TABLES[0]: weakref.WeakKeyDictionary(), TABLES[1]: weakref.WeakValueDictionary()}
        self._kept: list[Any] = []  # received values, kept as long as a test runs

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls the function in the other process; returns the result as this process gets it."""
        pickled = serialize((function, args)).pickled
        here = {name: getattr(cloudpickle, name) for name in TABLES}
        self._switch(self._tables)
        try:
            there, copies = deserialize(pickled)
            self._kept.append(there)
            answer = serialize(there(*copies)).pickled
        finally:
            self._switch(here)
        return deserialize(answer)

    def _switch(self, tables: Tables) -> None:
        for name, table in tables.items():
            self._patch.setattr(cloudpickle, name, table)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return Elsewhere(monkeypatch)


def echo(value: Any) -> Any:
    return value


def by_value(thing: Any) -> Any:
    """As if it came from ``__main__``."""
    thing.__module__ = "__main__"
    return thing


# --- what goes by value ----------------------------------------------------------------------------------------------


class Outer:
    class Inner: ...

    def method(self) -> None: ...


def test_what_is_importable() -> None:
    for thing in (Outer, Outer.Inner, Outer.method, echo, int, functools.singledispatch):
        assert is_importable(thing, thing.__qualname__)
    hidden = type("Outer", (), {"__module__": __name__})
    nameless = type("X", (), {"__module__": None})
    others: list[Any] = [hidden, by_value(type("Outer", (), {})), lambda: 1, nameless]
    for thing in others:
        assert not is_importable(thing, thing.__qualname__)


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_the_main_module_has_two_names(name: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType(name)
    exec("def triple(x): return 3 * x\nclass P:\n  x = 1\n  def get(self): return triple(self.x)", vars(main))
    exec("class E(Exception): pass\nimport typing\nT = typing.TypeVar('T')", vars(main))
    monkeypatch.setitem(sys.modules, name, main)
    point = main.P()

    def use(function: Any, point: Any, error: Any, variable: Any) -> Any:
        return function(2), point.get(), error, type(point), variable

    doubled, got, error, cls, variable = elsewhere.call(use, main.triple, point, main.E("x"), main.T)
    assert (doubled, got, error.args, cls, type(error)) == (6, 3, ("x",), main.P, main.E)
    assert variable is main.T
    assert type(elsewhere.call(echo, point)) is main.P
    assert deserialize(serialize(main).pickled) is sys.modules["__main__"]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package that workers cannot import."""
    package, module = ModuleType("shapes"), ModuleType("shapes.boxes")
    exec("class Box:\n  def __init__(self, w): self.w = w\ndef double(x): return 2 * x", vars(module))
    package.boxes = module  # type: ignore[attr-defined]  # as the import system does it
    for known in (package, module):
        monkeypatch.setitem(sys.modules, known.__name__, known)
    yield package
    if package.__name__ in cloudpickle.list_registry_pickle_by_value():
        unregister_pickle_by_value(package)


def test_modules_that_are_registered_go_by_value(package: Any, elsewhere: Elsewhere) -> None:
    def use(double: Any, box: Any) -> Any:
        for name in ("shapes", "shapes.boxes"):
            sys.modules.pop(name, None)
        return double(box.w), box

    names = "shapes", "shapes.boxes"
    modules = {name: sys.modules[name] for name in names}
    box = package.boxes.Box(3)
    assert b"2 * x" not in (before := serialize(box).pickled)
    register_pickle_by_value(package)
    doubled, back = elsewhere.call(use, package.boxes.double, box)
    sys.modules.update(modules)
    assert (doubled, back.w, type(back)) == (6, 3, package.boxes.Box)
    unregister_pickle_by_value(package)
    assert serialize(box).pickled == before


# --- classes ---------------------------------------------------------------------------------------------------------


def test_slots(elsewhere: Elsewhere) -> None:
    class Base:
        __slots__ = ("__hidden", "value")

        def __init__(self) -> None:
            self.value, self.__hidden = 1, 2

        def hidden(self) -> int:
            return self.__hidden

    class Weak(Base):
        __slots__ = ("__weakref__",)

    class Open(Weak):
        __slots__ = "other"

    class Free(Base):
        pass

    @dataclasses.dataclass(slots=True, frozen=True)
    class Record:
        x: int
        y: list[int] = dataclasses.field(default_factory=list)

    for cls in (Base, Weak, Open, Free):
        back, has_dict, has_weakref = elsewhere.call(_look_at, cls())
        assert (type(back), back.value, back.hidden()) == (cls, 1, 2)
        assert has_dict == (cls is Free)
        assert has_weakref == (cls is not Base)
    assert elsewhere.call(lambda: Record(1, [2])) == Record(1, [2])
    assert elsewhere.call(lambda: (Record.__slots__, Base.__slots__)) == (("x", "y"), ("__hidden", "value"))
    assert elsewhere.call(lambda: Outer.Inner.__qualname__) == "Outer.Inner"
    assert elsewhere.call(lambda: Record.__qualname__) == Record.__qualname__


def _look_at(value: Any) -> Any:
    return value, hasattr(value, "__dict__"), hasattr(value, "__weakref__")


def test_init_subclass_runs_for_new_classes_and_not_for_copies(elsewhere: Elsewhere) -> None:
    class Base(typing.Generic[typing.TypeVar("T")]):  # type: ignore[misc]
        known: typing.ClassVar[dict[str, Any]] = {}

        def __init_subclass__(cls, *, tag: str, **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            cls.tag = tag
            Base.known[cls.key] = cls

    class Middle(Base, tag="m"):
        key = "middle"

        def __init_subclass__(cls, **keywords: Any) -> None:
            super().__init_subclass__(tag="n", **keywords)

    class Leaf(Middle):
        key = "leaf"

    def look(leaf: Any) -> Any:
        class New(type(leaf)):  # type: ignore[misc]  # a class that only the other process knows
            key = "new"

        return type(leaf), leaf.tag, sorted(Base.known), New.tag, Base.known["leaf"] is Leaf

    assert elsewhere.call(look, Leaf()) == (Leaf, "n", ["leaf", "middle", "new"], "n", True)
    assert elsewhere.call(look, Leaf())[0] is Leaf
    assert sorted(Base.known) == ["leaf", "middle"]
    third = elsewhere.call(lambda: lambda: Leaf.tag)
    assert third() == "n"


class Point(typing.NamedTuple):
    x: int
    y: int = 0


def test_named_tuples(elsewhere: Elsewhere) -> None:
    class Place(typing.NamedTuple):
        x: int

    class Special(Point):
        __slots__ = ()

        def both(self) -> Any:
            return self.x, self.y

    back, has_dict, _ = elsewhere.call(_look_at, Special(1))
    assert (back.both(), type(back), has_dict) == ((1, 0), Special, False)
    assert elsewhere.call(lambda: Place(1)) == Place(1)


def make_settings() -> Any:
    class Settings:
        verbose: Any = False
        count = 0

    return Settings


def test_what_comes_back_to_the_origin_changes_nothing_there(elsewhere: Elsewhere) -> None:
    settings = make_settings()
    assert type(elsewhere.call(settings)) is settings
    settings.verbose = True

    def assign(value: Any) -> Any:
        type(value).count, type(value).added = 7, 1
        return value

    assert type(elsewhere.call(assign, settings())) is settings
    assert (settings.verbose, settings.count, hasattr(settings, "added")) == (True, 0, False)
    assert not any("asyncray" in name for name in vars(settings))


def test_copies_follow_the_origin_but_for_what_they_assign(elsewhere: Elsewhere) -> None:
    settings = make_settings()

    def count(value: Any) -> Any:
        type(value).count += 1
        return value.count, value.verbose

    assert elsewhere.call(count, settings()) == (1, False)
    settings.verbose = "origin"
    assert elsewhere.call(count, settings()) == (2, "origin")
    settings.count = 50  # which the copy has assigned itself
    assert elsewhere.call(count, settings()) == (3, "origin")


def test_what_a_copy_sends_changes_no_other_copy(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, third = make_settings(), Elsewhere(monkeypatch)

    def assign(value: Any) -> Any:
        type(value).verbose = "there"
        return value

    def keep(value: Any) -> Any:
        kept.append(type(value))
        return value.verbose

    def relay(value: Any) -> Any:
        return serialize(assign(value)).pickled

    kept: list[Any] = []
    assert third.call(keep, settings()) is False
    pickled = elsewhere.call(relay, settings())
    assert third.call(lambda pickled: deserialize(pickled).verbose, pickled) is False


def test_classes_that_are_their_own_parts(elsewhere: Elsewhere) -> None:
    class Node:
        known: typing.ClassVar[dict[str, Any]] = {}

        def again(self) -> Any:
            return super().__class__, Node

    Node.me = Node  # type: ignore[attr-defined]  # that is the point
    Node.known["node"], Node.default = Node, Node()  # type: ignore[attr-defined]  # as above

    def look() -> Any:
        me: Any = Node
        return me.me is me, me.known["node"] is me, type(me.default) is me, me().again()[1] is me

    assert elsewhere.call(look) == (True, True, True, True)


def test_metaclasses_and_abstract_classes(elsewhere: Elsewhere) -> None:
    class Loud(type):
        @property
        def label(cls) -> str:
            return cls.__name__.upper()

    class Named(metaclass=Loud): ...

    class Shape(abc.ABC):
        @property
        @abc.abstractmethod
        def area(self) -> int: ...

    class Square(Shape):
        area = 4

    @Shape.register
    class Virtual: ...

    def look() -> Any:
        with pytest.raises(TypeError, match="abstract"):
            Shape()  # type: ignore[abstract]  # that is the point
        return Named.label, isinstance(Square(), Shape), issubclass(Virtual, Shape)

    assert elsewhere.call(look) == ("NAMED", True, True)
    assert type(elsewhere.call(Square)) is Square


def test_enums(elsewhere: Elsewhere) -> None:
    class Planet(enum.Enum):
        EARTH = (5.9, 6.3)
        TERRA = (5.9, 6.3)  # noqa: PIE796  # an alias
        MARS = (0.6, 3.4)

        def __init__(self, mass: float, radius: float) -> None:
            self.mass, self.radius = mass, radius

        @property
        def gravity(self) -> float:
            return self.mass / self.radius

    class Access(enum.Flag):
        READ = enum.auto()
        WRITE = enum.auto()
        BOTH = READ | WRITE

    for member in (Planet.MARS, Access.READ, Access.BOTH, Access.READ | Access.WRITE):
        assert elsewhere.call(echo, member) is member
    names = ["EARTH", "TERRA", "MARS"]
    assert elsewhere.call(lambda: (Planet.MARS.mass, list(Planet.__members__))) == (0.6, names)
    assert elsewhere.call(lambda: Planet["TERRA"].gravity) == 5.9 / 6.3
    assert elsewhere.call(lambda: (Access.READ | Access.WRITE) is Access.BOTH)


# --- functools -------------------------------------------------------------------------------------------------------


def test_functions_with_classes_inside(elsewhere: Elsewhere) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "limit": 5, "unread": threading.Lock()}
    exec(CLASSES_INSIDE, space)
    assert elsewhere.call(space["function"]) == (5, 6, 1)


CLASSES_INSIDE = """
def function():
    class Outer:
        limit = limit
        unread = 1
        again = unread
        class Inner:
            above = limit + 1
    return Outer.limit, Outer.Inner.above, Outer.again
"""


def test_caches(elsewhere: Elsewhere) -> None:
    @functools.lru_cache(maxsize=7, typed=True)
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    fib.tag = "mine"  # type: ignore[attr-defined]  # any wrapper has attributes

    class Tools:
        @functools.lru_cache(maxsize=3)  # noqa: B019  # that is the point
        def plus(self, x: int) -> int:
            return x + 1

        @staticmethod
        @functools.cache
        def double(x: int) -> int:
            return x * 2

        @functools.cached_property
        def name(self) -> str:
            return "tools"

        twice = functools.partialmethod(plus, 2)

    parameters = {"maxsize": 7, "typed": True}
    found = elsewhere.call(lambda: (fib(20), fib.cache_parameters(), fib.tag))  # type: ignore[attr-defined]  # above
    assert found == (6765, parameters, "mine")
    back = elsewhere.call(echo, fib)
    assert (back(10), back.cache_parameters(), back.cache_info().currsize) == (55, parameters, 7)
    tools = Tools()
    use = lambda t: (t.plus(1), t.double(2), t.name, t.twice())  # noqa: E731  # all at once
    assert elsewhere.call(use, tools) == (2, 4, "tools", 3)
    assert elsewhere.call(tools.plus, 4) == 5
    assert elsewhere.call(functools.lru_cache(len), "abc") == 3


def test_weak_dictionaries(elsewhere: Elsewhere) -> None:
    class Page:
        by_number: ClassVar[weakref.WeakValueDictionary[int, Any]] = weakref.WeakValueDictionary()
        titles: ClassVar[weakref.WeakKeyDictionary[Any, str]] = weakref.WeakKeyDictionary()

        def __init__(self, number: int) -> None:
            self.number = number
            self.by_number[number] = self
            self.titles[self] = f"page {number}"

    def look(page: Any) -> tuple[dict[int, bool], list[str]]:
        kept = Page(3)
        known = {number: found is page or found is kept for number, found in Page.by_number.items()}
        return known, sorted(Page.titles.values())

    page, _ = Page(1), Page(2)
    assert elsewhere.call(look, page) == ({1: True, 3: True}, ["page 1", "page 3"])


def test_single_dispatch(elsewhere: Elsewhere) -> None:
    @functools.singledispatch
    def show(x: Any) -> Any:
        return show(1) if x else "any"

    @show.register
    def _(x: int) -> str:
        return "int"

    class Tools:
        @functools.singledispatchmethod
        def kind(self, x: Any) -> str:
            return "any"

        @kind.register
        def _(self, x: int) -> str:
            return "int"

    @show.register(Tools)
    def _(x: Any) -> str:
        return "tools"

    assert elsewhere.call(lambda: (show(1), show([2]), show([]), show(Tools()))) == ("int", "int", "any", "tools")
    assert elsewhere.call(lambda t: (t.kind(1), t.kind("")), Tools()) == ("int", "any")


# --- typing ----------------------------------------------------------------------------------------------------------

T = typing.TypeVar("T")


def test_type_variables_and_new_types(elsewhere: Elsewhere) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "import typing\nT = typing.TypeVar('T', bound=int)\nU = typing.TypeVar('U', int, str)\n"
        "P = typing.ParamSpec('P')\nTs = typing.TypeVarTuple('Ts')\nUserId = typing.NewType('UserId', int)\n"
        "class Calls(typing.Generic[P, T]):\n"
        "  def __init__(self, f: typing.Callable[P, T]): self.f = f\n"
        "  def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T: return self.f(*args, **kwargs)",
        names,
    )
    for name in ("T", "U", "P", "Ts", "UserId"):
        assert elsewhere.call(echo, names[name]) is names[name]
    assert elsewhere.call(lambda u: (u.__constraints__, u.__name__, u.__module__), names["U"]) == (
        (int, str),
        "U",
        "__main__",
    )
    assert elsewhere.call(lambda u: (u(3), u.__supertype__), names["UserId"]) == (3, int)
    assert elsewhere.call(names["Calls"](lambda x: x + 1), 2) == 3
    assert elsewhere.call(echo, names["P"].kwargs) == names["P"].kwargs
    assert elsewhere.call(echo, T) is T  # by its name
    assert serialize(T).pickled.count(b"TypeVar") == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs the syntax of Python 3.12")
def test_the_syntax_for_type_parameters(elsewhere: Elsewhere) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(
        "class Box[A]:\n  def __init__(self, v: A): self.v = v\n"
        "type Tree = list[Tree] | int\ntype Many[X] = list[X]\n"
        "def f[B: int](x: Tree, y: Many[B]) -> B: return 3",
        names,
    )
    tree = elsewhere.call(echo, names["Tree"])
    assert tree.__value__.__args__[0].__args__[0] is tree
    assert elsewhere.call(names["f"], 1, 2) == 3
    assert elsewhere.call(lambda b: repr(b.__type_params__), names["Box"]) == "(A,)"
    assert elsewhere.call(echo, names["Box"].__type_params__[0]) is names["Box"].__type_params__[0]


# --- code ------------------------------------------------------------------------------------------------------------


def test_code_keeps_the_name_of_its_file(elsewhere: Elsewhere) -> None:
    assert elsewhere.call(lambda: sys._getframe().f_code.co_filename) == __file__


def test_types_that_cloudpickle_adds_need_no_earlier_function() -> None:
    assert deserialize(serialize([sys, memoryview(b"a"), {1: 2}.keys()]).pickled) == [sys, b"a", {1: 2}.keys()]
    assert set(REDUCERS) >= {ModuleType, memoryview}
