"""Suggestions for errors about names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A sentence with the most similar of the valid names, after a blank; nothing if none is similar."""
    import difflib  # start-up cost, for a path that ends in an error

    close = difflib.get_close_matches(name, valid, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
