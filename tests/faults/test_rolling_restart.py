"""All gateways and workers are replaced, one after the other, while clients go on."""

import asyncio
import itertools

import pytest

from ..gateway.waiting import eventually
from .conftest import MakeDeployment, MakeTrial
from .deployment import Deployment
from .trial import Trial

CLIENTS = 4
REQUESTS_AT_ONCE = 20
RESTARTS = 3
KINDS = ("plain", "async generator")


async def test_fails_no_request(deployment: Deployment, make_trial: MakeTrial) -> None:
    trial = make_trial(deployment, leaseSeconds=30)
    nodes = deployment.nodes[:2]
    workers = [await trial.start_worker(node, kind, 2) for node, kind in zip(nodes, KINDS, strict=True)]
    going_on = True

    async def go_on(number: int) -> None:
        client = trial.make_client(*nodes, keep_alive=False)
        for turn in itertools.count(number):
            if not going_on:
                return
            if turn % 3 == 0:
                await client.runsync(pause=0.01)
            elif turn % 3 == 1:
                await client.final(await client.run(pause=0.01))
            else:
                await client.follow(await client.run(pause=0.05))

    tasks = [asyncio.create_task(go_on(number)) for number in range(CLIENTS)]
    await work_done(trial)
    for number, node in enumerate(nodes):
        await workers[number].stop()
        workers[number] = await trial.start_worker(node, KINDS[number], 2)
        await work_done(trial)
    for node in nodes:
        await node.restart()
        await work_done(trial)
    going_on = False
    await asyncio.gather(*tasks)
    await trial.settle()
    # What a worker held when it was told to end, it ended. What was on its way to it went back and was no try.
    assert {job: starts for job in trial.history.jobs if len(starts := trial.history.starts(job)) != 1} == {}


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_of_a_gateway_cuts_off_no_request(
    make_deployment: MakeDeployment, make_trial: MakeTrial, processes: str
) -> None:
    """Each request is answered or finds no connection, also one that comes in the moment in which a gateway ends."""
    trial = make_trial(make_deployment(2, processes=processes))
    other, last = trial.deployment.nodes
    client = trial.make_client(other, last, keep_alive=False)
    client.counts_cut_off = True
    asked, going_on = 0, True

    async def go_on() -> None:
        nonlocal asked
        while going_on:
            await client.health()
            asked += 1

    async def look() -> bool:
        return asked >= enough

    tasks = [asyncio.create_task(go_on()) for _ in range(REQUESTS_AT_ONCE)]
    for _ in range(RESTARTS):
        enough = asked + REQUESTS_AT_ONCE
        await eventually(look)
        await last.restart()
    going_on = False
    await asyncio.gather(*tasks)
    trial.check()


async def work_done(trial: Trial) -> None:
    """Returns when some more jobs have begun."""
    before = len(trial.history.started())
    await trial.starts(before + 5 * CLIENTS)
