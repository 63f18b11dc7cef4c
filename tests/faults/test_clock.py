"""The clock of a worker's machine is an hour off."""

import asyncio
import time
from pathlib import Path

from ..handler_sdk.conftest import ROOT
from .conftest import MakeTrial
from .deployment import Deployment
from .history import Started
from .trial import Trial

HOUR = 3600
LEASE_SECONDS = 1.0
TIMEOUT_SECONDS = 5
LATE_SECONDS = 2.0
RETENTION_SECONDS = 1800
OTHER_CLOCK = Path(__file__).with_name("other_clock")


async def test_expires_nothing_early_or_late(deployment: Deployment, make_trial: MakeTrial) -> None:
    trials = [make_trial(deployment, leaseSeconds=LEASE_SECONDS) for _ in range(2)]
    await asyncio.gather(*(run_with(trial, offset) for trial, offset in zip(trials, (HOUR, -HOUR), strict=True)))


async def run_with(trial: Trial, offset: int) -> None:
    node = trial.deployment.nodes[0]
    clock = {"PYTHONPATH": f"{OTHER_CLOCK}:{ROOT}", "FAULTS_CLOCK_OFFSET": str(offset)}
    worker = await trial.start_worker(node, "async", 4, clock)
    longer_than_the_lease = await trial.client.run(chunks=1, pause=2.5 * LEASE_SECONDS)
    endless = await trial.client.run(chunks=1, pause=60, policy={"executionTimeout": TIMEOUT_SECONDS * 1000})
    await trial.started(endless)
    began = time.monotonic()
    ended = await trial.client.final(longer_than_the_lease)
    assert (ended["status"], ended["output"]) == ("COMPLETED", {"attempt": 1})
    assert ended["executionTime"] >= 2500 * LEASE_SECONDS
    assert 0 <= ended["delayTime"] < 10_000
    assert (await trial.client.final(endless))["status"] == "TIMED_OUT"
    assert TIMEOUT_SECONDS - 0.5 < time.monotonic() - began < TIMEOUT_SECONDS + LATE_SECONDS

    lost = await trial.client.run(chunks=1, pause=LEASE_SECONDS)
    await trial.started(lost)
    worker.kill()
    began = time.monotonic()
    await trial.start_worker(node, "async", environment=clock)
    await trial.started(lost, times=2)
    assert time.monotonic() - began < LEASE_SECONDS + LATE_SECONDS
    await trial.settle()

    starts = [event for event in trial.history.events if isinstance(event, Started)]
    assert all(abs(start.clock - time.time() - offset) < 60 for start in starts)
    with trial.deployment.store.client as store:
        left = store.pttl(f"{trial.endpoint.base}:job:{longer_than_the_lease}")
        assert isinstance(left, int)
        assert RETENTION_SECONDS - 60 < left / 1000 < RETENTION_SECONDS + 120
