"""A node's daemon as ``init`` starts it.

Its arguments are the session's directory and the descriptor of its lock, the address of the cluster that it joins (or
nothing), and its configuration (``asyncray.words.NodeConfig``) as a Python literal. The zygote is started before
anything heavy is imported, so that the two get ready side by side. The token of the cluster is in the environment,
where ``asyncray.runtime.launch`` has put it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncray.words import NodeConfig


def main() -> None:
    """Starts the zygote, then runs the daemon."""
    # Light: no event loop yet.
    from asyncray.io.spawning import load
    from asyncray.node.start import define_state, start_zygote_early

    directory, lock, cluster, literal = sys.argv[1:]
    define_state()
    token = _take_token() if cluster else b""
    zygote = start_zygote_early(directory, int(lock))

    # Start-up cost: the zygote gets ready meanwhile.
    config: NodeConfig = load("ast").literal_eval(literal)
    head = config.get("head")
    plan = None if head is None else load("asyncray.node.cluster_shell").plan_for_driver(token, tuple(head))
    load("asyncray.node.main").serve(config, zygote, plan=plan)


def _take_token() -> bytes:
    """Takes the token out of the environment before the zygote inherits it."""
    from asyncray.io.cluster_tokens import take_token  # start-up cost: not of a lone node

    return take_token("")


if __name__ == "__main__":
    main()
