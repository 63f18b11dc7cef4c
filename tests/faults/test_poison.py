"""Jobs that kill whoever runs them."""

from typing import Any

import pytest

from .conftest import MakeTrial
from .deployment import Deployment

ATTEMPTS = 2
OTHERS = 10


@pytest.mark.parametrize("poison", [{"exit": 1}, {"kill_worker": True}], ids=["its process", "its worker"])
async def test_a_job_that_kills(poison: dict[str, Any], deployment: Deployment, make_trial: MakeTrial) -> None:
    trial = make_trial(deployment, attempts=ATTEMPTS)
    for node in deployment.nodes[:2]:
        trial.keep_worker(node)
    jobs = [await trial.client.run() for _ in range(OTHERS)]
    killer = await trial.client.run(**poison)
    jobs += [await trial.client.run() for _ in range(OTHERS)]
    ended = await trial.client.final(killer)
    assert ended["status"] == "FAILED"
    assert f"attempt {ATTEMPTS} of {ATTEMPTS}" in ended["error"]
    assert trial.history.starts(killer) == [1, 2]
    await trial.settle()
    assert [(await trial.client.status(job))["status"] for job in jobs] == ["COMPLETED"] * len(jobs)
    assert [trial.history.starts(job) for job in jobs] == [[1]] * len(jobs)
