"""A process that `start_interpreter` starts for a test: writes down the state that it finds itself in."""

import json
import os
import signal
import sys

FLAGS = (
    "bytes_warning",
    "dev_mode",
    "dont_write_bytecode",
    "ignore_environment",
    "int_max_str_digits",
    "isolated",
    "no_site",
    "no_user_site",
    "optimize",
    "safe_path",
    "utf8_mode",
    "verbose",
)


def main() -> None:
    """Writes what it is to its output, as JSON."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[int(name)] = os.get_inheritable(int(name))
        except OSError:
            continue  # that of the listing
    state = {
        "arguments": sys.argv[1:],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "descriptors": descriptors,
        "flags": {name: getattr(sys.flags, name) for name in FLAGS},
        "ignored": [int(n) for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN],
        "leader": os.getsid(0) == os.getpid(),
        "path": sys.path,
        "variable": os.environ.get("REPORTED"),
        "warnoptions": sys.warnoptions,
        "xoptions": sys._xoptions,
    }
    print(json.dumps(state), flush=True)
