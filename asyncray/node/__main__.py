"""A node's daemon as ``init`` starts it, with its configuration as JSON (``asyncray.words.NodeConfig``).

The zygote is started before anything heavy is imported, so that the two get ready side by side.
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
    zygote = start_zygote_early(config)

    load("asyncray.node.main").serve(config, zygote)  # start-up cost: the zygote gets ready meanwhile


if __name__ == "__main__":
    main()
