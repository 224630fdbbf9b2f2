"""The names by which processes know their session. Without imports: a daemon needs them before it starts its zygote."""

BASE_VARIABLE = "ASYNCRAY_TMPDIR"
"""The environment variable with the directory of the sessions, if that is not the usual one."""

SESSION_VARIABLE = "ASYNCRAY_SESSION"
"""Names the session in the environment of its zygote, and so of all its descendants."""


def name_of(directory: str) -> str:
    """The session's name, with which the names of its shared memory begin."""
    return f"asyncray-{directory.rpartition('_')[2]}"
