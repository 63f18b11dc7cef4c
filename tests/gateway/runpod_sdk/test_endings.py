"""How workers of RunPod's SDK end, and what becomes of their jobs.

Both versions are tried at once, for the time that they take to start. Where leases are to play no part, they are longer
than any test.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..clients import Target
from ..waiting import eventually
from .conftest import ClientOf, MakeEndpoint, StartWorker, ended, final
from .workers import LATEST, OLD, Endpoint, Sdk, SdkWorker

NO_LEASE = 600
LEASE = 3


@pytest.fixture(scope="module")
def pair(make_endpoint: MakeEndpoint, start_worker: StartWorker) -> Iterator[tuple[Endpoint, list[SdkWorker]]]:
    """An endpoint with a short lease, and a worker of each version for three jobs at once."""
    endpoint = make_endpoint(leaseSeconds=LEASE)
    workers = [start_worker(sdk, endpoint, id, CONCURRENCY="3") for id, sdk in (("old", OLD), ("new", LATEST))]
    yield endpoint, workers
    for worker in workers:
        worker.kill()


async def test_a_process_ends_with_its_jobs(
    make_endpoint: MakeEndpoint, start_worker: StartWorker, client_of: ClientOf
) -> None:
    async def trial(sdk: Sdk, concurrency: int) -> None:
        endpoint = make_endpoint(leaseSeconds=NO_LEASE)
        target = client_of(endpoint)
        worker = start_worker(sdk, endpoint, restart=True, REFRESH="1", CONCURRENCY=str(concurrency))
        jobs = await asyncio.gather(*(final(target, {"do": "process"}) for _ in range(3)))
        worker.kill()
        assert [job["status"] for job in jobs] == ["COMPLETED"] * 3
        processes = [job["output"] for job in jobs]
        assert max(map(processes.count, processes)) <= concurrency
        assert (await target.health())["jobs"] == {
            "completed": 3, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0,
        }  # fmt: skip

    await asyncio.gather(trial(OLD, 2), trial(LATEST, 1))


async def test_a_job_that_ends_its_worker(
    make_endpoint: MakeEndpoint, start_worker: StartWorker, client_of: ClientOf, tmp_path: Path
) -> None:
    """Three times in a row is a crash loop, until the worker brings a result."""

    async def trial(sdk: Sdk, attempts: int) -> None:
        endpoint, go = make_endpoint(leaseSeconds=NO_LEASE, attempts=attempts), tmp_path / sdk.name
        target, loops = client_of(endpoint), attempts == 3
        poison, good, last = [
            await target.run(input) for input in ({"do": "exit"}, {"do": "wait", "file": str(go)}, "last")
        ]
        worker = start_worker(sdk, endpoint, restart=True)
        job = await ended(target, poison)
        assert (job["status"], job["workerId"]) == ("FAILED", "w1")
        assert "worker w1" in job["error"]
        assert f"attempt {attempts} of {attempts}" in job["error"]
        assert worker.recorded(poison) == [(attempt, "begins") for attempt in range(1, attempts + 1)]
        await worker.has_recorded((1, "begins"), good)
        assert (await target.status(last))["reason"] == ("workers_crashing" if loops else "at_capacity")
        assert (await target.health())["workers"]["unhealthy"] == loops
        (listed,) = (await target.get("/workers")).json()["workers"]
        assert (listed["id"], listed["crashLoop"]) == ("w1", loops)
        assert listed["state"] == ("unhealthy" if loops else "running")
        go.touch()
        assert (await ended(target, last))["output"] == "last"

        async def is_well() -> bool:
            workers = (await target.health())["workers"]
            return (workers["unhealthy"], workers["idle"]) == (0, 1)

        await eventually(is_well)
        worker.kill()

    await asyncio.gather(trial(OLD, 1), trial(LATEST, 3))


async def test_jobs_that_take_longer_than_their_lease(
    pair: tuple[Endpoint, list[SdkWorker]], client_of: ClientOf, tmp_path: Path
) -> None:
    """Each ping renews the leases of all that it names. What is longer than its own time is stopped."""
    (endpoint, workers), go = pair, tmp_path / "go"
    target = client_of(endpoint)
    jobs = [await target.run({"do": "wait", "file": str(go)}) for _ in range(5)]
    late = await target.run({"do": "wait", "file": str(go)}, policy={"executionTimeout": 5_000})
    first = await eventually(lambda: seen_with(target, 3))

    async def is_twice_the_lease_later() -> bool:
        return await seen_with(target, 2) > first + 2 * LEASE * 1000

    await eventually(is_twice_the_lease_later)
    started = [event for worker in workers for job in jobs for event in worker.recorded(job)]
    assert started == [(1, "begins")] * 5
    job = await target.status(late)
    assert job["status"] == "TIMED_OUT"
    assert "executionTimeout of 5000 ms" in job["error"]
    go.touch()
    assert [(await ended(target, job))["output"] for job in jobs] == ["ended"] * 5
    assert await target.status(late) == job
    (worker,) = (worker for worker in workers if worker.id == job["workerId"])
    await worker.has_recorded((1, "cancelled" if worker.sdk.hears_stops else "ends"), late)
    assert (await target.health())["jobs"]["retried"] == 0


async def seen_with(target: Target, least: int) -> int:
    """When both workers were seen last, in ms, if both have so many jobs at least; else 0."""
    listed = (await target.get("/workers")).json()["workers"]
    has_all = len(listed) == 2 and all(worker["jobsInHand"] >= least for worker in listed)
    return min(worker["lastSeen"] for worker in listed) if has_all else 0


async def test_a_worker_that_is_killed_loses_its_job_to_another(
    pair: tuple[Endpoint, list[SdkWorker]], client_of: ClientOf, tmp_path: Path
) -> None:
    endpoint, workers = pair
    target = client_of(endpoint)
    retried = (await target.health())["jobs"]["retried"]
    id = await target.run({"do": "wait", "file": str(tmp_path / "go")})

    async def taken_by() -> str | None:
        worker: str | None = (await target.status(id)).get("workerId")
        return worker

    name = await eventually(taken_by)
    victim, heir = sorted(workers, key=lambda worker: worker.id != name)
    await victim.has_recorded((1, "begins"), id)
    victim.kill()
    await heir.has_recorded((2, "begins"), id)
    (tmp_path / "go").touch()
    job = await ended(target, id)
    assert (job["status"], job["output"], job["workerId"]) == ("COMPLETED", "ended", heir.id)
    assert victim.recorded(id) == [(1, "begins")]
    assert (await target.health())["jobs"]["retried"] == retried + 1


async def test_a_machine_that_is_not_fit(
    make_endpoint: MakeEndpoint, start_worker: StartWorker, client_of: ClientOf
) -> None:
    """The newer SDK tests its machine; it tells before it ends."""
    endpoint = make_endpoint()
    target = client_of(endpoint)
    id = await target.run(1)
    start_worker(LATEST, endpoint, UNFIT="1").wait()
    job: dict[str, Any] = await target.status(id)
    assert (job["status"], job["reason"]) == ("IN_QUEUE", "workers_unhealthy")
    assert (await target.health())["workers"]["unhealthy"] == 1
    (worker,) = (await target.get("/workers")).json()["workers"]
    assert worker["state"] == "unhealthy"
    assert worker["trouble"] == "model_files: RuntimeError: the model is not there"
