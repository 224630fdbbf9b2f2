"""Code paths: the entries of a driver's ``sys.path`` that its workers get, and their order."""

from __future__ import annotations

import importlib
import os
import site
import sys
import zipfile
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncray.runtime import code_paths
from asyncray.words import CodePaths

LIBRARY = os.path.dirname(os.__file__)
ARCHIVE = os.path.join(os.path.dirname(LIBRARY), f"python{sys.version_info[0]}{sys.version_info[1]}.zip")
STANDARD = [ARCHIVE, LIBRARY, os.path.join(LIBRARY, "lib-dynload")]
INSTALLED = site.getsitepackages()[:1]


def sent(before: Sequence[str] = (), between: Sequence[str] = (), after: Sequence[str] = ()) -> CodePaths:
    return {"before": list(before), "between": list(between), "after": list(after), "shadowed": []}


def test_entries_keep_their_place_around_the_interpreters_own() -> None:
    path = ["/app", "/lib-of-app", *STANDARD, "/vendored", *INSTALLED, "/from-a-pth-file", "/appended"]
    found = code_paths.of_program(path, "/app", {})
    assert found == sent(["/app", "/lib-of-app"], ["/vendored"], ["/from-a-pth-file", "/appended"])
    assert code_paths.arrange(found, [*STANDARD, *INSTALLED, "/from-a-pth-file"]) == path


@pytest.mark.parametrize(
    "entry",
    [
        f"{sys.prefix}/src",
        f"{sys.prefix}-app",
        f"{sys.prefix}/bin",
        f"{LIBRARY}-app",
        f"{LIBRARY}/app",
        f"{INSTALLED[0]}/app",
        f"{INSTALLED[0]}s",
        sys.prefix,
        "/",
        "/no/such/directory",
        "/plugins.zip/inside",
    ],
)
def test_the_programs_entries_are_sent_wherever_they_are(entry: str) -> None:
    assert code_paths.of_program([entry, *STANDARD, *INSTALLED], None, {}) == sent([entry])


def test_entries_are_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "app.pyz").touch()
    here = str(tmp_path)
    hook = "__editable__.app.finder.__path_hook__"
    found = code_paths.of_program(["", "app.pyz", "../src", "a.zip/lib", hook, *STANDARD, b"bytes", None], here, {})
    assert found == sent([here, f"{here}/app.pyz", f"{tmp_path.parent}/src", f"{here}/a.zip/lib", hook])


def test_without_a_working_directory_only_absolute_entries_are_sent() -> None:
    assert code_paths.of_program(["", "relative", "/app", *STANDARD], None, {}) == sent(["/app"])


def test_the_working_directory_comes_last_where_the_path_does_not_name_it() -> None:
    assert code_paths.of_program(["/app", *STANDARD, *INSTALLED], "/data", {}) == sent(["/app"], after=["/data"])
    assert code_paths.of_program(["/data", *STANDARD], "/data", {}) == sent(["/data"])


def test_a_worker_keeps_its_own_entries_behind_those_of_the_program() -> None:
    own = ["/pythonpath-of-the-node", *STANDARD, *INSTALLED, "/pth-of-the-node"]
    program = sent(["/app"], ["/vendored"], ["/late", "/pth-of-the-node"])
    expected = ["/app", own[0], *STANDARD, "/vendored", *INSTALLED, "/late", "/pth-of-the-node"]
    assert code_paths.arrange(program, own) == expected
    assert code_paths.arrange(program, expected) == expected


def test_without_installed_packages_what_follows_the_standard_library_stays_there() -> None:
    """As under ``python -S``."""
    path = ["/app", *STANDARD, "/packages"]
    found = code_paths.of_program(path, "/app", {})
    assert found == sent(["/app"], ["/packages"])
    assert code_paths.arrange(found, [*STANDARD, "/packages"]) == path


def test_a_program_among_the_installed_packages_does_not_move_them_to_the_front() -> None:
    """As a script that was installed beside them: its directory is ``sys.path[0]``."""
    path = [INSTALLED[0], *STANDARD, *INSTALLED, "/late"]
    assert code_paths.of_program(path, None, {}) == sent(after=["/late"])


def module(name: str, origin: str | None, *places: str) -> ModuleType:
    found = ModuleType(name)
    spec = found.__spec__ = ModuleSpec(name, None, origin=origin, is_package=bool(places))
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations += places
    return found


def test_the_places_of_modules_that_the_path_does_not_name_come_behind_it() -> None:
    modules = [
        module("app", "/app/app.py"),
        module("left", "/left/left.py"),
        module("archived", "/removed.zip/archived/__init__.py", "/removed.zip/archived"),
        module("compiled", "/compiled/compiled.cpython-311-x86_64-linux-gnu.so"),
        module("spread", None, "/one/spread", "/two/spread"),
        module("os", os.__file__),
        module("installed", f"{INSTALLED[0]}/installed.py"),
    ]
    found = code_paths.of_program(["/app", *STANDARD], "/data", {each.__name__: each for each in modules})
    assert found == sent(["/app"], after=["/left", "/removed.zip", "/compiled", "/one", "/two", "/data"])


def test_modules_that_are_not_found_by_their_name_have_no_place() -> None:
    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"{name} is loaded")

    odd: list[ModuleType] = [
        module("plugin_7", "/plugins/seven.py"),
        module("__main__", "/program/__main__.py"),
        module("package.part", "/package/part.py"),
        module("sys", "built-in"),
        module("relative", "here/relative.py"),
        module("nowhere", None),
        ModuleType("made_by_hand"),
    ]
    modules: dict[str, object] = {each.__name__: each for each in odd}
    assert code_paths.of_program(STANDARD, None, {**modules, "lazy": Lazy("lazy"), "none": None}) == sent()


def test_modules_of_the_standard_library_that_the_program_has_itself_make_way(tmp_path: Path) -> None:
    here = str(tmp_path)
    for name in ("numbers", "string", "queue", "program"):
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "decimal.txt").touch()
    (tmp_path / "email").mkdir()
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "__init__.py").touch()
    modules = {"string": module("string", f"{here}/string.py"), "queue": module("queue", f"{LIBRARY}/queue.py")}
    path = [here, "/no/such/directory", *STANDARD]
    assert code_paths.of_program(path, here, modules)["shadowed"] == ["json", "numbers", "string"]
    assert code_paths.of_program([*STANDARD, here], here, modules)["shadowed"] == []


def test_modules_of_the_standard_library_in_an_archive_of_the_program_are_found(tmp_path: Path) -> None:
    """As in a zipapp, and below a directory in an archive."""
    archive = tmp_path / "app.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("numbers.py", "json/__init__.py", "other.py", "vendored/string.py"):
            file.writestr(name, "")
    inside = str(archive / "vendored")
    modules = {"string": module("string", f"{inside}/string.py")}
    path = [str(archive), inside, *STANDARD]
    assert code_paths.of_program(path, str(tmp_path), modules)["shadowed"] == ["json", "numbers", "string"]


def test_modules_that_make_way_are_imported_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rival.py").write_text("places = 1")
    for name in ("rival", "rival.part", "rivals"):
        monkeypatch.setitem(sys.modules, name, module(name, None))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys.modules["rival"], "__path__", [], raising=False)
    code_paths.make_way(["rival", "never_loaded"])
    assert importlib.import_module("rival").places == 1
    assert "rival.part" not in sys.modules
    assert "rivals" in sys.modules


def test_the_path_module_makes_way_with_os(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("os", "os.path"):
        monkeypatch.setitem(sys.modules, name, sys.modules[name])
    code_paths.make_way(["os"])
    gone = "os" not in sys.modules and "os.path" not in sys.modules
    monkeypatch.undo()
    assert gone
