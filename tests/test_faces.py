"""The two faces show the same things under the same names, as far as those do not wait."""

from __future__ import annotations

import inspect

import asyncray
import asyncray.sync

OWN_FORMS = {"init", "put"}
"""Names that each face defines for itself although they are no coroutine functions."""


def test_what_does_not_wait_is_the_same_object_in_both_faces() -> None:
    shared = (set(asyncray.__all__) & set(asyncray.sync.__all__)) - OWN_FORMS
    same = {name for name in shared if not inspect.iscoroutinefunction(getattr(asyncray, name))}
    assert {"ObjectRef", "__version__", "cancel", "is_initialized", "kill", "remote"} <= same
    for name in same:
        assert getattr(asyncray, name) is getattr(asyncray.sync, name), name
