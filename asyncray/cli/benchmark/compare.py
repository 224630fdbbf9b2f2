"""``python -m asyncray.cli.benchmark.compare OURS THEIRS...``: a markdown table of our figures beside Ray's.

OURS is what ``asyncray microbenchmark --json`` wrote. THEIRS are any of: the same, run on Ray, and the saved output of
``ray microbenchmark``; where several have a row, the first counts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asyncray.cli.benchmark.report import figure, shown_unit

_RAY_LINE = re.compile(r"^(?P<name>.+) per second (?P<value>[\d.]+) \+- ", re.MULTILINE)

_HEAD = "| row | asyncray | Ray | asyncray / Ray | at least | aim | of relay |\n|---|--:|--:|--:|--:|--:|--:|"


def read_figures(path: Path) -> dict[str, float]:
    """Figures by row name, from JSON of ours or from Ray's own output."""
    text = path.read_text(encoding="utf-8")
    try:
        return {entry["name"]: entry["value"] for entry in json.loads(text) if entry["value"] is not None}
    except json.JSONDecodeError:
        return {match["name"].strip(): float(match["value"]) for match in _RAY_LINE.finditer(text)}


def markdown(ours: Iterable[dict[str, Any]], theirs: dict[str, float]) -> str:
    """The table. A ratio above 1 means that asyncray is ahead, whichever way the unit runs."""
    rows = [_HEAD]
    for entry in ours:
        value, unit, other = entry["value"], entry["unit"], theirs.get(entry["name"])
        if value is None:
            continue
        ratio = ""
        if other:
            ratio = f"{(value / other if unit.endswith('/s') else other / value):.3g}"
        share = f"{entry['share_of_relay']:.0%}" if entry["share_of_relay"] else ""
        cells = [
            entry["name"],
            f"{figure(value, unit)} {shown_unit(unit)}".rstrip(),
            figure(other, unit),
            ratio,
            figure(entry["budget"], unit),
            figure(entry["aim"], unit),
            share,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    """Prints the table. Exit code 2 for wrong usage."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m asyncray.cli.benchmark.compare OURS.json THEIRS...")
    ours = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    theirs: dict[str, float] = {}
    for path in sys.argv[2:]:
        theirs = read_figures(Path(path)) | theirs
    print(markdown(ours, theirs))


if __name__ == "__main__":
    main()
