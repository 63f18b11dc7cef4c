"""Workers over HTTP that wait: what they cost a gateway, and how soon one of them gets a job.

Each has a poll for jobs and one for what to stop, over a connection of its own, as RunPod's SDK does.
"""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import redis

from .environment import ENDPOINT, KEY, NotMeasuredError, deployment, place_of
from .measurement import Figures, Measurement, Round, Row, Tree
from .usage import resident_bytes

HEAD = "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\n\r\n"
OPEN_AT_ONCE = 200
SECONDS_TO_PARK = 60.0
WORKERS, JOBS = 5000, 100
CONNECTIONS, JOB_MS = 16, 50.0


class Parked(NamedTuple):
    """Of `workers` parked: bytes of the gateway's memory for each, all connections to the store, and the median seconds
    from the begin of a submission to its job's arrival at a worker."""

    workers: int
    bytes_each: float
    store_connections: int
    median_seconds: float


class _Waiting(asyncio.Protocol):
    """The connection of one poll. Tells when something comes."""

    def __init__(self, request: bytes, arrived: "asyncio.Queue[tuple[float, bytes]]") -> None:
        self._request = request
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._arrived.put_nowait((time.perf_counter(), data))


async def measure(base: str, gateway: int, endpoint: str, key: str, store: str, workers: int, jobs: int) -> Parked:
    """Parks workers at a gateway, submits jobs one after the other, and takes the times.

    Args:
        base: the gateway's URL.
        gateway: the id of its process.
        endpoint: the endpoint's.
        key: good for clients and for workers.
        store: the store's URL.
        workers: how many.
        jobs: how many.

    Raises:
        NotMeasuredError: not all were parked, or another job arrived than was submitted.
    """
    with redis.Redis.from_url(store) as client:
        before = resident_bytes(gateway)
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        polls = await _park(base, endpoint, key, workers, arrived)
        try:
            await _until_parked(client, endpoint, workers)
            after, connections = resident_bytes(gateway), len(client.client_list())
            times = [await _time_of_a_job(base, endpoint, key, arrived) for _ in range(jobs)]
        finally:
            for poll in polls:
                poll.transport.abort()
    return Parked(workers, (after - before) / workers, connections, statistics.median(times))


async def _park(
    base: str, endpoint: str, key: str, workers: int, arrived: "asyncio.Queue[tuple[float, bytes]]"
) -> list[_Waiting]:
    place = urlsplit(base)
    loop = asyncio.get_running_loop()

    async def park(path: str) -> _Waiting:
        request = HEAD.format(path=f"/v2/{endpoint}/{path}", host=place.netloc, key=key).encode()
        _, poll = await loop.create_connection(lambda: _Waiting(request, arrived), *place_of(base))
        return poll

    polls: list[_Waiting] = []
    paths = [f"{name}/w{number}?gpu=x&wait=80000" for number in range(workers) for name in ("job-take", "job-stop")]
    for at in range(0, len(paths), OPEN_AT_ONCE):
        polls += await asyncio.gather(*map(park, paths[at : at + OPEN_AT_ONCE]))
    return polls


async def _until_parked(client: "redis.Redis", endpoint: str, workers: int) -> None:
    deadline = time.monotonic() + SECONDS_TO_PARK
    while client.zcard(f"runlane:{{{endpoint}}}:waiting") < workers:
        if time.monotonic() > deadline:
            raise NotMeasuredError(f"{workers} workers were not parked within {SECONDS_TO_PARK:.0f} s")
        await asyncio.sleep(0.1)


async def _time_of_a_job(
    base: str, endpoint: str, api_key: str, arrived: "asyncio.Queue[tuple[float, bytes]]"
) -> float:
    async with httpx.AsyncClient(headers={"Authorization": api_key}) as client:
        await client.get(f"{base}/v2/{endpoint}/health")  # so that it is connected
        began = time.perf_counter()
        response = await client.post(f"{base}/v2/{endpoint}/run", json={"input": 1})
        id = response.raise_for_status().json()["id"]
        at, data = await asyncio.wait_for(arrived.get(), 10)
    found = json.loads(data.partition(b"\r\n\r\n")[2])
    if found["id"] != id:
        raise NotMeasuredError(f"job {found['id']} arrived instead of {id}")
    return at - began


@contextlib.contextmanager
def _parked(tree: Tree) -> Iterator[Round]:
    with deployment(tree) as deployed:

        def once() -> dict[str, Figures]:
            found = asyncio.run(
                measure(deployed.url, deployed.gateway, ENDPOINT, KEY, deployed.store_url, WORKERS, JOBS)
            )
            return {
                "parked-connections": Figures(found.store_connections, CONNECTIONS),
                "parked-job": Figures(found.median_seconds * 1000, JOB_MS),
            }

        yield once


MEASUREMENTS = [
    Measurement(
        "parked",
        {
            "parked-connections": Row(f"{WORKERS:,} workers poll: the store's connections", "as told", "", most=1),
            "parked-job": Row(f"{WORKERS:,} workers poll: a job's way to one, median", "as told", "ms", most=1),
        },
        _parked,
        rounds=1,
    )
]
