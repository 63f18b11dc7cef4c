"""`python -m tests.fuzz`: a long run; see `make fuzz`."""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .run import Outcome, fuzz

MOST_SHOWN = 30


def main() -> None:
    """Prints the seed, the progress, the answers by operation, and whatever went wrong; then ends with 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Sends odd requests to a gateway.")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=600.0, help="ends after so long at the latest")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    began = time.monotonic()
    print(f"seed {given.seed}", flush=True)

    def tell(outcome: Outcome) -> None:
        rate = outcome.requests / (time.monotonic() - began)
        print(f"\r{outcome.requests} requests, {rate:.0f}/s, {len(outcome.failures)} failures ", end="", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        outcome = fuzz(Path(folder), given.seed, given.requests, given.seconds, tell)
    tell(outcome)
    print()
    for path in sorted({path for _, path, _ in outcome.answers}):
        statuses: Counter[int] = Counter()
        for (_, other, status), count in outcome.answers.items():
            statuses[status] += count if other == path else 0
        shown = [f"{status or 'none'}:{count}" for status, count in sorted(statuses.items()) if count]
        print(f"{path:45}", *shown)
    for failure in outcome.failures[:MOST_SHOWN]:
        print(failure)
    sys.exit(1 if outcome.failures else 0)


main()
