"""What each no-op job does, in each library: it counts, and the last one writes how long they all took."""

import itertools
import time
from pathlib import Path

from loadtest.bench.rivals import given

_numbers = itertools.count(1)  # next() is one step, also where threads are used
_last = given.count
_began = 0.0


def one_job() -> None:
    """Counts a job. The first notes the time; the last writes the seconds since then."""
    global _began
    number = next(_numbers)
    if number == 1:
        _began = time.perf_counter()
    elif number == _last:
        Path(given.file).write_text(str(time.perf_counter() - _began))
