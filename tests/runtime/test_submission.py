"""Functions and templates are sent once, invocations each time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asyncray.config import FUNCTION_LIMIT
from asyncray.exceptions import LocalNodeDiedError
from asyncray.ids import FIRST_RETURN, PUT_INDEX
from asyncray.messages import CREATE, FUNCTION, PLAIN, RELEASE_REFS, SUBMIT, TEMPLATE
from asyncray.runtime.runtime import Runtime
from tests.runtime.daemon_side import DEADLINE, DaemonSide, started


@pytest.fixture
def session() -> Iterator[tuple[Runtime, DaemonSide]]:
    with started() as session:
        yield session


def test_a_function_is_sent_once(session: Any) -> None:
    runtime, daemon = session
    exports = {runtime.submitter.export(len, "remote function f") for _ in range(3)}
    other = runtime.submitter.export(max, "remote function g")
    assert len(exports) == 1
    assert [daemon.next(FUNCTION)[1:3] for _ in range(2)] == [[e.number, e.digest] for e in (*exports, other)]


def test_a_function_that_captures_much_is_refused(session: Any) -> None:
    runtime, _ = session
    much = np.zeros(FUNCTION_LIMIT + 1, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"remote function f is too large.*put\(\) such data"):
        runtime.submitter.export(lambda: much, "remote function f")


def test_a_template_is_described_once_and_has_a_number_of_its_own(session: Any) -> None:
    runtime, daemon = session
    numbers = [runtime.submitter.template({"name": name}) for name in ("f", "g", "f")]
    assert numbers[0] == numbers[2] != numbers[1]
    assert [daemon.next(TEMPLATE)[1], daemon.next(TEMPLATE)[1]] == [export.number for export in numbers[:2]]


def test_refs_among_the_arguments_are_dependencies_and_released_after_the_message(session: Any) -> None:
    runtime, daemon = session
    ref = runtime.objects.put(1)
    object_id = ref.binary()
    result = runtime.submitter.submit(1, 1, (ref, 2), {"other": [3]}, "f")
    del ref
    message = daemon.next(SUBMIT)
    assert message[1] + FIRST_RETURN == result.binary()
    assert message[5] == (object_id,)
    assert daemon.next(RELEASE_REFS)[1] == (object_id,)


def test_a_call_without_arguments_carries_no_bytes_for_them(session: Any) -> None:
    runtime, daemon = session
    result = runtime.submitter.submit(1, 1, (), {}, "f")
    message = daemon.next(SUBMIT)
    assert (message[1] + FIRST_RETURN, message[3], message[4]) == (result.binary(), PLAIN, b"")


def test_returns_are_a_ref_a_list_or_nothing(session: Any) -> None:
    runtime, daemon = session
    assert runtime.submitter.submit(1, 0, (), {}, "f") is None
    assert len(set(runtime.submitter.submit(1, 3, (), {}, "f"))) == 3
    life = runtime.submitter.create(1, (), {}, "A")
    assert daemon.next(CREATE)[1] + PUT_INDEX == life.binary()


def test_nothing_is_submitted_to_a_daemon_that_has_ended(session: Any) -> None:
    runtime, daemon = session
    daemon.close()
    runtime.connection.channel._reader._thread.join(DEADLINE)
    with pytest.raises(LocalNodeDiedError):
        runtime.submitter.submit(1, 1, (), {}, "f")
