"""The command line: ``asyncray node``, ``status``, ``stop`` and ``microbenchmark``.

Every command has ``--json`` for scripts, an example and its exit codes in ``--help``. Start-up cost: a command imports
its modules when it runs, so that ``asyncray --help`` costs little more than Python itself.
"""

from __future__ import annotations

import click

from asyncray.cli.microbenchmark import microbenchmark_command
from asyncray.cli.start_node import node_command
from asyncray.cli.status import status_command
from asyncray.cli.stop import stop_command

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asyncray")
def main() -> None:
    """Runs, shows, stops and measures asyncray nodes.

    \b
    Example:
        asyncray node --num-cpus 4
        asyncray status

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


for command in (node_command, status_command, stop_command, microbenchmark_command):
    main.add_command(command)
