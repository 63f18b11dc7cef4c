"""A small model of the fair order of one queue: a list for each share, and the tag of what comes next in it."""

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class Line:
    """The jobs of one share. `tag`: of the turn that is its first job's or, when none waits, its next one's."""

    weight: int = 1
    tag: float = 0.0
    jobs: list[str] = field(default_factory=list)


class FairOrder:
    """The shares keep their weights: the model does not tell what a change of one does to jobs that wait."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, Line] = defaultdict(Line)

    def __len__(self) -> int:
        return sum(len(line.jobs) for line in self.lines.values())

    def join(self, id: str, share: str, weight: int) -> None:
        line = self.lines[share]
        if not line.jobs:
            line.weight, line.tag = weight, max(line.tag, self._virtual_time())
        line.jobs.append(id)

    def leave(self, id: str) -> None:
        """The job is not served."""
        line = self._line_of(id)
        if line is not None:
            line.jobs.remove(id)
            self._forget()

    def serve(self, id: str) -> None:
        line = self._line_of(id)
        assert line is not None
        line.jobs.remove(id)
        line.tag += 1 / line.weight
        self._forget()

    def next(self) -> set[str]:
        """Which jobs may be served next: several have equal rights when their tags are equal."""
        return {line.jobs[0] for line in self.lines.values() if line.jobs and line.tag == self._virtual_time()}

    def waiting(self) -> dict[str, list[str]]:
        """The jobs of each share that has some."""
        return {share: line.jobs for share, line in self.lines.items() if line.jobs}

    def _virtual_time(self) -> float:
        return min((line.tag for line in self.lines.values() if line.jobs), default=0.0)

    def _line_of(self, id: str) -> Line | None:
        return next((line for line in self.lines.values() if id in line.jobs), None)

    def _forget(self) -> None:
        """Nobody waits, so nobody is before or behind another."""
        if not len(self):
            self.lines.clear()
