"""The scene of large objects, for the tests of the modules that move them."""

from __future__ import annotations

import pytest

from tests.core.cluster.scene import Scene


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Three nodes; A has put the object o."""
    return Scene(monkeypatch)
