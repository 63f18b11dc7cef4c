"""How fast one worker process runs the jobs that wait, against that library for queues that does it fastest."""

import contextlib
from collections.abc import Iterator

from .environment import NotMeasuredError, processors, say, started_on, tcp_store
from .measurement import Figures, Measurement, Round, Row, Tree
from .rivals.measuring import OURS, measure
from .rivals.table import RIVALS

JOBS = 20_000
JOBS_TO_CHOOSE = 2_000


@contextlib.contextmanager
def _drained(tree: Tree) -> Iterator[Round]:
    with started_on(processors()[1]), tcp_store() as store:
        rival = _fastest(store)

        def once() -> dict[str, Figures]:
            return {"drain": Figures(measure(OURS, store, JOBS, tree), measure(rival, store, JOBS))}

        yield once


def _fastest(store: str) -> str:
    found = {}
    for name in RIVALS:
        try:
            found[name] = measure(name, store, JOBS_TO_CHOOSE)
        except NotMeasuredError as error:
            raise NotMeasuredError(f"{name}: {error}") from None
        say(f"  {name}: {found[name]:,.0f} jobs/s")
    return max(found, key=lambda name: found[name])


MEASUREMENTS = [
    Measurement(
        "drain",
        {"drain": Row(f"{JOBS:,} jobs by one worker", "the fastest of 7 libraries", "jobs/s", least=3)},
        _drained,
        rounds=3,
    )
]
