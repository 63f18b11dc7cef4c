"""Webhooks arrive, under one id, whatever happens to the gateways that send them."""

import asyncio
import json
import signal
from typing import Any

from ..gateway.processes import listens, owns_port
from ..gateway.receiver import HANG, Receiver
from ..gateway.waiting import eventually
from .conftest import MakeDeployment, MakeTrial
from .deployment import Deployment, Node, ended
from .history import Told
from .test_full_store import full
from .trial import Trial

LONG = "30"
"""Seconds for a receiver to answer: longer than a test waits for anything."""

JOBS = 40
KILLS = 3


def deploy(make: MakeDeployment, gateways: int, webhook_seconds: str) -> Deployment:
    return make(
        gateways, outbound_allow="127.0.0.1", webhook_seconds=webhook_seconds, webhook_retry_seconds="0.05",
    )  # fmt: skip


def sender(deployment: Deployment, port: int) -> Node:
    """The gateway that has a connection from this port."""
    (node,) = [each for each in deployment.nodes if each.process is not None and owns_port(each.process.pid, port)]
    return node


async def log(trial: Trial) -> list[dict[str, Any]]:
    answer = await trial.client.request("GET", "/webhooks")
    assert answer.status == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["webhooks"]
    return found


async def all_delivered(trial: Trial, count: int) -> list[dict[str, Any]]:
    """The log, once all that is in it was delivered."""

    async def look() -> list[dict[str, Any]]:
        found = await log(trial)
        return found if [each["state"] for each in found] == ["delivered"] * count else []

    return await eventually(look)


def note(trial: Trial, receiver: Receiver) -> None:
    """Puts what the receiver was told into the history."""
    for received in receiver.received:
        job = json.loads(received.body)
        trial.history.add(Told(job["id"], received.id, job["status"], job.get("output", job.get("error"))))


async def test_of_a_gateway_that_is_killed_are_sent_by_another(
    make_deployment: MakeDeployment, make_trial: MakeTrial, receiver: Receiver
) -> None:
    deployment = deploy(make_deployment, 2, webhook_seconds="2")
    trial = make_trial(deployment, webhook=receiver.url())
    await trial.start_worker(deployment.nodes[0])
    receiver.answers["/"] = [HANG, 200]
    job = await trial.client.run()
    (first,) = await receiver.wait_for(1)
    node = sender(deployment, first.port)

    node.kill()

    _, second = await receiver.wait_for(2)
    assert (second.id, second.body) == (first.id, first.body)
    (found,) = await all_delivered(trial, 1)
    assert found["job"] == job
    assert [attempt["status"] for attempt in found["attempts"]] == [200]
    note(trial, receiver)
    await trial.settle()


async def test_of_a_gateway_that_ends_come_to_their_end(
    make_deployment: MakeDeployment, make_trial: MakeTrial, receiver: Receiver
) -> None:
    deployment = deploy(make_deployment, 2, LONG)
    trial = make_trial(deployment, webhook=receiver.url())
    await trial.start_worker(deployment.nodes[0])
    receiver.answers["/"] = [HANG]
    await trial.client.run()
    (received,) = await receiver.wait_for(1)
    process = sender(deployment, received.port).process
    assert process is not None
    (port,) = [node.port for node in deployment.nodes if node.process is process]

    process.send(signal.SIGTERM)

    async def listens_no_more() -> bool:
        return not listens(port)

    await eventually(listens_no_more)
    receiver.let_go()
    await ended(process)
    assert [each["state"] for each in await log(trial)] == ["delivered"]
    assert len(receiver.received) == 1
    await trial.settle()


async def test_of_a_gateway_that_cannot_end_them_are_given_back(
    make_deployment: MakeDeployment, make_trial: MakeTrial, receiver: Receiver
) -> None:
    deployment = deploy(make_deployment, 2, LONG)
    trial = make_trial(deployment, webhook=receiver.url())
    await trial.start_worker(deployment.nodes[0])
    receiver.answers["/"] = [HANG, 200]
    await trial.client.run()
    (first,) = await receiver.wait_for(1)
    process = sender(deployment, first.port).process
    assert process is not None

    process.send(signal.SIGTERM)

    _, second = await receiver.wait_for(2)  # long before the claim would have ended
    assert second.id == first.id
    await all_delivered(trial, 1)
    await ended(process)
    await trial.settle()


async def test_all_arrive_while_gateways_are_killed_and_the_receiver_fails(
    make_deployment: MakeDeployment, make_trial: MakeTrial, receiver: Receiver
) -> None:
    deployment = deploy(make_deployment, 2, webhook_seconds="1")
    trial = make_trial(deployment, webhook=receiver.url())
    await trial.start_worker(deployment.nodes[0], concurrency=4)
    receiver.answers["/"] = [500, HANG, 200, 503, 200, 200] * 3 + [200]
    submitting = asyncio.gather(*(trial.client.run(pause=0.1) for _ in range(JOBS)))

    for number in range(KILLS):
        await receiver.wait_for(4 * (number + 1))
        node = deployment.nodes[number % 2]
        node.kill()
        node.start()
        await eventually(node.is_up)

    jobs = await submitting
    found = await all_delivered(trial, JOBS)
    assert {each["job"] for each in found} == set(jobs)
    assert {json.loads(each.body)["id"] for each in receiver.received} == set(jobs)
    note(trial, receiver)
    await trial.settle()


async def test_are_sent_when_the_store_has_no_memory_left(
    make_deployment: MakeDeployment, make_trial: MakeTrial, receiver: Receiver
) -> None:
    deployment = deploy(make_deployment, 1, webhook_seconds="2")
    trial = make_trial(deployment, webhook=receiver.url())
    await trial.start_worker(deployment.nodes[0])
    receiver.answers["/"] = [500, 200]
    job = await trial.client.run(until=trial.gate)
    await trial.started(job)

    with full(deployment):
        trial.open_gate()
        first, second = await receiver.wait_for(2)
        await all_delivered(trial, 1)

    assert (first.id, first.body) == (second.id, second.body)
    note(trial, receiver)
    await trial.settle()
