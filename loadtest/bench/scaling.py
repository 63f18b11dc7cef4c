"""How the work spreads over processes: one or two gateway processes, one store or a cluster of three, and what follows
from that for a larger machine.

A request costs processor time in each kind of process. As long as nothing else is short, a machine is as fast as its
processors have time for these costs: that is the model (`limit`), with the assumptions in loadtest/README.md. All is in
units of the echo that is measured in the same round: rates in echoes per second, costs in an echo's processor time.
"""

import argparse
import contextlib
import functools
import json
import resource
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from gateway.engine import keys
from tests.stores import Cluster, valkey

from .accepting import ECHO_HANDLER
from .environment import (
    ALL_PROCESSORS,
    HERE,
    JOB,
    KEY,
    client,
    gateway,
    say,
    server,
    store,
    wait_until,
    without_traceback,
    worker,
)
from .usage import family_seconds
from .wrk import Requests, wrk

ENDPOINTS = [f"e{number}" for number in range(100)]
WITH_WORKERS = [f"w{number}" for number in range(16)]
"""Endpoints with a worker each."""

ROUNDS = 5
SECONDS = 2
GATEWAYS = (1, 2)
NODES = (1, 3)


class Costs(NamedTuple):
    """Processor time of a request, by kinds of processes."""

    gateway: float
    store: float
    worker: float


class Taken(NamedTuple):
    """Requests in the time of one echo on one processor; what each cost; and what it cost whoever sent it."""

    rate: float
    costs: Costs
    sending: float

    @property
    def cost(self) -> float:
        """All of that."""
        return sum(self.costs) + self.sending

    @property
    def busy(self) -> float:
        """The part of this machine's processors that was used."""
        return self.rate * self.cost / len(ALL_PROCESSORS)


class Setup(NamedTuple):
    """How many gateway processes, and nodes of the store."""

    gateways: int
    nodes: int


class Processes(NamedTuple):
    """What serves requests; each uses one processor at most."""

    gateways: int
    nodes: int
    workers: int


def limit(costs: Costs, sending: float, processes: Processes, processors: int, endpoints: list[str]) -> float:
    """The most requests in the time of an echo that there is processor time for.

    Args:
        costs: of one request.
        sending: the same, on these processors, for whoever sends it.
        processes: there are as many.
        processors: they share so many.
        endpoints: their names; each has as many requests as the others, and its jobs are on one node of the store.
    """
    limits = [
        processors / (sum(costs) + sending),
        processes.gateways / costs.gateway,
        1 / (busiest_share(endpoints, processes.nodes) * costs.store),
    ]
    if costs.worker:
        limits.append(processes.workers / costs.worker)
    return min(limits)


def best(costs: Costs, processors: int, endpoints: list[str]) -> tuple[float, Processes]:
    """The most requests of a machine with a process for each processor, and with which. Others send them."""
    found = []
    for nodes in range(1, processors):
        for gateways in range(1, processors - nodes + 1):
            processes = Processes(gateways, nodes, processors - nodes - gateways)
            found.append((limit(costs, 0, processes, processors, endpoints), processes))
    return max(found)


def busiest_share(endpoints: list[str], nodes: int) -> float:
    """The part of the endpoints that is on the node with most of them, when each has as many slots as the others."""
    places = Counter(key_slot(keys.base(id).encode()) * nodes // REDIS_CLUSTER_HASH_SLOTS for id in endpoints)
    return max(places.values()) / len(endpoints)


class _Deployed:
    """A deployment of one setup, with workers."""

    def __init__(self, url: str, gateway_id: int, nodes: list[int], workers: list[int]) -> None:
        self.url = url
        self._kinds = {"gateway": [gateway_id], "store": nodes, "worker": workers}

    def used(self) -> Costs:
        """Processor seconds so far."""
        return Costs(**{kind: sum(map(family_seconds, ids)) for kind, ids in self._kinds.items()})


class _Operation(NamedTuple):
    """One that is measured, at endpoints in turn. has_workers: jobs are run, else they are taken away."""

    name: str
    path: str
    endpoints: list[str]
    has_workers: bool = False


OPERATIONS = [
    _Operation("/run, 1 endpoint", "/run", ENDPOINTS[:1]),
    _Operation(f"/run, {len(ENDPOINTS)} endpoints", "/run", ENDPOINTS),
    _Operation("/runsync, 1 endpoint", "/runsync", WITH_WORKERS[:1], has_workers=True),
    _Operation(f"/runsync, {len(WITH_WORKERS)} endpoints", "/runsync", WITH_WORKERS, has_workers=True),
]


@contextlib.contextmanager
def _deployed(setup: Setup) -> Iterator[_Deployed]:
    with contextlib.ExitStack() as stack:
        url, nodes = stack.enter_context(_store() if setup.nodes == 1 else _cluster())
        worker_keys = ",".join(f"{id}:{KEY}" for id in ENDPOINTS + WITH_WORKERS)
        settings = {"RUNLANE_PROCESSES": str(setup.gateways), "RUNLANE_WORKER_KEYS": worker_keys}
        base, gateway_id = stack.enter_context(gateway(HERE, url, **settings))
        http = stack.enter_context(client(base))
        for id in ENDPOINTS + WITH_WORKERS:
            http.post("/v1/endpoints", json={"id": id}).raise_for_status()
        workers = [stack.enter_context(worker(HERE, base, id, ECHO_HANDLER)) for id in WITH_WORKERS]
        for id in WITH_WORKERS:
            wait_until(functools.partial(_has_worker, http, id), f"the worker of {id} did not become ready", 60)
        yield _Deployed(base, gateway_id, nodes, workers)


def _has_worker(http: httpx.Client, endpoint: str) -> bool:
    return bool(http.get(f"/v2/{endpoint}/health").raise_for_status().json()["workers"]["ready"])


@contextlib.contextmanager
def _store() -> Iterator[tuple[str, list[int]]]:
    with store() as running:
        yield running.url, [running.pid]


@contextlib.contextmanager
def _cluster() -> Iterator[tuple[str, list[int]]]:
    with tempfile.TemporaryDirectory(prefix="runlane-bench-") as folder:
        cluster = Cluster(Path(folder), valkey())
        try:
            cluster.start()
            yield cluster.url, [node.process.pid for node in cluster.nodes if node.process is not None]
        finally:
            cluster.stop()


def _take(setup: Setup, echo: str) -> dict[str, Taken]:
    """Medians of the rounds."""
    taken: dict[str, list[Taken]] = {operation.name: [] for operation in OPERATIONS}
    with _deployed(setup) as deployed:
        for number in range(ROUNDS):
            for operation in OPERATIONS:
                unit = _seconds_of_echo(echo)
                found = _once(deployed, operation)
                in_echoes = Costs(*(cost / unit for cost in found.costs))
                taken[operation.name].append(Taken(found.rate * unit, in_echoes, found.sending / unit))
            say(f"  {_named(setup)}: round {number + 1} of {ROUNDS}")
    return {name: _median(rounds) for name, rounds in taken.items()}


def _seconds_of_echo(url: str) -> float:
    """Of the one processor that its process keeps busy."""
    return 1 / wrk(Requests(url, JOB)).per_second


def _once(deployed: _Deployed, operation: _Operation) -> Taken:
    """In seconds."""
    paths = tuple(f"/v2/{id}{operation.path}" for id in operation.endpoints)
    used, own = deployed.used(), _own_children_seconds()
    rate = wrk(Requests(deployed.url, JOB, seconds=SECONDS, paths=paths)).per_second
    count = rate * SECONDS
    costs = Costs(*((after - before) / count for after, before in zip(deployed.used(), used, strict=True)))
    sending = (_own_children_seconds() - own) / count
    if not operation.has_workers:
        costs = costs._replace(worker=0)
        with client(deployed.url) as http:
            for id in operation.endpoints:
                http.post(f"/v2/{id}/purge-queue").raise_for_status()
    return Taken(rate, costs, sending)


def _own_children_seconds() -> float:
    """Of those that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)  # wrk's, and no other's as long as a setup stands
    return used.ru_utime + used.ru_stime


def _median(rounds: list[Taken]) -> Taken:
    """Of each figure."""
    costs = Costs(*map(statistics.median, zip(*(taken.costs for taken in rounds), strict=True)))
    return Taken(
        statistics.median(taken.rate for taken in rounds), costs, statistics.median(taken.sending for taken in rounds)
    )


def _named(setup: Setup) -> str:
    return f"{setup.gateways} gateway{'s' * (setup.gateways > 1)}, {setup.nodes} node{'s' * (setup.nodes > 1)}"


def _shown(found: dict[Setup, dict[str, Taken]]) -> Iterator[str]:
    """A line for each setup and operation. model: its limit, by the costs of the first setup."""
    columns = ("rate", "model", *Costs._fields, "sending", "busy")
    yield " " * 44 + "".join(f"{column:>9}" for column in columns)
    first = next(iter(found.values()))
    for operation in OPERATIONS:
        costs, sending = first[operation.name].costs, first[operation.name].sending
        for setup, by_operation in found.items():
            taken = by_operation[operation.name]
            processes = Processes(*setup, len(operation.endpoints))
            model = limit(costs, sending, processes, len(ALL_PROCESSORS), operation.endpoints)
            figures = "".join(
                f"{figure:9.2f}" for figure in (taken.rate, model, *taken.costs, taken.sending, taken.busy)
            )
            yield f"{operation.name:24}{_named(setup):20}{figures}"


def _predicted(found: dict[Setup, dict[str, Taken]], processors: int) -> Iterator[str]:
    """For a larger machine, by the costs of the setup with most processes, and as far below the limit as that was."""
    setup, by_operation = list(found.items())[-1]
    for operation in OPERATIONS:
        if len(operation.endpoints) > 1:
            taken = by_operation[operation.name]
            here = Processes(*setup, len(operation.endpoints))
            reached = taken.rate / limit(taken.costs, taken.sending, here, len(ALL_PROCESSORS), operation.endpoints)
            rate, processes = best(taken.costs, processors, ENDPOINTS)
            yield (
                f"{operation.path} at {len(ENDPOINTS)} endpoints, {processors} processors: {rate * reached:.2f} of an "
                f"echo on one, by {processes.gateways} gateway processes, {processes.nodes} nodes and "
                f"{processes.workers} workers"
            )


@without_traceback()
def main() -> None:
    """Measures each setup, and says what the model makes of it."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench.scaling", description=__doc__)
    parser.add_argument("--processors", type=int, default=16, help="of the machine that is predicted")
    parser.add_argument("--json", type=Path, default=Path("scaling.json"), help="where the figures go")
    given = parser.parse_args()
    found: dict[Setup, dict[str, Taken]] = {}
    with server("loadtest.bench.echo") as echo:
        for setup in (Setup(gateways, nodes) for nodes in NODES for gateways in GATEWAYS):
            found[setup] = _take(setup, echo)
    print("\n".join([*_shown(found), "", *_predicted(found, given.processors)]))
    rows = [
        {**setup._asdict(), "operation": name, **taken._asdict(), "costs": taken.costs._asdict()}
        for setup, by_operation in found.items()
        for name, taken in by_operation.items()
    ]
    given.json.write_text(json.dumps({"processors": len(ALL_PROCESSORS), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
