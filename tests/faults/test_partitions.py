"""A line to the store through which nothing passes, in one direction or both, while its connections stay open."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from ..gateway.waiting import still_waits
from .client import Client
from .conftest import MakeTrial
from .deployment import Deployment, Node
from .http import Answer
from .proxy import BOTH, Direction
from .trial import Trial

DIRECTIONS = (frozenset({Direction.TO_STORE}), frozenset({Direction.FROM_STORE}), BOTH)
LEASE_SECONDS = 1.5


async def test_of_workers(deployment: Deployment, make_trial: MakeTrial) -> None:
    trials = [make_trial(deployment, leaseSeconds=LEASE_SECONDS) for _ in DIRECTIONS]
    *cut_off, healthy = deployment.nodes
    await asyncio.gather(
        *(
            partition_of_a_worker(trial, node, healthy, directions)
            for trial, node, directions in zip(trials, cut_off, DIRECTIONS, strict=True)
        )
    )


async def test_a_worker_whose_subscription_died_silently(deployment: Deployment, make_trial: MakeTrial) -> None:
    """As behind a router that has forgotten the connection: the store goes on sending jobs there."""
    trial = make_trial(deployment, leaseSeconds=6)
    node = deployment.nodes[0]
    await trial.start_worker(node)
    await trial.client.final(await trial.client.run())
    node.worker_line.forsake(b"SSUBSCRIBE")
    job = await trial.client.run()
    assert (await trial.client.final(job))["status"] == "COMPLETED"
    assert len(trial.history.starts(job)) == 1
    trial.check()


async def partition_of_a_worker(trial: Trial, node: Node, healthy: Node, directions: frozenset[Direction]) -> None:
    """A worker of one node is cut off from the store, twice; the second time, one of the other node is there."""
    line = node.worker_line
    first = await trial.start_worker(node, "generator")

    # shorter than the lease: the worker goes on where it was
    job = await trial.client.run(chunks=20, pause=0.05)
    reader = asyncio.create_task(trial.client.follow(job))
    await trial.started(job)
    line.hold(directions)
    await asyncio.sleep(LEASE_SECONDS / 3)
    line.heal()
    assert len(await reader) == 20
    assert trial.history.starts(job) == [1]

    # longer: another one takes the job over, and what the first one says meanwhile is refused when it arrives
    job = await trial.client.run(chunks=5, until=trial.gate)
    reader = asyncio.create_task(trial.client.follow(job))
    await trial.written(job, 4)
    line.hold(directions)
    second = await trial.start_worker(healthy, "generator")
    await trial.started(job, times=2)
    await trial.written(job, 8)
    trial.open_gate(attempt=1)
    await trial.written(job, 9)
    line.heal()
    await first.said("counts no more", "its handler is stopped")
    trial.open_gate(attempt=2)
    assert (await trial.client.final(job))["output"] == [f"2:{number}:" for number in range(1, 6)]
    assert await reader == [(2, number) for number in range(1, 6)]

    # and it works again
    await second.stop()
    job = await trial.client.run()
    assert (await trial.client.final(job))["status"] == "COMPLETED"
    await trial.settle()
    assert first.runs


async def test_of_a_worker_whose_result_comes_late(trial: Trial) -> None:
    """It comes while the next attempt runs, and is refused."""
    *_, node, healthy = trial.deployment.nodes
    first = await trial.start_worker(node)
    job = await trial.client.run(until=trial.gate)
    await trial.started(job)
    node.worker_line.hold()
    await trial.start_worker(healthy)
    await trial.started(job, times=2)
    trial.open_gate(attempt=1)
    await trial.returned(job, 1)
    node.worker_line.heal()
    await first.said("counts no more", "its handler is stopped")
    assert (await trial.client.status(job))["status"] == "IN_PROGRESS"
    trial.open_gate(attempt=2)
    assert (await trial.client.final(job))["output"] == {"attempt": 2}
    await trial.settle()


async def test_of_gateways(deployment: Deployment, make_trial: MakeTrial) -> None:
    """Two of three gateways are cut off, one in each direction. Requests to them end as 503 and can be repeated at the
    third; requests that wait at them are answered when the partition is over."""
    trial = make_trial(deployment, leaseSeconds=30)
    *cut_off, healthy = deployment.nodes[:3]
    await trial.start_worker(healthy, "generator")
    clients = [trial.make_client(node) for node in cut_off]
    job = await trial.client.run(until=trial.gate)
    waiting = [asyncio.create_task(client.final(job)) for client in clients]
    reading = [asyncio.create_task(client.follow(job)) for client in clients]
    await trial.started(job)
    for node, direction in zip(cut_off, Direction, strict=True):
        node.store_line.hold(frozenset({direction}))

    answers = await asyncio.gather(*(operation for client in clients for operation in operations(client, job)))
    assert [answer.status for answer in answers] == [503] * len(answers)
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
    repeated = trial.make_client(healthy)
    jobs = [await repeated.run(key=key) for key in KEYS]
    trial.open_gate()
    assert (await repeated.final(job))["status"] == "COMPLETED"
    assert all([await still_waits(task) for task in waiting])

    for node in cut_off:
        node.reset()
    assert [(await task)["status"] for task in waiting] == ["COMPLETED"] * 2
    assert [len(await task) for task in reading] == [3] * 2
    # What the gateways sent during the partition has arrived by now, and the keys have made it harmless.
    assert [await client.run(key=key) for client in clients for key in KEYS] == jobs * 2
    for client in (*clients, repeated):
        await client.all_final()
    trial.check()


KEYS = ("a", "b", "c")


def operations(client: Client, job: str) -> list[Coroutine[Any, Any, Answer]]:
    """Requests of each kind, submissions among them."""
    submissions = [client.once("POST", "/run", {"input": {}}, {"Idempotency-Key": key}) for key in KEYS]
    paths = (f"/status/{job}", f"/stream/{job}", "/health", "/requests")
    return submissions + [client.once("GET", path) for path in paths]
