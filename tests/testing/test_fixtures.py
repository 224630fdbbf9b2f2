"""The fixture for pytest, in a project of its own as users have it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

DEADLINE = 60.0


def test_a_project_of_its_own_uses_the_fixture(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["asyncray.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        dedent(
            """
            import asyncray.sync as ray

            def test_two_nodes(asyncray_cluster):
                asyncray_cluster.add_node(num_cpus=1)
                asyncray_cluster.add_node(num_cpus=4)
                asyncray_cluster.connect()
                assert ray.cluster_resources()["CPU"] == 5

            def test_nothing_is_left(asyncray_cluster):
                assert asyncray_cluster.list_all_nodes() == []
                assert not ray.is_initialized()
            """
        )
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
