"""What a measurement is, and how it is taken.

A measurement does a thing round after round, ours and what it is compared with in turn, so that a machine that is
faster or slower for a while is so for both. What is kept of each round is how the two relate; the median of that is
the result. Absolute figures are shown beside it and mean nothing elsewhere.
"""

import enum
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .environment import say

Tree = Path
"""A checkout of the project, of which the gateway and the worker are run."""


class Figures(NamedTuple):
    """Of one round: ours, and what it is compared with, in the same unit."""

    ours: float
    floor: float


class Relation(enum.Enum):
    """How ours is compared: `RATIO`, ours by the floor; `ADDED`, ours less the floor."""

    RATIO = "ratio"
    ADDED = "added"

    def of(self, figures: Figures) -> float:
        """What is compared with the target."""
        return figures.ours / figures.floor if self is Relation.RATIO else figures.ours - figures.floor


@dataclass(frozen=True)
class Row:
    """A line of the table: what is measured, against what, and what the relation of the two should be.

    against: a function where that is found out by the measuring. unit: of both figures, and of the target when the
    relation is ADDED. least, most: the target; one of them.
    """

    what: str
    against: str | Callable[[], str]
    unit: str
    least: float | None = None
    most: float | None = None
    relation: Relation = Relation.RATIO

    def compared_with(self) -> str:
        """What it is measured against, in words, once it was."""
        return self.against if isinstance(self.against, str) else self.against()

    def is_met(self, relation: float) -> bool:
        """Whether the target is reached."""
        return (self.least is None or relation >= self.least) and (self.most is None or relation <= self.most)

    def target(self) -> str:
        """In words."""
        bound, sign = (self.most, "≤") if self.least is None else (self.least, "≥")
        if bound is None:
            return ""
        return f"{sign} {bound:g}{f' {self.unit} more' if self.relation is Relation.ADDED else ''}"


Round = Callable[[], dict[str, Figures]]
"""Does the thing once: figures by the names of rows."""

Start = Callable[[Tree], AbstractContextManager[Round]]
"""Starts all that the rounds need."""


@dataclass(frozen=True)
class Measurement:
    """Something that is measured in one go, and the rows of the table that come of it, by their names."""

    name: str
    rows: dict[str, Row]
    start: Start
    rounds: int = 10


@dataclass
class Result:
    """What was found for one row: the figures of each round."""

    row: Row
    figures: list[Figures] = field(default_factory=list)

    @property
    def ours(self) -> float:
        """The median."""
        return statistics.median(figures.ours for figures in self.figures)

    @property
    def floor(self) -> float:
        """The median."""
        return statistics.median(figures.floor for figures in self.figures)

    @property
    def relations(self) -> list[float]:
        """Of each round."""
        return [self.row.relation.of(figures) for figures in self.figures]

    @property
    def relation(self) -> float:
        """The median of those of the rounds."""
        return statistics.median(self.relations)


def take(measurement: Measurement, trees: list[Tree], rounds: int) -> list[dict[str, Result]]:
    """Takes a measurement of each tree, in turn round by round: A B A B. The results of each, by the names of rows."""
    results = [{name: Result(row) for name, row in measurement.rows.items()} for _ in trees]
    with ExitStack() as stack:
        started = [stack.enter_context(measurement.start(tree)) for tree in trees]
        for number in range(rounds):
            for once, found in zip(started, results, strict=True):
                for name, figures in once().items():
                    found[name].figures.append(figures)
            latest = ["; ".join(_shown(result) for result in found.values()) for found in results]
            say(f"  {measurement.name}, round {number + 1} of {rounds}: {' | '.join(latest)}")
    return results


def _shown(result: Result) -> str:
    figures = result.figures[-1]
    return f"{figures.ours:,.6g} and {figures.floor:,.6g} {result.row.unit}"
