"""The store executes a call, and its reply never arrives."""

import asyncio

import pytest

from ..gateway.waiting import eventually
from .conftest import MakeTrial
from .deployment import Deployment
from .history import Submitted
from .trial import Trial

JOBS = 20
SHORTEST_LEASE, LONG_LEASE = 1, 60
SECONDS_TO_NOTICE = 15.0


async def test_of_a_submission(trial: Trial) -> None:
    node = trial.deployment.nodes[0]
    client = trial.client
    lost = [node.store_line.lose_reply(b"_submit") for node in trial.deployment.nodes]
    trial.history.add(Submitted("once"))
    first = await client.once("POST", "/run", {"input": {}}, {"Idempotency-Key": "once"})
    assert any(order.done() for order in lost)
    assert first.status == 503
    assert int(first.headers["retry-after"]) > 0
    job = await client.run(key="once")
    assert (await client.health())["jobs"]["inQueue"] == 1
    await trial.start_worker(node)
    await trial.settle()
    assert trial.history.starts(job) == [1]


async def test_of_many_submissions_at_once(trial: Trial) -> None:
    lost = [node.store_line.lose_reply(b"_submit") for node in trial.deployment.nodes for _ in range(3)]
    await asyncio.gather(*(trial.client.run() for _ in range(JOBS)))
    assert lost[0].done()
    assert len(trial.history.jobs) == JOBS
    assert (await trial.client.health())["jobs"]["inQueue"] == JOBS
    await trial.start_worker(trial.deployment.nodes[0])
    await trial.settle()


@pytest.mark.parametrize("function", ["take", "join", "emit", "finish", "renew"])
async def test_of_a_call_of_a_worker(function: str, deployment: Deployment, make_trial: MakeTrial) -> None:
    # A lease is too long to wait for: the worker itself has to find out what was lost.
    trial = make_trial(deployment, leaseSeconds=SHORTEST_LEASE if function == "renew" else LONG_LEASE)
    node = deployment.nodes[0]
    worker = await trial.start_worker(node, "generator")
    lost = node.worker_line.lose_reply(f"_{function}".encode())
    if function == "join":
        node.worker_line.cut()
    jobs = [await trial.client.run(pause=0.01) for _ in range(5)]
    readers = [asyncio.create_task(trial.client.follow(job)) for job in jobs]

    async def executed() -> bool:
        return lost.done()

    await eventually(executed)
    async with asyncio.timeout(SECONDS_TO_NOTICE):
        assert [len(await reader) for reader in readers] == [3] * 5
    await trial.settle()
    assert all(len(trial.history.starts(job)) == 1 for job in jobs)
    assert "counts no more" not in worker.log
