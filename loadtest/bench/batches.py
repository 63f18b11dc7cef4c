"""Jobs that come many in a request, against what the store alone takes into a stream."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from urllib.parse import urlsplit

import orjson
import redis

from .environment import ENDPOINT, PAYLOAD, NotMeasuredError, deployment, processors, started_on
from .measurement import Figures, Measurement, Round, Row, Tree
from .wrk import Requests, wrk

CONNECTIONS = 16
TARGETS = {1: None, 100: 0.35}
"""By the number of jobs in a request."""

XADDS = 200_000
PIPELINED = 16
"""As in the examples of Redis's own pages on benchmarks: https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/benchmarks/"""

STREAM = "bench:xadd"


@contextlib.contextmanager
def _batches(tree: Tree) -> Iterator[Round]:
    servers, others = processors()
    with started_on(others), deployment(tree, servers) as deployed, deployed.client() as client:

        def once() -> dict[str, Figures]:
            with started_on(servers):
                alone = xadds_per_second(deployed.store_url)
            found = {}
            for size in TARGETS:
                path, body = request(size)
                accepted = wrk(Requests(f"{deployed.url}{path}", body, CONNECTIONS)).per_second * size
                found[f"batch-{size}"] = Figures(accepted, alone)
                client.delete(f"{deployed.url}/api/queues/{ENDPOINT}?force=true").raise_for_status()
            return found

        yield once


def request(size: int, payload: str = PAYLOAD, endpoint: str = ENDPOINT) -> tuple[str, str]:
    """The path and the body of a request with so many jobs."""
    job = {"timeout": 300, "data": orjson.Fragment(payload)}
    if size == 1:
        return "/queue/add", orjson.dumps({"queue": endpoint, **job}).decode()
    return "/queue/add-batch", orjson.dumps({"queue": endpoint, "timeout": 300, "jobs": [job] * size}).decode()


def xadds_per_second(url: str) -> float:
    """Entries per second that the store at a URL takes into a stream, pipelined, as its own program measures it.

    Raises:
        NotMeasuredError: there is no such program here.
    """
    program = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if program is None:
        raise NotMeasuredError("this needs redis-benchmark (apt-get install redis-tools) or valkey-benchmark")
    parts = urlsplit(url)
    place = ["-s", parts.path] if parts.scheme == "unix" else ["-h", str(parts.hostname), "-p", str(parts.port)]
    login = ["-a", parts.password] if parts.password else []
    what = ["-P", str(PIPELINED), "-n", str(XADDS), "-q", "XADD", STREAM, "*", "job", "0123456789abcdef"]
    output = subprocess.run([program, *place, *login, *what], check=True, capture_output=True, text=True).stdout
    with redis.Redis.from_url(url) as client:
        client.delete(STREAM)
    return float(re.findall(r"([\d.]+) requests per second", output)[-1])


MEASUREMENTS = [
    Measurement(
        "batches",
        {
            f"batch-{size}": Row(
                f"/queue/add{'-batch' if size > 1 else ''}, {size:,} a request", "XADD", "jobs/s", target
            )
            for size, target in TARGETS.items()
        },
        _batches,
        rounds=6,
    )
]
