"""Many jobs cancelled at every moment of their lives."""

import asyncio
import random

from ..gateway.waiting import eventually
from .conftest import MakeTrial
from .deployment import Deployment
from .history import Seen

JOBS = 1000
CLIENTS = 50
LONG = {"chunks": 3000, "pause": 0.02}
LONGEST_PAUSE = 0.05
SECONDS_TO_STOP = 3.0


async def test_a_thousand_jobs_cancelled_while_they_run(deployment: Deployment, make_trial: MakeTrial) -> None:
    trial = make_trial(deployment, leaseSeconds=30)
    for node, kind in zip(deployment.nodes, ("async", "generator"), strict=False):
        await trial.start_worker(node, kind, concurrency=8)
    room = asyncio.Semaphore(CLIENTS)
    chance = random.Random(1)
    states: dict[str, str] = {}

    async def run_and_cancel(number: int) -> None:
        async with room:
            job = await trial.client.run(**(LONG if number % 2 else {"chunks": 1}))
            await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE))
            states[job] = await trial.client.cancel(job)
            if number % 10 == 0:
                assert await trial.client.cancel(job) == states[job]

    await asyncio.gather(*(run_and_cancel(number) for number in range(JOBS)))
    assert set(states.values()) == {"COMPLETED", "CANCELLED"}
    began = {job for job, _ in trial.history.started()}
    assert {states[job] for job in began} == {"COMPLETED", "CANCELLED"}

    async def none_runs() -> bool:
        return not trial.history.running()

    assert await eventually(none_runs, SECONDS_TO_STOP)
    await trial.settle()
    ended = {event.job: event.state for event in trial.history.events if isinstance(event, Seen)}
    assert ended == states
    workers = (await trial.client.health())["workers"]
    assert (workers["idle"], workers["running"]) == (2, 0)
