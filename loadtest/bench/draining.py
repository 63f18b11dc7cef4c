"""How fast one worker process runs the jobs that wait, against that library for queues that does it fastest."""

import contextlib
import functools
from collections.abc import Iterator

from .environment import NotMeasuredError, processors, say, started_on, tcp_store
from .measurement import Figures, Measurement, Round, Row, Tree
from .rivals.measuring import OURS, measure
from .rivals.table import RIVALS

JOBS = 20_000
JOBS_TO_CHOOSE = 5_000


@contextlib.contextmanager
def _drained(tree: Tree) -> Iterator[Round]:
    rival = _fastest()
    with started_on(processors()[1]), tcp_store() as store:

        def once() -> dict[str, Figures]:
            return {"drain": Figures(measure(OURS, store, JOBS, tree), measure(rival, store, JOBS))}

        yield once


@functools.cache
def _fastest() -> str:
    """The name of the library that each tree is measured against."""
    found = {}
    with started_on(processors()[1]), tcp_store() as store:
        for name in RIVALS:
            try:
                found[name] = measure(name, store, JOBS_TO_CHOOSE)
            except NotMeasuredError as error:
                raise NotMeasuredError(f"{name}: {error}") from None
            say(f"  {name}: {found[name]:,.0f} jobs/s")
    fastest = max(found, key=lambda name: found[name])
    say(f"  the fastest of them is {fastest}")
    return fastest


def _against() -> str:
    return f"{_fastest()}, fastest of {len(RIVALS)} libraries"


MEASUREMENTS = [
    Measurement(
        "drain",
        {"drain": Row(f"{JOBS:,} jobs by one worker", _against, "jobs/s", least=3)},
        _drained,
        rounds=3,
    )
]
