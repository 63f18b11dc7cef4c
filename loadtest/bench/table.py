"""How results are shown: a table, and JSON."""

import json
import statistics
from pathlib import Path
from typing import Any

from ..thresholds import changed
from .measurement import Relation, Result

Outcome = tuple[str, list[Result]]
"""The name of a row, and its result for each tree: this one first, then the one it is compared with."""


def shown(outcomes: list[Outcome]) -> str:
    """The table as text, a line for each row."""
    compared = any(len(results) > 1 for _, results in outcomes)
    head = ["", "ours", "against", "", "target", "", *(["before", "change"] if compared else [])]
    lines = [head, *(_line(results) for _, results in outcomes)]
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


def _line(results: list[Result]) -> list[str]:
    now = results[0]
    row = now.row
    cells = [
        row.what,
        _figure(now.ours, row.unit),
        f"{_figure(now.floor, row.unit)} {row.compared_with()}",
        _relation(now),
        row.target(),
        "met" if row.is_met(now.relation) else "MISSED",
    ]
    if len(results) > 1:
        cells += [_relation(results[1]), f"{change(now, results[1]):+.1%}"]
    return cells


def change(now: Result, before: Result) -> float:
    """How ours has changed, as a part of what it was: the median of the rounds; infinite where it was nothing."""
    pairs = zip(now.figures, before.figures, strict=True)
    return statistics.median(changed(theirs.ours, ours.ours) for ours, theirs in pairs)


def _relation(result: Result) -> str:
    return f"{'+' if result.row.relation is Relation.ADDED else ''}{result.relation:.3g}"


def _figure(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"


def write(outcomes: list[Outcome], revisions: list[str], path: Path) -> None:
    """Writes all figures as JSON."""
    path.write_text(
        json.dumps({"revisions": revisions, "rows": [_as_json(*outcome) for outcome in outcomes]}, indent=2)
    )


def _as_json(name: str, results: list[Result]) -> dict[str, Any]:
    row = results[0].row
    return {
        "name": name,
        "what": row.what,
        "against": row.compared_with(),
        "unit": row.unit,
        "relation": row.relation.value,
        "least": row.least,
        "most": row.most,
        "met": row.is_met(results[0].relation),
        "results": [
            {"ours": result.ours, "floor": result.floor, "relation": result.relation, "rounds": result.figures}
            for result in results
        ],
    }
