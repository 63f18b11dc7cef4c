"""What a job takes of the store's memory while it waits, and what is left of it when all is over and expired."""

import contextlib
import time
from collections.abc import Iterator

from gateway.engine import keys

from . import batches
from .accepting import ECHO_HANDLER
from .environment import ENDPOINT, Deployment, deployment, wait_until
from .measurement import Figures, Measurement, Round, Row, Tree

JOBS = 50_000
IN_A_REQUEST = 1000
INPUT = '{"prompt":"' + "x" * 87 + '"}'  # 100 bytes
BYTES, BYTES_LEFT = 600, 10
RETENTION = "2s"
SECONDS_TO_RUN = 120.0


@contextlib.contextmanager
def _storing(tree: Tree) -> Iterator[Round]:
    with deployment(tree, RUNQY_DEFAULT_TTL_COMPLETED=RETENTION) as deployed:

        def once() -> dict[str, Figures]:
            before = _used(deployed)
            _queue(deployed)
            queued = _used(deployed)
            with deployed.worker(ECHO_HANDLER):
                wait_until(lambda: not _left(deployed), "the jobs were not run, or not forgotten", SECONDS_TO_RUN)
            time.sleep(1)
            return {
                "job-memory": Figures((queued - before) / JOBS, BYTES),
                "job-memory-left": Figures(max(0, _used(deployed) - before) / JOBS, BYTES_LEFT),
            }

        once()  # what is made once, such as counts, logs and the worker's user
        yield once


def _queue(deployed: Deployment) -> None:
    path, body = batches.request(IN_A_REQUEST, INPUT)
    with deployed.client() as client:
        for _ in range(JOBS // IN_A_REQUEST):
            client.post(f"{deployed.url}{path}", content=body).raise_for_status()


def _left(deployed: Deployment) -> int:
    """Jobs that wait, run, or are not forgotten."""
    jobs = deployed.health()["jobs"]
    with deployed.redis() as client:
        kept = int(client.zcard(f"{keys.base(ENDPOINT)}:lifetimes"))
    return kept + int(jobs["inQueue"]) + int(jobs["inProgress"])


def _used(deployed: Deployment) -> int:
    with deployed.redis() as client:
        return int(client.info("memory")["used_memory"])


MEASUREMENTS = [
    Measurement(
        "storing",
        {
            "job-memory": Row("store's memory of a queued job of 100 B", "as told", "B", most=1),
            "job-memory-left": Row("what is left of it in the end", "as told", "B", most=1),
        },
        _storing,
        rounds=2,
    )
]
