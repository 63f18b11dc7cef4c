"""What a job of many MB costs: memory, and how long the others wait."""

import contextlib
from collections.abc import Iterator

from .accepting import ECHO_HANDLER
from .environment import Deployment, NotMeasuredError, deployment, processors, started_on
from .measurement import Figures, Measurement, Round, Row, Tree
from .observer import observing
from .usage import forget_peak, peak_bytes, resident_bytes

SIZE = 9_900_000
"""Of the input, and so of the output: with what is around it, a little less than the limit of RunPod's /run."""

COPIES = 3
BLOCKED_MS = 5.0


@contextlib.contextmanager
def _large(tree: Tree) -> Iterator[Round]:
    servers, others = processors()
    with started_on(others), deployment(tree, servers) as deployed, deployed.worker(ECHO_HANDLER):
        body = f'{{"input":"{"x" * SIZE}"}}'.encode()

        def once() -> dict[str, Figures]:
            forget_peak(deployed.gateway)
            with observing(deployed.url) as observed:
                _run_whole(deployed, body)
            grown = peak_bytes(deployed.gateway) - before
            return {
                "large-copies": Figures(grown / SIZE, COPIES),
                "large-blocked": Figures(observed.longest * 1000, BLOCKED_MS),
            }

        before = resident_bytes(deployed.gateway)  # the gateway keeps a part of what it had for a large job
        _run_whole(deployed, body)
        yield once


def _run_whole(deployed: Deployment, body: bytes) -> None:
    """Has the job run, and reads its output."""
    with deployed.client() as client:
        answer = client.post(deployed.at("/runsync?wait=60000"), content=body).raise_for_status()
    if answer.json()["status"] != "COMPLETED" or len(answer.content) < SIZE:
        raise NotMeasuredError(f"a large job was not run: {answer.text[:300]}")


MEASUREMENTS = [
    Measurement(
        "large",
        {
            "large-copies": Row("10 MB in and out: the gateway's peak, in copies", "as told", "", most=1),
            "large-blocked": Row("10 MB in and out: longest wait of others", "as told", "ms", most=1),
        },
        _large,
        rounds=7,
    )
]
