"""The fuzzer, for a short while; `make fuzz` runs it for longer."""

import random
from pathlib import Path

from ..fuzz.run import fuzz

REQUESTS = 3000


def test_odd_requests_do_no_harm(tmp_path: Path) -> None:
    outcome = fuzz(tmp_path, random.randrange(10**6), REQUESTS, 60)
    assert not outcome.failures, f"seed {outcome.seed}\n" + "\n".join(outcome.failures)
    assert outcome.requests == REQUESTS
    refused = {0, 401, 403, 405}
    let_in = {path for _, path, status in outcome.answers if status not in refused}
    assert let_in == {path for _, path, _ in outcome.answers}
