"""The house rules that a machine can check, read from the syntax trees of everything under `asyncray/`.

One of them, that prose is plain, also holds for tests and examples.

A rule is a function from a package (modules by dotted name) to a list of complaints. Each is tried on the real package,
which must leave it nothing to say, and on a small package made to break it: a rule that cannot fail is a defect.
"""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from textwrap import dedent

import pytest

from tests import conftest, voice

ROOT = Path(__file__).parent.parent / "asyncray"

# From the bottom to the top: a module may import from its own row and from the rows before it.
LAYERS = (
    {
        "exception_state",
        "exceptions",
        "ids",
        "config",
        "messages",
        "units",
        "words",
        "cluster_messages",
        "cluster_words",
    },
    {"core"},
    {"wire"},
    {"io"},
    {"runtime"},
    {"worker", "node", "head"},
    {"", "api", "sync"},  # "" is asyncray/__init__.py: the two faces show what api makes
    {"cli", "dashboard", "util", "testing", "__main__"},
)
RANK = {part: rank for rank, row in enumerate(LAYERS) for part in row}
PROCESSES = {"worker", "node", "head"}
CLIENTS = {"io", "runtime", "worker", "", "api", "sync"}  # what a driver or worker loads: nothing of the daemon's
RECORDS = {f"asyncray.core.{name}" for name in ("records", "leases", "lives", "cluster.covers")}
SANS_IO = {"core", "wire"}
IO = {"asyncio", "os", "socket", "threading", "time", "random", "logging"}
IO_COMPANIONS = {"aiohttp", "concurrent", "multiprocessing", "secrets", "selectors", "signal", "subprocess", "uvloop"}

# Each module with a function has a test module.
MIRRORED = {"api", "cli", "core", "head", "io", "node", "runtime", "testing", "util", "wire", "worker"}
# Modules that are tested together.
COMPANIONS = {
    "asyncray.core.cluster.cached_copies": "tests/sim/test_transfers.py",
    "asyncray.core.cluster.covers": "tests/sim/test_references.py",
    "asyncray.core.cluster.far_values": "tests/sim/test_transfers.py",
    "asyncray.core.cluster.imports": "tests/sim/test_references.py",
    "asyncray.core.cluster.large_objects": "tests/sim/test_transfers.py",
    "asyncray.core.cluster.lending": "tests/sim/test_references.py",
    "asyncray.core.cluster.pull_sets": "tests/core/cluster/test_pulls.py",
    "asyncray.core.cluster.serving": "tests/sim/test_transfers.py",
    "asyncray.core.elsewhere": "tests/core/cluster/test_cluster.py",
}
INTERRUPTIBLE = {"runtime", "worker", "api", "sync", "util"}

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_PUBLIC_METHODS = 15
MAX_TRAILING_COMMENT = 60

UNCLEAR_ENDINGS = ("_soon", "_anyway", "_aside")

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
Import = (ast.Import, ast.ImportFrom)
Loop = (ast.For, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)


class Module:
    """One source file. A package's `__init__` carries the package's own name."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.tree = ast.parse(text)

    def __repr__(self) -> str:
        return f"Module({self.name}, {len(self.text.splitlines())} lines)"

    @property
    def part(self) -> str:
        """What decides the layer: `core` for `asyncray.core.scheduler`, nothing for `asyncray` itself."""
        return self.name.partition(".")[2].partition(".")[0]

    def comments(self) -> dict[int, str]:
        """The comments by line number, without their marks."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


Package = dict[str, Module]
Rule = Callable[[Package], list[str]]


def make_package(files: dict[str, str]) -> Package:
    return {name: Module(name, dedent(text)) for name, text in files.items()}


@cache
def read_package() -> Package:
    names = {path: ".".join(("asyncray", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    return make_package({name.removesuffix(".__init__"): path.read_text() for path, name in names.items()})


def read_tests_and_examples() -> Package:
    """Without the two files that quote forbidden phrases."""
    paths = {path for top in ("tests", "examples") for path in (ROOT.parent / top).rglob("*.py")}
    paths -= {Path(__file__), Path(voice.__file__)}
    names = {path: ".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in sorted(paths)}
    return make_package({name: path.read_text() for path, name in names.items()})


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every absolute name that is imported anywhere in the tree: at the top, in functions, for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def own_imports(package: Package, module: Module) -> set[str]:
    """The package's modules that a module imports; `from asyncray.ids import TaskID` is an import of `asyncray.ids`."""
    found = set()
    for name in imported_names(module.tree):
        parent = name.rpartition(".")[0]
        found.add(parent if name not in package and parent in package else name)
    return {name for name in found if name.split(".")[0] == "asyncray"} - {module.name}


# --- the rules -------------------------------------------------------------------------------------------------------


def imports_are_absolute(package: Package) -> list[str]:
    return [
        f"{module.name}:{node.lineno} imports relatively"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]


def modules_belong_to_a_layer(package: Package) -> list[str]:
    return [f"{module.name} is in no layer" for module in package.values() if module.part not in RANK]


def imports_go_down(package: Package) -> list[str]:
    complaints = []
    for module in package.values():
        for target in own_imports(package, module):
            part = Module(target, "").part
            if RANK.get(module.part, -1) < RANK.get(part, -1):
                complaints.append(f"{module.name} imports {target}, which is above it")
    return complaints


def processes_are_strangers(package: Package) -> list[str]:
    complaints = []
    for module in package.values():
        others = PROCESSES - {module.part} if module.part in PROCESSES else set()
        for target in own_imports(package, module):
            if Module(target, "").part in others:
                complaints.append(f"{module.name} imports {target}, which belongs to another process")
    return complaints


def clients_do_without_the_core(package: Package) -> list[str]:
    return [
        f"{module.name} imports {target}, which decides for a daemon"
        for module in package.values()
        if module.part in CLIENTS
        for target in own_imports(package, module)
        if Module(target, "").part == "core"
    ]


def module_imports(module: Module) -> set[str]:
    """The modules that are named by imports at the top of the module, which it makes when it is loaded."""
    return {node.module or "" for node in module.tree.body if isinstance(node, ast.ImportFrom)}


def imports_have_no_cycle(package: Package) -> list[str]:
    """The records of the core know one another: among these, types alone may go round."""
    graph = {module.name: own_imports(package, module) for module in package.values()}
    for name in RECORDS & graph.keys():
        graph[name] -= RECORDS - module_imports(package[name])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["cycle: " + " -> ".join(error.args[1])]
    return []


def core_and_wire_do_no_io(package: Package) -> list[str]:
    return [
        f"{module.name} imports {name}"
        for module in package.values()
        if module.part in SANS_IO
        for name in imported_names(module.tree)
        if name.split(".")[0] in IO | IO_COMPANIONS
    ]


def inner_imports_give_a_reason(package: Package) -> list[str]:
    """On the same line or the line before; imports in a row share one. A cycle is no reason, nor is a linter's mark."""
    complaints = []
    for module in package.values():
        functions = [node for node in ast.walk(module.tree) if isinstance(node, Function)]
        imports = {node for function in functions for node in ast.walk(function) if isinstance(node, Import)}
        excused_until = -1
        for node in sorted(imports, key=lambda node: node.lineno):
            if has_reason(module, node) or node.lineno == excused_until + 1:
                excused_until = node.end_lineno or node.lineno
            else:
                complaints.append(f"{module.name}:{node.lineno} imports inside a function without a reason")
    return complaints


def has_reason(module: Module, node: ast.Import | ast.ImportFrom) -> bool:
    lines, comments = module.text.splitlines(), module.comments()
    places = [*range(node.lineno, (node.end_lineno or node.lineno) + 1)]
    if lines[node.lineno - 2].lstrip().startswith("#"):
        places.append(node.lineno - 1)
    texts = [comments[place] for place in places if place in comments]
    return any(not re.match(r"noqa|type:|pragma", text) and not re.search(r"\bcycl|circular", text) for text in texts)


def modules_are_short(package: Package) -> list[str]:
    sizes = {module.name: len(module.text.splitlines()) for module in package.values()}
    return [f"{name} has {size} lines" for name, size in sizes.items() if size > MAX_MODULE_LINES]


def functions_are_short(package: Package) -> list[str]:
    return [
        f"{module.name}:{node.lineno} {node.name} has {size} lines"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, Function)
        if (size := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


def classes_are_narrow(package: Package) -> list[str]:
    return [
        f"{module.name}:{node.lineno} {node.name} has {count} public methods"
        for module in package.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        if (count := len(public_methods(node))) > MAX_PUBLIC_METHODS
    ]


def public_methods(node: ast.ClassDef) -> set[str]:
    """By name, so that overloads count once; a property reads like an attribute and is none."""
    methods = [item for item in node.body if isinstance(item, Function) and not item.name.startswith("_")]
    return {item.name for item in methods if not any("property" in ast.unparse(mark) for mark in item.decorator_list)}


def nothing_is_called_utils(package: Package) -> list[str]:
    return [f"{name} says nothing by its name" for name in package if "utils" in name.split(".")]


def modules_have_docstrings(package: Package) -> list[str]:
    return [f"{module.name} has no docstring" for module in package.values() if not ast.get_docstring(module.tree)]


def nothing_is_left_to_do(package: Package) -> list[str]:
    return [
        f"{module.name}:{number} leaves something to do"
        for module in package.values()
        for number, line in enumerate(module.text.splitlines(), start=1)
        if re.search(r"\b(TODO|FIXME)\b", line)
    ]


def loops_leave_locks_alone(package: Package) -> list[str]:
    """Where signal handlers may raise: see `asyncray.io.interrupts`. Generators are functions of their own."""
    return [
        f"{module.name}:{loop.lineno} loops where something must be undone: make the loop a function"
        for module in package.values()
        if module.part in INTERRUPTIBLE or module.name == "asyncray.io.interrupts"
        for node in ast.walk(module.tree)
        if (isinstance(node, ast.With) and "lock" in ast.unparse(node.items[0])) or getattr(node, "finalbody", None)
        for statement in node.body  # type: ignore[attr-defined]  # both have one
        for loop in within_function(statement)
        if isinstance(loop, Loop)
    ]


def within_function(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (*Function, ast.Lambda)):
            yield from within_function(child)


def the_core_has_one_order(package: Package) -> list[str]:
    """Sets are iterated in the order of hashes and addresses: the core keeps dicts, unless a comment says why not.

    Assertions (``check``) may use sets, as they decide nothing.
    """
    complaints = []
    for module in package.values():
        if module.part != "core":
            continue
        checks = {n for f in ast.walk(module.tree) if getattr(f, "name", "") == "check" for n in ast.walk(f)}
        found = [node for node in ast.walk(module.tree) if node not in checks and is_set(node)]
        lines = {node.lineno for node in found if isinstance(node, ast.expr)}
        excused = {line for line, text in module.comments().items() if text.lower().endswith("for membership only.")}
        complaints += [f"{module.name}:{line} has a set" for line in sorted(lines) if line - 1 not in excused]
    return complaints


def is_set(node: ast.AST) -> bool:
    made = isinstance(node, ast.Call) and ast.unparse(node.func) in ("set", "frozenset")
    typed = isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("set", "frozenset")
    return made or typed or isinstance(node, (ast.Set, ast.SetComp))


def class_names_are_unique(package: Package) -> list[str]:
    """Those of type aliases, too: a name means one thing."""
    homes: dict[str, list[str]] = {}
    for module in package.values():
        classes = (node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef))
        for name in (*classes, *filter(None, map(alias_of, module.tree.body))):
            homes.setdefault(name, []).append(module.name)
    return [f"{name} is a name in {', '.join(found)}" for name, found in homes.items() if len(found) > 1]


def alias_of(node: ast.stmt) -> str | None:
    """The name of a type alias. Constants are written in capitals, and type variables are the same in every module."""
    target: ast.expr
    if isinstance(node, ast.AnnAssign):
        target, value = node.target, node.value
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], node.value
    else:
        return None
    if not isinstance(target, ast.Name) or not re.fullmatch(r"_?[A-Z]\w*[a-z]\w*", target.id):
        return None
    made = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return None if made.endswith(("TypeVar", "ParamSpec")) else target.id


def file_names_are_unique(package: Package) -> list[str]:
    """Within the package: readers and tools speak of files by their last name. Entry points have theirs from Python."""
    homes: dict[str, list[str]] = {}
    for name in package:
        stem = name.rpartition(".")[2]
        if stem not in {"main", "__main__"} and not any(other.startswith(f"{name}.") for other in package):
            homes.setdefault(stem, []).append(name)
    return [f"{stem} is a file name of {', '.join(found)}" for stem, found in homes.items() if len(found) > 1]


def names_say_what_they_are(package: Package) -> list[str]:
    return [
        f"{module.name}:{line} {name}: what does it do?"
        for module in package.values()
        for line, name in defined_names(module.tree)
        if name.endswith(UNCLEAR_ENDINGS)
    ]


def defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, (*Function, ast.ClassDef)):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def trailing_comments_are_short(package: Package) -> list[str]:
    """Longer ones stand above their line. Marks of tools may be as long as they are."""
    return [
        f"{module.name}:{line} has a trailing comment of {len(text)} characters"
        for module in package.values()
        for line, text in module.comments().items()
        if len(text) > MAX_TRAILING_COMMENT
        and not module.text.splitlines()[line - 1].lstrip().startswith("#")
        and not re.match(r"noqa|type:|pragma|fmt:", text)
    ]


def prose_is_plain(package: Package) -> list[str]:
    """Comments, docstrings, and the texts of errors, log lines and assertions."""
    return [
        f"{module.name}:{line} {complaint}"
        for module in package.values()
        for line, paragraph in paragraphs(module)
        for complaint in voice.complaints(paragraph)
    ]


def paragraphs(module: Module) -> Iterator[tuple[int, str]]:
    """Comments on lines of their own that follow each other are one paragraph, and so are the lines of a string."""
    lines, block = module.text.splitlines(), ""
    for line, comment in module.comments().items():
        block = f"{block} {comment}"
        if not lines[line - 1].lstrip().startswith("#") or not lines[line : line + 1] or not is_comment(lines[line]):
            yield line, block
            block = ""
    for node in ast.walk(module.tree) if module.name.startswith("asyncray") else texts_for_people(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip().count(" ") > 1:
            for number, paragraph in enumerate(node.value.split("\n\n")):
                yield node.lineno + number, paragraph


def texts_for_people(module: Module) -> Iterator[ast.AST]:
    """Docstrings and assertion texts. Most other strings of tests are programs, data, or the output of a program."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value
        elif isinstance(node, ast.Assert) and node.msg is not None:
            yield from ast.walk(node.msg)


def is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


# --- the rules on trial ----------------------------------------------------------------------------------------------

LONG_FUNCTION = "def f():\n" + "    pass\n" * MAX_FUNCTION_LINES
WIDE_CLASS = "class A:\n" + "".join(f"    async def m{i}(self): ...\n" for i in range(MAX_PUBLIC_METHODS + 1))

# For every rule, packages that break it and a fragment of the complaint that they must get.
BREACHES: tuple[tuple[Rule, dict[str, str], str], ...] = (
    (imports_are_absolute, {"asyncray.core": "from . import ids"}, "core:1 imports relatively"),
    (modules_belong_to_a_layer, {"asyncray.misc.things": ""}, "asyncray.misc.things is in no layer"),
    (imports_go_down, {"asyncray.core.a": "from asyncray.wire import frames"}, "core.a imports asyncray.wire"),
    (imports_go_down, {"asyncray.ids": "import asyncray.core.a", "asyncray.core.a": ""}, "ids imports asyncray.core.a"),
    (imports_go_down, {"asyncray.io.a": "import asyncray"}, "asyncray.io.a imports asyncray,"),
    (
        imports_go_down,
        {"asyncray.api.a": "if TYPE_CHECKING:\n    from asyncray.util.queue import Queue"},
        "api.a imports asyncray.util.queue",
    ),
    (imports_go_down, {"asyncray.io.a": "def f():\n    import asyncray.api.b"}, "io.a imports asyncray.api"),
    (imports_go_down, {"asyncray.io.a": "importlib.import_module('asyncray.node.b')"}, "io.a imports asyncray.node"),
    (processes_are_strangers, {"asyncray.node.a": "from asyncray import head"}, "another process"),
    (processes_are_strangers, {"asyncray.worker.a": "import asyncray.node.b"}, "another process"),
    (clients_do_without_the_core, {"asyncray.api.a": "from asyncray.core.b import B"}, "decides for a daemon"),
    (clients_do_without_the_core, {"asyncray.runtime.a": "def f():\n    import asyncray.core.b"}, "decides"),
    (clients_do_without_the_core, {"asyncray.io.a": "import asyncray.core"}, "io.a imports asyncray.core"),
    (
        imports_have_no_cycle,
        {"asyncray.core.a": "from asyncray.core.b import B", "asyncray.core.b": "def f():\n    import asyncray.core.a"},
        "cycle: asyncray.core.",
    ),
    (
        imports_have_no_cycle,
        {
            "asyncray.core.records": "from asyncray.core.lives import A",
            "asyncray.core.lives": "from asyncray.core.records import A",
        },
        "cycle: asyncray.core.",
    ),
    (
        imports_have_no_cycle,
        {
            "asyncray.core.records": "if TYPE_CHECKING:\n    from asyncray.core.work import W",
            "asyncray.core.work": "from asyncray.core.records import A",
        },
        "cycle: asyncray.core.",
    ),
    (core_and_wire_do_no_io, {"asyncray.core.a": "from time import monotonic"}, "core.a imports time.monotonic"),
    (core_and_wire_do_no_io, {"asyncray.wire": "import os.path"}, "asyncray.wire imports os.path"),
    (core_and_wire_do_no_io, {"asyncray.wire": "def f():\n    import asyncio  # start-up"}, "wire imports asyncio"),
    (inner_imports_give_a_reason, {"asyncray.io": "def f():\n    import ast"}, "io:2 imports inside a function"),
    (inner_imports_give_a_reason, {"asyncray.io": "def f():\n    import ast  # noqa: X"}, "without a reason"),
    (inner_imports_give_a_reason, {"asyncray.io": "def f():\n    # a cycle\n    import ast"}, "without a reason"),
    (inner_imports_give_a_reason, {"asyncray.io": "def f():\n    x = 1  # one\n    import ast"}, "without a reason"),
    (modules_are_short, {"asyncray.io": "\n" * (MAX_MODULE_LINES + 1)}, "asyncray.io has 501 lines"),
    (functions_are_short, {"asyncray.io": LONG_FUNCTION}, "io:1 f has 61 lines"),
    (classes_are_narrow, {"asyncray.io": WIDE_CLASS}, "io:1 A has 16 public methods"),
    (nothing_is_called_utils, {"asyncray.io.utils": ""}, "asyncray.io.utils"),
    (modules_have_docstrings, {"asyncray.io": "x = 1"}, "asyncray.io has no docstring"),
    (nothing_is_left_to_do, {"asyncray.io": "x = 1  # TODO: think"}, "io:1 leaves"),
    (nothing_is_left_to_do, {"asyncray.io": "\n# FIXME"}, "io:2 leaves"),
    (
        loops_leave_locks_alone,
        {"asyncray.runtime": "def f():\n    with self._lock:\n        if x:\n            for y in x: pass"},
        "runtime:4 loops",
    ),
    (loops_leave_locks_alone, {"asyncray.api": "try:\n    [x for x in y]\nfinally:\n    z()"}, "api:2 loops"),
    (the_core_has_one_order, {"asyncray.core.a": "x = set(y)"}, "core.a:1 has a set"),
    (the_core_has_one_order, {"asyncray.core.a": "x: set[bytes]"}, "core.a:1 has a set"),
    (the_core_has_one_order, {"asyncray.core.a": "for x in {1, 2}: pass"}, "core.a:1 has a set"),
    (the_core_has_one_order, {"asyncray.core.a": "x = {y for y in z}"}, "core.a:1 has a set"),
    (
        class_names_are_unique,
        {"asyncray.io": "class A: ...", "asyncray.api": "def f():\n    class A: ..."},
        "A is a name in asyncray.io, asyncray.api",
    ),
    (
        class_names_are_unique,
        {"asyncray.io": "Ask = Callable[[], None]", "asyncray.api": "class Ask(Protocol): ..."},
        "Ask is a name in asyncray.io, asyncray.api",
    ),
    (class_names_are_unique, {"asyncray.io": "A1b: TypeAlias = int", "asyncray.api": "A1b = str"}, "A1b is a name"),
    (
        file_names_are_unique,
        {"asyncray.io.node": "", "asyncray.node": "", "asyncray.cli.node": ""},
        "node is a file name of asyncray.io.node, asyncray.node, asyncray.cli.node",
    ),
    (names_say_what_they_are, {"asyncray.io": "def end_soon(): ..."}, "io:1 end_soon"),
    (names_say_what_they_are, {"asyncray.io": "def f(split_anyway): ..."}, "io:1 split_anyway"),
    (names_say_what_they_are, {"asyncray.io": "self.put_aside = 1"}, "io:1 put_aside"),
    (trailing_comments_are_short, {"asyncray.io": "x = 1  # " + "x" * 61}, "io:1 has a trailing comment of 61"),
    (prose_is_plain, {"asyncray.io": '"""Wakes the loop for whoever waits."""'}, "io:1 'whoever'"),
    (prose_is_plain, {"asyncray.io": "x = 1  # the daemon closes it, for it is full"}, "io:1 'for it'"),
    (prose_is_plain, {"asyncray.io": "raise OSError(f'The port {x} is taken, or else it was')"}, "io:1 'or else'"),
    (prose_is_plain, {"asyncray.io": "# Another thread may be\n# ahead else.\nx = 1"}, "io:2 'else'"),
    (prose_is_plain, {"asyncray.io": "# first\nx = 1  # the owner is told"}, "io:2 'is told'"),
    (prose_is_plain, {"asyncray.io": '"""Ends it. What sleeps is woken. Then it goes on."""'}, "io:1 'What sleeps"),
    (prose_is_plain, {"asyncray.io": "# The loop wakes what waits in it."}, "io:1 'what waits'"),
    (prose_is_plain, {"asyncray.io": "# Number -> who gets the answer"}, "io:1 '-> who'"),
    (prose_is_plain, {"asyncray.io": "# it knows which node has which copy"}, "io:1 'which node has which'"),
    (prose_is_plain, {"asyncray.io": "# For that a row names it"}, "io:1 'For that a'"),
    (prose_is_plain, {"asyncray.io": "# What nodes do " + "-" * 60}, "io:1 'What nodes do"),
    (prose_is_plain, {"asyncray.io": '"""Waits. Who asks gets it."""'}, "io:1 'Who asks"),
    (prose_is_plain, {"asyncray.io": "log('the node ends: who waits gets an error')"}, "io:1 'who waits'"),
    (prose_is_plain, {"asyncray.io": "# done once, however that comes"}, "io:1 'however that comes'"),
    (prose_is_plain, {"asyncray.io": "# True while somebody waits"}, "io:1 'somebody'"),
    (prose_is_plain, {"asyncray.io": "# keeps a vigil"}, "io:1 'vigil'"),
    (prose_is_plain, {"asyncray.io": '"""What the core sends to clients."""'}, "io:1 'What the core"),
    (prose_is_plain, {"asyncray.io": '"""Whether the value is large."""'}, "io:1 'Whether the value"),
    (prose_is_plain, {"asyncray.io": "# until the call is over"}, "io:1 'is over'"),
    (prose_is_plain, {"asyncray.io": "raise OSError('the node of the process is gone')"}, "io:1 'is gone'"),
    (prose_is_plain, {"asyncray.io": "# the value is not there yet"}, "io:1 'is not there'"),
    (prose_is_plain, {"asyncray.io": "# tells the daemon of it"}, "io:1 'tells the daemon'"),
    (prose_is_plain, {"asyncray.io": "# writes what was posted"}, "io:1 'what was posted'"),
    (prose_is_plain, {"asyncray.io": "# keeps what was raised"}, "io:1 'what was raised'"),
    (prose_is_plain, {"asyncray.io": '"""Room: its order, and what becomes of it."""'}, "io:1 'what becomes of'"),
    (prose_is_plain, {"asyncray.io": '"""Room: who may have it, and when it ends."""'}, "io:1 'who may have it"),
    (prose_is_plain, {"asyncray.io": '"""Those that a host keeps."""'}, "io:1 'Those that'"),
    (prose_is_plain, {"asyncray.io": "# closes it, for the other end is silent"}, "io:1 'for the other end is"),
    (prose_is_plain, {"tests.io.test_a": 'class End:\n    """What a stream reported."""'}, "test_a:2 'What a stream"),
    (prose_is_plain, {"tests.io.test_a": "assert x, f'{y} is not there yet'"}, "test_a:1 'is not there'"),
    (prose_is_plain, {"examples.a": "# the actor is gone"}, "examples.a:1 'is gone'"),
)

# Each statement comes close to a breach and is none.
SOUND = {
    "asyncray": '"""The async face."""\nfrom asyncray.api.tasks import remote',
    "asyncray.ids": '"""Ids."""\nimport os\nfrom asyncray import exceptions',
    "asyncray.exceptions": '"""Errors."""',
    "asyncray.core.records": '"""Records."""\nif TYPE_CHECKING:\n    from asyncray.core.leases import Lease',
    "asyncray.core.leases": '"""Leases."""\nfrom asyncray.core.records import Task',
    "asyncray.core.a": '"""A module of the core that is timely and has a TODOS list."""\nimport heapq, asyncray.ids',
    "asyncray.core.b": '"""Decides."""\nfrom asyncray.core.a import A\nfrom asyncray.core import a',
    "asyncray.core.c": '"""Sets."""\n# For membership only.\nx: set[int] = set()\ndef check():\n    set(x)',
    "asyncray.node.e": '"""Node."""\nfrom asyncray.core.b import B\nfrom asyncray.node.f import C',
    "asyncray.node.f": """
        'Imports late, and says why.'
        def f():
            # start-up cost: only the head serves HTTP
            import aiohttp
            from aiohttp import (
                web,
            )
            import json  # rare
        """,
    "asyncray.node.g": '"""Narrow."""\nclass B:\n' + "    @overload\n    def m(self): ...\n" * 16,
    "asyncray.node.h": '"""Narrow."""\nclass C:\n' + WIDE_CLASS.partition("\n")[2].replace("async", "@property\n   "),
    "asyncray.runtime": '"""Loops."""\nwith lock:\n    any(x for x in y)\nfor x in y:\n    with lock: ...',
    "asyncray.io.plain": """
        'A thread wakes the reader, or anyone else. It asks who waits. What does it do? It reads. No one else reads.'
        Reader = Callable[[], None]
        READERS = {"who waits": "x if y else z"}  # what else the reader needs, for its next turn, for the loop
        # The end waits, for workers that are slow, for each that may be: those of the node. Two ends: what one is.
        # What is there? There is a way over the wall, which is over a mile long: it was there that he had gone.
        # The kinds are told apart by their number; else if none fits the daemon logs it. `whoever` is a name in code.
        def soon(anyway): ...  # noqa: N802, this mark of a tool may be as long as its reason, even past the limit
        """,
    "asyncray.io.other": """
        'Named by what it is: who may write where.'
        T = TypeVar("T")
        READERS = 2
        call_soon()
        """,
    "asyncray.cli": '"""Commands."""\nT = TypeVar("T")',
    "asyncray.cli.main": '"""An entry point."""',
    "asyncray.node.main": '"""Another one."""',
    "tests.node.test_programs": '"""Runs it."""\nrun("if x: y\\nelse: z")\nassert x == "The node is gone.", x',
    "asyncray.util.util": '"""Not called utils."""\nimport asyncray.sync as ray\nfrom asyncray.api import tasks',
}  # fmt: skip

RULES = tuple(dict.fromkeys(rule for rule, _, _ in BREACHES))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_package_keeps_the_rule(rule: Rule) -> None:
    assert rule(read_package()) == []


def test_the_prose_of_tests_and_examples_is_plain() -> None:
    read = read_tests_and_examples()
    assert {"tests.core.world", "examples.tutorial.parallel_tasks"} <= read.keys()
    assert prose_is_plain(read) == []


def modules_without_tests(modules: Iterable[Module], tests: Collection[str]) -> list[str]:
    """``runtime/waiters.py`` has ``tests/runtime/test_waiters.py``. A module of nothing but words has no behaviour."""
    found = []
    for module in modules:
        _, *packages, last = module.name.split(".")
        test = COMPANIONS.get(module.name, "/".join(("tests", *packages, f"test_{last}.py")))
        has_functions = any(isinstance(node, Function) for node in ast.walk(module.tree))
        if packages and has_functions and last != "__main__" and test not in tests:
            found.append(f"{module.name} has no {test}")
    return found


def test_each_module_has_a_test_module() -> None:
    package = read_package()
    packages = {name.rpartition(".")[0] for name in package}
    modules = [
        module
        for name, module in package.items()
        if name not in packages and module.part in MIRRORED and ".benchmark." not in name
    ]
    tests = {path.relative_to(ROOT.parent).as_posix() for path in (ROOT.parent / "tests").rglob("test_*.py")}
    assert modules_without_tests(modules, tests) == []
    assert COMPANIONS.keys() <= package.keys()


def test_a_module_without_tests_is_seen() -> None:
    made = make_package(
        {
            "asyncray.io.a": "def f(): ...",
            "asyncray.core.head.b": "class B:\n    async def f(self): ...",
            "asyncray.core.words": "A = 1\nclass B: ...",
            "asyncray.io.__main__": "def f(): ...",
            "asyncray.ids": "def f(): ...",
        }
    )
    assert modules_without_tests(made.values(), {"tests/api/test_a.py", "tests/core/test_b.py"}) == [
        "asyncray.io.a has no tests/io/test_a.py",
        "asyncray.core.head.b has no tests/core/head/test_b.py",
    ]
    assert modules_without_tests(made.values(), {"tests/io/test_a.py", "tests/core/head/test_b.py"}) == []


PAGES = [ROOT.parent / "README.md", ROOT.parent / "CHANGELOG.md", *sorted((ROOT.parent / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_plain(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    blocks = re.split(r"\n\s*(?:\n|[*>#-] |\d+\. )|\|", text)
    assert [complaint for block in blocks for complaint in voice.complaints(block)] == []


@pytest.mark.parametrize(("rule", "files", "complaint"), BREACHES)
def test_a_breach_is_seen(rule: Rule, files: dict[str, str], complaint: str) -> None:
    complaints = rule(make_package(files))
    assert len(complaints) == 1
    assert complaint in complaints[0]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_is_no_breach_is_let_pass(rule: Rule) -> None:
    assert rule(make_package(SOUND)) == []


def test_the_package_is_read_whole() -> None:
    assert {"asyncray.core", "asyncray.ids"} <= read_package().keys()
    assert len(read_package()) == len(list(ROOT.rglob("*.py")))


def test_the_tests_get_each_variable_that_they_read_or_that_make_sets_for_them() -> None:
    """``conftest`` takes the others out: otherwise a long simulation would be the short one, and say nothing."""
    read = {
        name
        for path in (ROOT.parent / "tests").rglob("*.py")
        for name in re.findall(r'^[A-Z_]+ = .*environ\.get\("(ASYNCRAY_\w+)"', path.read_text(), re.MULTILINE)
    }
    made = set(re.findall(r"\b(ASYNCRAY_\w+)=\$\(", (ROOT.parent / "Makefile").read_text()))
    assert {"ASYNCRAY_SIM_SEEDS", "ASYNCRAY_CHAOS_SECONDS"} <= read
    assert read | made <= conftest.KEPT
