"""Processes that stand still for a while and go on, as on a machine without memory, or one that is moved."""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from .conftest import MakeDeployment, MakeTrial
from .deployment import Worker
from .trial import Trial

LEASE_SECONDS = 1.5
STORE_SECONDS = 7.0

Parts = Callable[[Worker], list[int]]


def own_process(worker: Worker) -> list[int]:
    return [worker.process.pid]


def both_processes(worker: Worker) -> list[int]:
    return [worker.process.pid, worker.handler_process()]


def handlers_process(worker: Worker) -> list[int]:
    return [worker.handler_process()]


@contextmanager
def frozen(worker: Worker, parts: Parts) -> Iterator[None]:
    """Stands still meanwhile."""
    processes = parts(worker)
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize("parts", [own_process, both_processes])
async def test_a_worker_past_its_lease_says_nothing_that_counts(kind: str, parts: Parts, trial: Trial) -> None:
    node = trial.deployment.nodes[0]
    first = await trial.start_worker(node, kind)
    job = await trial.client.run(until=trial.gate)
    await trial.started(job)
    with frozen(first, parts):
        await trial.start_worker(node, kind)
        await trial.started(job, times=2)
        trial.open_gate(attempt=1)
    await first.said("counts no more", "its handler is stopped")
    assert (await trial.client.status(job))["status"] == "IN_PROGRESS"
    trial.open_gate(attempt=2)
    assert (await trial.client.final(job))["output"] == {"attempt": 2}
    await trial.settle()
    assert first.runs


async def test_a_handlers_process_keeps_its_job(trial: Trial) -> None:
    """As one that holds the interpreter for long does: that is what the execution timeout is for."""
    node = trial.deployment.nodes[0]
    worker = await trial.start_worker(node)
    job = await trial.client.run(until=trial.gate)
    await trial.started(job)
    with frozen(worker, handlers_process):
        await asyncio.sleep(2 * LEASE_SECONDS)
        trial.open_gate()
    assert (await trial.client.final(job))["output"] == {"attempt": 1}
    await trial.settle()


async def test_a_store_has_nothing_run_twice(make_deployment: MakeDeployment, make_trial: MakeTrial) -> None:
    """Longer than the leases last: upkeep must not take what could not be renewed."""
    deployment = make_deployment(2)
    trial = make_trial(deployment, leaseSeconds=LEASE_SECONDS)
    workers = [await trial.start_worker(node, "async", 2) for node in deployment.nodes]
    running = [await trial.client.run(until=trial.gate) for _ in range(4)]
    for job in running:
        await trial.started(job)
    with deployment.store.client as store:
        before = store.info("stats")["total_connections_received"]
        deployment.store.freeze()
        trial.open_gate()
        await asyncio.sleep(STORE_SECONDS)
        assert (await trial.client.once("GET", "/health")).status == 503
        deployment.store.thaw()
        fresh = await trial.client.run()
        for job in [*running, fresh]:
            assert (await trial.client.final(job))["status"] == "COMPLETED"
        assert [trial.history.starts(job) for job in running] == [[1]] * 4
        # This one may have been sent into a line that its worker had given up, which is no try, but has a number.
        assert len(trial.history.starts(fresh)) == 1
        # Each process has a few connections, and begins anew after a pause that grows.
        assert store.info("stats")["total_connections_received"] - before < 100
    await trial.settle()
    assert all(worker.runs for worker in workers)
