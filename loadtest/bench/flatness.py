"""Whether an operation costs the same when many jobs wait, or when there are many endpoints.

The cost is the processor time of the gateway and of the store together, for requests that come one after the other,
less what both use when nobody asks for anything. The time of an answer has that of the client and of the scheduler in
it, which would hide a difference.
"""

import contextlib
import functools
import http.client
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

from . import batches
from .environment import JOB, KEY, Deployment, NotMeasuredError, deployment
from .measurement import Figures, Measurement, Round, Row, Tree
from .usage import processor_seconds

FLAT = 1.15
LENGTHS = (10, 10_000, 1_000_000)
COUNTS = (1, 100, 1_000)
CALLS = 500
SLICES = 20
WARM_UP = 50
IN_A_REQUEST = 1000
SECONDS_IDLE = 1.0


class Client:
    """One connection; requests that come one after the other."""

    def __init__(self, deployed: Deployment) -> None:
        self._deployed = deployed
        self._connection = http.client.HTTPConnection(urlsplit(deployed.url).netloc)

    def call(self, method: str, path: str, body: str | None = None) -> Any:
        """The answer.

        Raises:
            NotMeasuredError: it is no 2xx.
        """
        self._connection.request(method, path, body, {"Authorization": f"Bearer {KEY}"})
        response = self._connection.getresponse()
        content = response.read()
        if response.status >= 300:
            raise NotMeasuredError(f"{method} {path} was answered {response.status}: {content[:300]!r}")
        return json.loads(content)

    def queue(self, endpoint: str, count: int) -> None:
        """Has so many jobs wait at an endpoint."""
        for start in range(0, count, IN_A_REQUEST):
            path, body = batches.request(min(IN_A_REQUEST, count - start), endpoint=endpoint)
            self.call("POST", path, body)

    def queue_only(self, endpoint: str, count: int) -> None:
        """Has so many jobs wait at an endpoint, and no others."""
        self.call("POST", f"/v2/{endpoint}/purge-queue")
        self.queue(endpoint, count)

    def idle(self) -> float:
        """Seconds of the processor per second when nobody asks for anything."""
        used = self.used()
        time.sleep(SECONDS_IDLE)
        return (self.used() - used) / SECONDS_IDLE

    def used(self) -> float:
        """Seconds of the processor so far."""
        return processor_seconds(self._deployed.gateway) + processor_seconds(self._deployed.store)


Operation = Callable[[Client, str], None]


class _Place:
    """Endpoints at which an operation is done in turn. `prepare`: what is done before each slice, and not counted."""

    def __init__(self, client: Client, endpoints: list[str], prepare: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._endpoints = endpoints
        self._prepare = prepare

    def costs(self, operation: Operation) -> Iterator[float]:
        """Seconds of the processor that one operation costs, of slice after slice."""
        endpoints = itertools.cycle(self._endpoints)
        self._do(operation, endpoints, max(WARM_UP, len(self._endpoints)))
        idle = self._client.idle()
        while True:
            self._prepare()
            began, used = time.perf_counter(), self._client.used()
            self._do(operation, endpoints, CALLS // SLICES)
            seconds = time.perf_counter() - began
            yield (self._client.used() - used - idle * seconds) / (CALLS // SLICES)

    def _do(self, operation: Operation, endpoints: Iterator[str], count: int) -> None:
        for endpoint in itertools.islice(endpoints, count):
            operation(self._client, endpoint)


def _medians(operation: Operation, places: list[_Place]) -> list[float]:
    """What an operation costs at each of the places, in us. They take turns, and each is compared with the first one in
    the same turn, since the machine's speed changes."""
    turns = list(itertools.islice(zip(*(place.costs(operation) for place in places), strict=True), SLICES))
    first = statistics.median(turn[0] for turn in turns) * 1e6
    return [first * statistics.median(turn[number] / turn[0] for turn in turns) for number in range(len(places))]


def _run(client: Client, endpoint: str) -> None:
    client.call("POST", f"/v2/{endpoint}/run", JOB)


def _cancel(client: Client, endpoint: str) -> None:
    job = client.call("POST", f"/v2/{endpoint}/run", JOB)["id"]
    client.call("POST", f"/v2/{endpoint}/cancel/{job}")


def _health(client: Client, endpoint: str) -> None:
    client.call("GET", f"/v2/{endpoint}/health")


def _work(client: Client, endpoint: str) -> None:
    """Queues a job, runs that which has waited longest, and looks at what came of it."""
    _run(client, endpoint)
    job = client.call("GET", f"/v2/{endpoint}/job-take/by-hand")["id"]
    client.call("POST", f"/v2/{endpoint}/job-done/by-hand/{job}", '{"output":1}')
    client.call("GET", f"/v2/{endpoint}/status/{job}")


OPERATIONS: dict[str, tuple[str, Operation]] = {
    "run": ("/run", _run),
    "cancel": ("/run and /cancel", _cancel),
    "health": ("/health", _health),
    "work": ("/run, take, finish, /status", _work),
}


@contextlib.contextmanager
def _lengths(tree: Tree) -> Iterator[Round]:
    with deployment(tree, RUNLANE_WORKER_KEYS=_worker_keys(f"q{length}" for length in LENGTHS)) as deployed:
        client = Client(deployed)
        for length in LENGTHS:
            client.call("POST", "/v1/endpoints", json.dumps({"id": f"q{length}"}))
            client.queue(f"q{length}", length)
        short, *long = LENGTHS
        as_short = functools.partial(client.queue_only, f"q{short}", short)  # /run adds jobs that nobody takes
        places = [_Place(client, [f"q{short}"], as_short), *(_Place(client, [f"q{length}"]) for length in long)]

        def once() -> dict[str, Figures]:
            found = {}
            for name, (_, operation) in OPERATIONS.items():
                few, *many = _medians(operation, places)
                found[f"length-{name}"] = Figures(max(many), few)
            return found

        yield once


@contextlib.contextmanager
def _counts(tree: Tree) -> Iterator[Round]:
    ids = [f"e{number}" for number in range(max(COUNTS))]
    with contextlib.ExitStack() as stack:
        clients = {}
        for count in COUNTS:
            deployed = stack.enter_context(deployment(tree, RUNLANE_WORKER_KEYS=_worker_keys(ids[:count])))
            clients[count] = Client(deployed)
            for id in ids[:count]:
                clients[count].call("POST", "/v1/endpoints", json.dumps({"id": id}))

        def once() -> dict[str, Figures]:
            found = {}
            for name, (_, operation) in OPERATIONS.items():
                one, *more = _medians(operation, [_Place(client, ids[:count]) for count, client in clients.items()])
                found[f"count-{name}"] = Figures(max(more), one)
            return found

        yield once


def _worker_keys(endpoints: Iterable[str]) -> str:
    return ",".join(f"{endpoint}:{KEY}" for endpoint in endpoints)


MEASUREMENTS = [
    Measurement(
        "lengths",
        {
            f"length-{name}": Row(f"{what}: up to {max(LENGTHS):,} jobs wait", f"with {LENGTHS[0]}", "us", most=FLAT)
            for name, (what, _) in OPERATIONS.items()
        },
        _lengths,
        rounds=3,
    ),
    Measurement(
        "counts",
        {
            f"count-{name}": Row(f"{what}: up to {max(COUNTS):,} endpoints", f"with {COUNTS[0]}", "us", most=FLAT)
            for name, (what, _) in OPERATIONS.items()
        },
        _counts,
        rounds=2,
    ),
]
