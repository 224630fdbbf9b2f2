"""Runs rows one after the other, and reports each: with a line for people and an entry for programs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from asyncray.cli.benchmark.bench import Bench, Figures, Row
from asyncray.cli.benchmark.budgets import BUDGETS, NO_BUDGET
from asyncray.cli.benchmark.face import NAME, ray
from asyncray.cli.benchmark.lifecycle_rows import RELAY

Entry = dict[str, Any]
"""name, value, unit, budget, aim, share_of_relay, repetitions, p50 (seconds), verdict; error where it failed."""

HEADING = f"{'':46}{'figure':>10} {'':11}{'spread':>19}{'p50':>9}{'at least':>10}{'aim':>9}{'of relay':>10}  verdict"

LEGEND = (
    "at least, aim: goals of the design for two cores. of relay: share of a bare relay of messages. p50: of one call."
)


def run_rows(rows: list[Row], new_bench: Callable[[], Bench]) -> Iterator[Entry]:
    """Measures rows; yields the entry of each as soon as it is measured. A row that fails does not stop the others.

    The relay comes first where rows are compared with it, whether it was asked for or not.
    """
    relay: float | None = None
    if RELAY in rows or any(map(_compares, rows)):
        ours = [RELAY] if NAME == "asyncray.sync" else []  # it is no measure of other systems
        rows = ours + [row for row in rows if row is not RELAY]
    for row in rows:
        try:
            figures = measure_row(row, new_bench())
        # The row's program may raise anything; the other rows are still wanted.
        except Exception as error:
            yield _entry(row, None, None) | {"error": f"{type(error).__name__}: {error}"}
            continue
        if row is RELAY:
            relay = figures.value
        yield _entry(row, figures, relay if _compares(row) else None)


def describe(row: Row) -> Entry:
    """The entry of a row that was not measured."""
    return _entry(row, None, None)


def measure_row(row: Row, bench: Bench) -> Figures:
    """The figures of a row, in a session of its own if it wants one."""
    with ray.init() if row.session else contextlib.nullcontext():
        return row.measure(bench)


def _compares(row: Row) -> bool:
    """Rates of tasks and calls in bulk. One at a time is about latency, which the relay's p50 stands for."""
    return row.unit in ("tasks/s", "calls/s") and not row.name.endswith(" sync") and row is not RELAY


def _entry(row: Row, figures: Figures | None, relay: float | None) -> Entry:
    budget = BUDGETS.get(row.name, NO_BUDGET)
    value = figures.value if figures else None
    share = value / relay if value is not None and relay else None
    return {
        "name": row.name,
        "value": value,
        "unit": row.unit,
        "budget": budget.at_least,
        "aim": budget.aim,
        "share_of_relay": share,
        "repetitions": figures.values if figures else [],
        "p50": figures.p50 if figures else None,
        "verdict": _verdict(row, value, share),
    }


def _verdict(row: Row, value: float | None, share: float | None) -> str:
    budget = BUDGETS.get(row.name)
    if value is None or budget is None:
        return ""

    def reaches(bound: float | None) -> bool:
        return bound is None or (value >= bound if row.is_rate else value <= bound)

    if not reaches(budget.at_least) or (budget.relay_share and share and share < budget.relay_share):
        return "MISSED"
    return "aim" if reaches(budget.aim) else "ok"


def line(entry: Entry) -> str:
    """An entry for people."""
    if "error" in entry:
        return f"{entry['name']:<46}failed: {entry['error']}"
    unit, share = entry["unit"], entry["share_of_relay"]
    ends = [figure(end, unit) for end in (min(entry["repetitions"]), max(entry["repetitions"]))]
    return (
        f"{entry['name']:<46}{figure(entry['value'], unit):>10} {shown_unit(unit):<11}"
        f"{' .. '.join(ends) if ends[0] != ends[1] else '':>19}"
        f"{figure(entry['p50'], 's'):>9}{figure(entry['budget'], unit):>10}{figure(entry['aim'], unit):>9}"
        f"{f'{share:.0%}' if share else '':>10}  {entry['verdict']}"
    ).rstrip()


def shown_unit(unit: str) -> str:
    """Seconds carry their unit with the figure, because it may be ms or µs."""
    return "" if unit == "s" else unit


def figure(value: float | None, unit: str) -> str:
    """A number with three digits that count; seconds with their unit."""
    if value is None:
        return ""
    if unit == "s":
        for factor, suffix in ((1, " s"), (1e3, " ms"), (1e6, " µs")):
            if value * factor >= 1 or suffix == " µs":
                return f"{value * factor:.3g}{suffix}" if value * factor < 1000 else f"{value * factor:,.0f}{suffix}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
