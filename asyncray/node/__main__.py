"""A node's daemon as ``init`` starts it, with its configuration as JSON (``asyncray.words.NodeConfig``).

The zygote is started before anything heavy is imported, so that the two get ready side by side. If the daemon joins a
cluster, the token of that is in its environment, where ``asyncray.runtime.launch`` has put it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncray.words import NodeConfig


def main() -> None:
    """Starts the zygote, then runs the daemon."""
    # Light: no event loop yet.
    from asyncray.io.spawning import load
    from asyncray.node.start import define_state, start_zygote_early

    config: NodeConfig = json.loads(sys.argv[1])
    define_state()
    head = config.get("head")
    token = b"" if head is None else _take_token()
    zygote = start_zygote_early(config)

    # Start-up cost: the zygote gets ready meanwhile.
    plan = None if head is None else load("asyncray.node.cluster_shell").plan_for_driver(token, tuple(head))
    load("asyncray.node.main").serve(config, zygote, plan=plan)


def _take_token() -> bytes:
    """Takes the token out of the environment before the zygote inherits it."""
    from asyncray.io.cluster_tokens import take_token  # start-up cost: not of a lone node

    return take_token("")


if __name__ == "__main__":
    main()
