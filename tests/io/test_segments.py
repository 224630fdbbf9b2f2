"""Segments against the real shared memory of the machine, and against files."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import pickle
import secrets
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncray.io import segments
from asyncray.io.segments import (
    Backend,
    Segment,
    SegmentMap,
    copy_parts,
    in_files,
    in_shared_memory,
    pick_backend,
    sweep,
)

PROJECT = Path(__file__).parents[2]
MIB = 1 << 20


def entries(prefix: str) -> list[str]:
    return sorted(name for name in os.listdir("/dev/shm") if name.startswith(prefix))


@pytest.fixture
def session() -> Iterator[str]:
    """A name of our own; afterwards no segment of that name and no descriptor may be left."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    name = f"asyncray-test-{os.getpid()}-{secrets.token_hex(4)}"
    yield name
    gc.collect()
    assert entries(name) == []
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture(params=["shared memory", "files"])
def prefix(request: pytest.FixtureRequest, session: str, tmp_path: Path) -> str:
    """The prefix of segment names, in each backend."""
    return session if request.param == "shared memory" else f"{tmp_path}/{session}"


def run(code: str, *arguments: str) -> str:
    """Runs a program in a new interpreter; it must end well and print nothing to stderr."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


class Calls:
    """Watches a view, and counts its ends."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, view: object) -> None:
        self.watch = weakref.ref(view, self._ended)

    def _ended(self, watch: object) -> None:
        self.count += 1


def test_made_written_attached_closed_and_unlinked(prefix: str) -> None:
    name = f"{prefix}-0"
    with pytest.raises(FileNotFoundError):
        Segment.attach(name)
    made = Segment.create(name, 10_000)
    with pytest.raises(FileExistsError):
        Segment.create(name, 10_000)
    assert (made.name, made.size) == (name, 10_000)
    copy_parts(made, 9_990, [b"0123456789"], warm=False)
    copy_parts(made, 9_995, [memoryview(b"abcde")], warm=True)

    other = Segment.attach(name)
    again = Segment.attach(name)
    for segment in (other, again):
        assert (segment.name, segment.size) == (name, 10_000)
        assert bytes(segment.buf[9_990:]) == b"01234abcde"
    again.close()
    again.close()
    with pytest.raises(ValueError, match="is closed"):
        again.buf  # noqa: B018 # reading it is the test
    with pytest.raises(ValueError, match="is closed"):
        again.view(0, 1, Calls())

    made.unlink()
    made.unlink()  # no error: a sweep may have removed it
    with pytest.raises(FileNotFoundError):
        Segment.attach(name)
    assert bytes(other.buf[9_990:]) == b"01234abcde"  # the memory lives while it is mapped
    other.close()
    made.close()


def test_closing_leaves_what_is_viewed(prefix: str) -> None:
    segment = Segment.create(f"{prefix}-0", 4096)
    copy_parts(segment, 0, [b"still here"], warm=False)
    calls = Calls()
    view = segment.view(0, 10, calls)
    array = np.frombuffer(segment.buf, np.uint8)
    segment.unlink()
    segment.close()
    assert bytes(view) == array[:10].tobytes() == b"still here"
    assert calls.count == 0
    del view
    assert calls.count == 1


def test_nothing_is_written_or_viewed_outside(prefix: str) -> None:
    segment = Segment.create(f"{prefix}-0", 4096)
    for warm in (False, True):
        for offset, part in ((4095, b"ab"), (-1, b"a"), (4097, b"")):
            with pytest.raises(ValueError, match="are not in Segment"):
                copy_parts(segment, offset, [part], warm=warm)
    for offset, size in ((4000, 97), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="are not in Segment"):
            segment.view(offset, size, Calls())
    assert os.fstat(segment._fd).st_size == 4096
    segment.unlink()
    segment.close()


PARTS = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=50).map(lambda raw: memoryview(bytearray(raw))),
        st.lists(st.integers(0, 9), max_size=20).map(lambda numbers: np.array([numbers, numbers], np.int32).data),
    ),
    max_size=8,
)


LIMITS = st.integers(0, 800)


@given(parts=PARTS, offset=st.integers(0, 200), unlocked=LIMITS, two=LIMITS)
@settings(max_examples=100, deadline=None)
def test_parts_follow_each_other_through_the_mapping(
    parts: list[bytes | memoryview], offset: int, unlocked: int, two: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "_RELEASE_GIL_FROM", unlocked)
        patch.setattr(segments, "_TWO_THREADS_FROM", two)
        check_copy(parts, offset, warm=True)


@given(parts=PARTS, offset=st.integers(0, 200), at_once=st.integers(1, 500))
@settings(max_examples=100, deadline=None)
def test_parts_follow_each_other_through_the_descriptor(
    parts: list[bytes | memoryview], offset: int, at_once: int
) -> None:
    """The kernel may write less than it was given, wherever it likes."""

    def short_write(descriptor: int, views: list[memoryview], offset: int) -> int:
        assert len(views) <= 3
        return os.pwrite(descriptor, b"".join(views)[:at_once], offset)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", short_write)
        patch.setattr(segments, "_MOST_PARTS", 3)
        check_copy(parts, offset, warm=False)


def check_copy(parts: list[bytes | memoryview], offset: int, warm: bool) -> None:
    segment = Segment.create(f"asyncray-test-{os.getpid()}-{secrets.token_hex(4)}", 4096)
    try:
        copy_parts(segment, offset, parts, warm=warm)
        written = b"".join(part.tobytes() if isinstance(part, memoryview) else part for part in parts)
        assert bytes(segment.buf) == (b"\0" * offset + written).ljust(4096, b"\0")
    finally:
        segment.unlink()
        segment.close()


def test_large_parts_of_every_kind(prefix: str) -> None:
    numbers = np.arange(5 * MIB, dtype=np.int64)  # 40 MiB
    numbers.flags.writeable = False
    parts: list[bytes | memoryview] = [b"head".ljust(64), numbers.data, b"tail"]
    segment = Segment.create(f"{prefix}-0", 41 * MIB)
    for warm in (False, True):
        segment.buf[: 40 * MIB : MIB] = bytes(40)
        copy_parts(segment, 128, parts, warm=warm)
        assert np.array_equal(np.frombuffer(segment.buf, np.int64, 5 * MIB, offset=192), numbers)
        assert bytes(segment.buf[128:192]) == parts[0]
        assert bytes(segment.buf[192 + 40 * MIB :][:5]) == b"tail\0"
    segment.unlink()
    segment.close()


def test_memory_that_runs_out_while_writing_is_an_error(tmp_path: Path) -> None:
    """The limit on the size of files stands in for a full file system: a short write first, then the error."""
    code = """
import resource, sys
from asyncray.io.segments import Segment, copy_parts
segment = Segment.create(sys.argv[1], 100_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    copy_parts(segment, 0, [b"a" * 50_000, b"b" * 50_000], warm=False)
except OSError as error:
    print(error.strerror, bytes(segment.buf).rstrip(bytes(1)) == b"a" * 50_000 + b"b" * 10_000)
"""
    assert run(code, f"{tmp_path}/full-0") == "File too large True\n"


def blocks(segment: Segment) -> int:
    """Bytes that have memory, or a place on the disk."""
    return os.fstat(segment._fd).st_blocks * 512


@pytest.mark.parametrize("knows", [True, False])
def test_a_range_gets_memory_before_it_is_filled(prefix: str, monkeypatch: pytest.MonkeyPatch, *, knows: bool) -> None:
    if not knows:  # a system that does not know the request
        monkeypatch.setattr(segments, "_MADV_POPULATE_WRITE", 1 << 20)
    segment = Segment.create(f"{prefix}-0", 8 * MIB)
    segment.buf[0:5] = b"first"
    segment.populate(5, 4 * MIB)
    segment.populate(8 * MIB - 1, 1)
    assert bytes(segment.buf[0:5]) == b"first"
    assert prefix.startswith("/") or 4 * MIB < blocks(segment) <= 4 * MIB + 2 * mmap.PAGESIZE
    for wrong in ((-1, 1), (8 * MIB, 1), (0, 8 * MIB + 1)):
        with pytest.raises(ValueError, match="are not in"):
            segment.populate(*wrong)
    segment.unlink()
    segment.close()


@pytest.mark.parametrize(("kind", "told"), [(errno.EFAULT, errno.ENOSPC), (errno.ENOMEM, errno.ENOMEM)])
def test_memory_that_runs_out_before_a_range_is_filled_is_an_error(
    session: str, monkeypatch: pytest.MonkeyPatch, kind: int, told: int
) -> None:
    """Full shared memory answers EFAULT: see ``tests/node/test_bulk_shell.py``, where it is real."""

    class Mapping:
        def madvise(self, *arguments: int) -> None:
            raise OSError(kind, os.strerror(kind))

    segment = Segment.create(f"{session}-0", MIB)
    monkeypatch.setattr(segment, "_mapping", Mapping)
    with pytest.raises(OSError, match=os.strerror(told)) as caught:
        segment.populate(0, 10)
    assert caught.value.errno == told
    segment.unlink()
    segment.close()


def test_arrays_over_a_view_are_read_only_and_keep_it(prefix: str) -> None:
    array = np.arange(1000, dtype=np.float64)
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps({"a": array, "b": array * 2}, protocol=5, buffer_callback=buffers.append)
    segment = Segment.create(f"{prefix}-0", 4 * 4096)
    segment.unlink()
    copy_parts(segment, 64, [buffer.raw() for buffer in buffers], warm=False)
    calls = Calls()
    view = segment.view(64, 16_000, calls)
    segment.close()
    loaded = pickle.loads(data, buffers=[view[:8000], view[8000:]])
    assert np.array_equal(loaded["b"], array * 2)
    with pytest.raises(ValueError, match="assignment destination is read-only"):
        loaded["a"][0] = 1.0
    with pytest.raises(ValueError, match="WRITEABLE"):
        loaded["a"].flags.writeable = True
    last = loaded["a"][10:].reshape(3, -1)[1:]
    del loaded, view
    gc.collect()
    assert calls.count == 0
    assert last[0, 0] == 340.0
    del last
    assert calls.count == 1


def test_views_of_all_sizes_and_places(session: str) -> None:
    segment = Segment.create(f"{session}-0", 5000)
    content = bytes(range(250)) * 20
    copy_parts(segment, 0, [content], warm=False)
    for offset, size in ((0, 0), (5000, 0), (4999, 1), (0, 5000), (1, 4999), (64, 65), (4900, 70), (100, 2049)):
        calls = Calls()
        view = segment.view(offset, size, calls)
        assert (view.readonly, view.format, view.nbytes) == (True, "B", size)
        assert bytes(view) == content[offset : offset + size]
        assert calls.count == 0
        del view
        assert calls.count == 1
    segment.unlink()
    segment.close()


def test_a_view_in_a_cycle_is_released_by_the_collector(session: str) -> None:
    segment = Segment.create(f"{session}-0", 4096)
    segment.unlink()
    calls = Calls()
    cycle: list[object] = [segment.view(0, 100, calls)]
    cycle.append(cycle)
    segment.close()
    del cycle
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    assert calls.count == 1


def test_a_process_maps_each_segment_once(prefix: str) -> None:
    names = [f"{prefix}-{number}" for number in range(3)]
    made = [Segment.create(name, 4096) for name in names]
    known = SegmentMap()
    ready = threading.Barrier(8)
    seen: list[list[Segment]] = []

    def look() -> None:
        ready.wait()
        seen.append([known.writable(name) for name in names])

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert all(found is segment for row in seen for found, segment in zip(row, seen[0], strict=True))

    copy_parts(known.writable(names[0]), 0, [b"one"], warm=False)
    calls = Calls()
    view = known.view(names[0], 0, 3, calls)
    assert bytes(view) == b"one"
    with pytest.raises(FileNotFoundError):
        known.view(f"{prefix}-9", 0, 3, calls)
    for segment in made:
        segment.unlink()
        segment.close()
    known.forget(names[0])  # retired with a view on it, by a bug: the view must not notice
    known.forget(names[0])
    assert bytes(view) == b"one"
    with pytest.raises(FileNotFoundError):
        known.writable(names[0])
    known.close()
    assert repr(known) == "<SegmentMap []>"
    assert calls.count == 0


def test_no_tracker_no_noise_and_the_segment_survives(session: str) -> None:
    """Makers and users end with views alive; a tracker, if it knew, would unlink and complain."""
    quiet = """
import sys, psutil
from multiprocessing import resource_tracker
from asyncray.io.segments import Segment, SegmentMap, copy_parts
if sys.argv[2] == "make":
    made = Segment.create(sys.argv[1], 4096)
    copy_parts(made, 0, [b"kept"], warm=False)
    exported = memoryview(made.buf)
known = SegmentMap()
view = known.view(sys.argv[1], 0, 4, lambda view: None)
print(bytes(view), resource_tracker._resource_tracker._fd, psutil.Process().children())
gone = Segment.create(sys.argv[1] + "-gone", 4096)
gone.unlink()
print(resource_tracker._resource_tracker._fd, psutil.Process().children())
"""
    for what in ("make", "use"):
        assert run(quiet, f"{session}-0", what) == "b'kept' None []\nNone []\n"
        assert entries(session) == [f"{session}-0"]
    assert sweep(session) == [f"{session}-0"]


def test_other_users_of_shared_memory_are_tracked_as_before(session: str) -> None:
    code = """
import sys
from multiprocessing import resource_tracker, shared_memory
told = []
resource_tracker._resource_tracker._send = lambda verb, name, kind: told.append((verb, name))
from asyncray.io.segments import Segment, copy_parts
ours = Segment.create(sys.argv[1], 4096)
theirs = shared_memory.SharedMemory(sys.argv[1] + "-other", create=True, size=4096)
for one in (ours, theirs):
    one.unlink()
print(told == [("REGISTER", theirs._name), ("UNREGISTER", theirs._name)])
"""
    assert run(code, f"{session}-0") == "True\n"


def test_an_attach_without_descriptors_does_not_unlink(prefix: str) -> None:
    """mmap duplicates the descriptor; where it cannot, the segment of another process must stay."""
    segment = Segment.create(f"{prefix}-0", 4096)
    copy_parts(segment, 0, [b"kept"], warm=False)
    code = """
import os, resource, sys
from asyncray.io.segments import Segment
lowest = os.open("/dev/null", os.O_RDONLY)
os.close(lowest)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, lowest + 1))
try:
    Segment.attach(sys.argv[1])
except OSError as error:
    print(error.strerror)
"""
    assert run(code, segment.name) == "Too many open files\n"
    other = Segment.attach(segment.name)
    assert bytes(other.buf[:4]) == b"kept"
    other.close()
    segment.unlink()
    segment.close()


def test_a_creation_that_fails_leaves_nothing(prefix: str) -> None:
    with pytest.raises((OSError, OverflowError)):
        Segment.create(f"{prefix}-0", 1 << 62)
    with pytest.raises(FileNotFoundError):
        Segment.attach(f"{prefix}-0")


def test_sweep_takes_what_begins_with_the_prefix(prefix: str, session: str) -> None:
    for name in (f"{prefix}-0", f"{prefix}-1", f"{prefix}x-0"):
        Segment.create(name, 4096).close()
    assert sorted(sweep(f"{prefix}-")) == [f"{prefix}-0", f"{prefix}-1"]
    assert sweep(f"{prefix}-") == []
    Segment.attach(f"{prefix}x-0").close()
    assert sweep(prefix) == [f"{prefix}x-0"]
    for nothing in ("", "/dev/shm/"):
        with pytest.raises(ValueError, match="sweep everything"):
            sweep(nothing)


def test_sweep_without_the_directory_finds_nothing(tmp_path: Path) -> None:
    assert sweep(f"{tmp_path}/missing/session") == []


def test_where_the_store_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_shared_memory(80 * MIB, 100 * MIB) == Backend("", 80 * MIB, None)
    reduced = in_shared_memory(200 * MIB, 100 * MIB)
    assert reduced.capacity == 95 * MIB
    assert "95 MiB instead of 200 MiB" in str(reduced.warning)
    files = in_files(200 * MIB, 64 * MIB, "/store", 1000 * MIB)
    assert (files.directory, files.capacity) == ("/store", 200 * MIB)
    assert "only 64 MiB free" in str(files.warning)
    assert "--shm-size=211m" in str(files.warning)
    assert "gets 95 MiB instead of 200 MiB" in str(in_files(200 * MIB, 0, "/store", 100 * MIB).warning)

    assert "because /dev/shm cannot be written." in str(in_files(MIB, None, "/store", 100 * MIB).warning)

    shared = pick_backend(MIB, str(tmp_path / "unused"))
    assert shared == Backend("", MIB, None)
    assert shared.prefix("s1") == "s1"
    assert not (tmp_path / "unused").exists()
    free = {"/dev/shm": 64 * MIB}
    monkeypatch.setattr(segments, "_free_bytes", lambda directory: free.get(directory, 500 * MIB))
    assert pick_backend(60 * MIB, str(tmp_path / "unused")).directory == ""
    fallback = pick_backend(100 * MIB, str(tmp_path / "store"))
    assert fallback.capacity == 100 * MIB
    assert fallback.prefix("s1") == f"{tmp_path}/store/s1"
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700


def test_shared_memory_that_cannot_be_written_is_passed_over(tmp_path: Path) -> None:
    code = "import sys; from asyncray.io.segments import pick_backend; print(pick_backend(1, sys.argv[1]).directory)"
    mount = f"mount -t tmpfs -o ro tmpfs /dev/shm && exec {sys.executable} -c '{code}' {tmp_path}/store"
    done = subprocess.run(["unshare", "--mount", "sh", "-c", mount], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this user may not mount anything")
    assert done.stdout == f"{tmp_path}/store\n"
