"""All gateways and workers are replaced, one after the other, while clients go on."""

import asyncio
import itertools

from .conftest import MakeTrial
from .deployment import Deployment
from .trial import Trial

CLIENTS = 4
KINDS = ("plain", "async generator")


async def test_fails_no_request(deployment: Deployment, make_trial: MakeTrial) -> None:
    trial = make_trial(deployment, leaseSeconds=30)
    nodes = deployment.nodes[:2]
    workers = [await trial.start_worker(node, kind, 2) for node, kind in zip(nodes, KINDS, strict=True)]
    going_on = True

    async def go_on(number: int) -> None:
        client = trial.make_client(*nodes, keep_alive=False)
        client.counts_cut_off = True
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
    # Nothing was started twice: what a worker held when it was told to end, it ended.
    assert all(trial.history.starts(job) == [1] for job in trial.history.jobs)


async def work_done(trial: Trial) -> None:
    """Returns when some more jobs have begun."""
    before = len(trial.history.started())
    await trial.starts(before + 5 * CLIENTS)
