"""Session directories: which are used, which are swept, and which are left alone."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from asyncray.io import sessions

STRANGER = 65534


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as path:  # pytest's own are too long for the path of a socket
        monkeypatch.setenv("ASYNCRAY_TMPDIR", path)
        yield Path(path)


def stale_session() -> str:
    """A session whose processes were all killed."""
    directory, lock = sessions.new_session()
    os.close(lock)
    return directory


def test_a_session_without_processes_is_swept_but_never_ones_own(base: Path) -> None:
    own, stale = stale_session(), stale_session()
    other, lock = sessions.new_session()
    assert sessions.sweep_stale(own) == [stale]
    assert not sessions.is_running(stale)
    assert sessions.running() == [other]
    assert os.path.exists(f"{own}/lock")
    os.close(lock)


def test_what_a_killed_daemon_leaves_for_others_goes_with_its_session(base: Path) -> None:
    directory = stale_session()
    living = base / "token"
    left = [Path(directory, name) for name in (sessions.REGISTRY_FILE, sessions.TOKEN_FILE)]
    for path in (living, *left):
        path.write_text("secret")
    links = base / sessions.CLUSTER_LINKS
    links.mkdir()
    for name, target in (("dead", left[1]), ("living", living)):
        (links / name).symlink_to(target)
    assert sessions.sweep_stale(f"{base}/own") == [directory]
    assert not any(path.exists() for path in left)
    assert [path.name for path in links.iterdir()] == ["living"]


def test_a_removed_directory_is_made_again_with_a_lock(base: Path) -> None:
    directory, old = sessions.new_session()
    shutil.rmtree(base)
    new = sessions.restore(directory)
    assert new is not None
    assert sessions.running() == [directory]
    assert os.listdir(f"{directory}/logs") == []
    os.rmdir(f"{directory}/logs")
    assert sessions.restore(directory) is None  # its lock is still there
    os.close(new)
    assert not sessions.is_running(directory)
    os.close(old)
    shutil.rmtree(directory)
    Path(directory).mkdir(mode=0o777)
    Path(directory).chmod(0o777)
    with pytest.raises(PermissionError):
        sessions.restore(directory)


def test_a_lock_that_could_not_be_made_is_not_in_the_way_of_the_next(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, lock = sessions.new_session()
    sessions.ended(directory)

    def rename(old: str, new: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        with pytest.raises(OSError, match="No space left"):
            sessions.restore(directory)
    second = sessions.restore(directory)
    assert second is not None
    sessions.close_lock(second)
    sessions.close_lock(lock)


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702])
def test_a_base_that_others_may_write_is_refused(base: Path, mode: int) -> None:
    base.chmod(mode)
    for use in (sessions.base_directory, sessions.new_session, sessions.running):
        with pytest.raises(OSError, match=rf"{base} cannot be used \(others may write.*{mode:04o}.*or unset it"):
            use()
    base.chmod(0o755)
    assert sessions.base_directory() == str(base)


@pytest.mark.parametrize("mode", [0o777, 0o772])
@pytest.mark.parametrize("link", [False, True])
def test_a_base_below_a_directory_in_which_others_may_replace_it_is_refused(
    base: Path, mode: int, link: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, own = base / "shared", base / "own"
    own.mkdir()
    (shared / "a" / "b").mkdir(parents=True)
    (own / "link").symlink_to(shared / "a" / "b")
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(own / "link" if link else shared / "a" / "b"))
    assert sessions.base_directory()
    shared.chmod(mode)
    for use in (sessions.base_directory, sessions.new_session, sessions.running):
        with pytest.raises(OSError, match=rf"others may replace it, because they may write to {shared}: .* {mode:04o}"):
            use()
    shared.chmod(mode | stat.S_ISVTX)  # as /tmp
    assert sessions.base_directory()
    own.chmod(0o777)
    if link:
        with pytest.raises(OSError, match=f"they may write to {own}: "):
            sessions.base_directory()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_above_may_be_writable_by_a_group_of_roots_or_ones_own(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "shared" / "a").mkdir(parents=True)
    (base / "shared").chmod(0o775)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(base / "shared" / "a"))
    assert sessions.base_directory()
    os.chown(base / "shared", 0, STRANGER)
    with pytest.raises(OSError, match="others may replace it"):
        sessions.base_directory()
    user = SimpleNamespace(pw_gid=STRANGER, pw_name="me")
    monkeypatch.setattr(pwd, "getpwuid", lambda number: user)
    for name, members, good in (("me", ["me"], True), ("me", [], True), ("me", ["you"], False), ("staff", [], False)):
        group = SimpleNamespace(gr_name=name, gr_mem=members)
        monkeypatch.setattr(grp, "getgrgid", lambda number, group=group: group)
        assert sessions._is_own_group(STRANGER) == good


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_base_of_another_user_is_refused(base: Path) -> None:
    link = base / "link"
    (base / "theirs").mkdir()
    (base / "mine").mkdir()
    for target, owned in (("theirs", base / "theirs"), ("mine", link)):
        link.symlink_to(base / target)
        os.chown(owned, STRANGER, STRANGER, follow_symlinks=False)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ASYNCRAY_TMPDIR", str(link))
            with pytest.raises(OSError, match=f"it belongs to user {STRANGER} and you are user 0"):
                sessions.base_directory()
        link.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_sessions_of_others_are_neither_found_nor_swept(base: Path) -> None:
    own, theirs, writable, link = (stale_session() for _ in range(4))
    os.chown(theirs, STRANGER, STRANGER)
    os.chmod(writable, 0o777)
    os.rename(link, base / "elsewhere")
    os.symlink(base / "elsewhere", link)
    (base / "session_x_").mkdir()
    (base / "session_x_" / "lock").touch()
    assert sessions.sweep_stale(own) == []
    assert sessions.running() == []
    sessions.prune(str(base), keep=0)
    assert os.path.exists(theirs)


def test_looking_for_sessions_makes_no_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TMPDIR", str(base / "new"))
    assert sessions.running() == []
    assert not (base / "new").exists()
    assert sessions.base_directory() == str(base / "new")
    assert (base / "new").stat().st_mode & 0o777 == 0o700


def test_an_empty_variable_names_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCRAY_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", "")
    assert sessions.base_directory() == f"/tmp/asyncray-{os.geteuid()}"
    assert sessions.variables() == {}


def test_a_relative_directory_is_told_to_processes_as_an_absolute_one(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(base)
    monkeypatch.setenv("ASYNCRAY_TMPDIR", "relative")
    assert sessions.base_directory() == str(base / "relative")
    assert sessions.variables() == {"ASYNCRAY_TMPDIR": str(base / "relative")}


def test_cleaning_up_ends_even_if_the_lock_cannot_be_removed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, lock = sessions.new_session()

    def refuse(path: str) -> None:
        raise PermissionError(13, "as in a directory that became read-only", path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        sessions.clean_up(directory, 0.0)  # while a process holds the lock
        os.close(lock)
        patch.delattr(time, "sleep")  # there is nothing to wait for
        sessions.clean_up(directory, 60.0)
    assert os.path.exists(f"{directory}/lock")
    sessions.clean_up(directory, 60.0)
    assert not os.path.exists(f"{directory}/lock")


def test_the_session_of_a_private_node_names_its_program(base: Path) -> None:
    directory, lock = sessions.new_session("python program.py \udcff" + "x" * 1000)
    try:
        assert sessions.running() == [directory]
        found = sessions.program_of(directory)
        assert found is not None
        assert found.startswith("python program.py ?xxx")
        assert len(found) == 500
        os.unlink(os.path.join(directory, sessions.PROGRAM_FILE))
        assert sessions.restore(directory, "python program.py") is None
        assert sessions.program_of(directory) == "python program.py"
    finally:
        sessions.close_lock(lock)
        sessions.discard(directory)
    shared, lock = sessions.new_session()
    assert sessions.program_of(shared) is None
    sessions.close_lock(lock)
    sessions.discard(shared)
