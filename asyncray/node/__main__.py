"""``python -m asyncray.node CONFIG``: a node's daemon, as ``init`` and the command line start it.

CONFIG is JSON: see ``asyncray.node.main.serve``. The zygote is started before anything heavy is imported, so that the
two get ready side by side.
"""

import json
import os
import sys


def main() -> None:
    """Starts the zygote, then becomes the daemon."""
    from asyncray.node.start import start_zygote_early  # light: no event loop yet

    config = json.loads(sys.argv[1])
    for inherited in (config["lock"], config["driver"]):
        os.set_inheritable(inherited, False)  # the zygote must not keep the driver's connection open
    zygote = start_zygote_early(config)

    from asyncray.node.main import serve  # start-up cost: the zygote gets ready meanwhile

    serve(config, zygote)


if __name__ == "__main__":
    main()
