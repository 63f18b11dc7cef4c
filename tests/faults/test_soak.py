"""Faults at random, for a while; RUNLANE_SOAK_SECONDS makes it longer, RUNLANE_SOAK_SEED chooses the faults."""

import asyncio
import itertools
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

import pytest
import redis

from loadtest.bench.usage import resident_bytes

from ..gateway.waiting import eventually
from .client import Client
from .conftest import MakeDeployment, MakeTrial
from .deployment import SECONDS_TO_LOAD, Worker, open_files
from .trial import Trial

SECONDS = float(os.environ.get("RUNLANE_SOAK_SECONDS", "15"))
SEED = int(os.environ.get("RUNLANE_SOAK_SEED", random.randrange(1_000_000)))

CLIENTS = 12
CONCURRENCY = 3
WORKERS = (("plain", "redis"), ("async", "http"), ("generator", "redis"), ("generator", "http"))
"""Kinds of handlers, and what carries the calls of their workers."""

LEASE_SECONDS = 1.0
SECONDS_BETWEEN_FAULTS = (0.2, 1.5)
LONGEST_FREEZE = 2.5 * LEASE_SECONDS
LONGEST_OUTAGE = 1.0
SECONDS_TO_DRAIN = 60.0
ATTEMPTS = 5

# Only a long run has the time in which they can become flat.
SECONDS_TO_BE_FLAT = 120
SECONDS_BETWEEN_SAMPLES = 1.0
SECONDS_TO_WARM_UP = 10.0
RETENTION_SECONDS = 20
LONG_RETENTION_SECONDS = 1800
MOST_GROWTH_OF_BYTES = 40_000_000
MOST_GROWTH_OF_FILES = 40


class Faults:
    """What can go wrong, one thing at a time."""

    def __init__(self, trial: Trial, chance: random.Random) -> None:
        self._trial = trial
        self._deployment = trial.deployment
        self._chance = chance
        self.done: list[str] = []

    async def go_on(self, deadline: float) -> None:
        """Until then, breaks things at random and mends them."""
        faults: Sequence[Callable[[], Awaitable[None]]] = (
            self.kill_worker, self.freeze_worker, self.kill_gateway, self.kill_store, self.cut_lines, self.hold_lines,
        )  # fmt: skip
        weights = (4, 3, 2, 1, 3, 2)
        while time.monotonic() < deadline:
            await asyncio.sleep(self._chance.uniform(*SECONDS_BETWEEN_FAULTS))
            (fault,) = self._chance.choices(faults, weights)
            self.done.append(fault.__name__)
            await fault()

    async def kill_worker(self) -> None:
        (await self._worker()).process.kill()

    async def freeze_worker(self) -> None:
        process = (await self._worker()).process
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.uniform(0, LONGEST_FREEZE))
        process.send_signal(signal.SIGCONT)

    async def kill_gateway(self) -> None:
        node = self._chance.choice(self._deployment.nodes)
        node.kill()
        await asyncio.sleep(self._chance.uniform(0, LONGEST_OUTAGE))
        node.start()
        await eventually(node.is_up, SECONDS_TO_LOAD)

    async def kill_store(self) -> None:
        self._deployment.store.kill()
        await asyncio.sleep(self._chance.uniform(0, LONGEST_OUTAGE))
        self._deployment.store.start()

    async def cut_lines(self) -> None:
        for node in self._deployment.nodes:
            node.store_line.cut()
            node.worker_line.cut()

    async def hold_lines(self) -> None:
        node = self._chance.choice(self._deployment.nodes)
        line = self._chance.choice((node.store_line, node.worker_line))
        line.hold()
        await asyncio.sleep(self._chance.uniform(0, LONGEST_FREEZE))
        line.heal()

    async def _worker(self) -> Worker:
        """One that runs, once there is one."""

        async def look() -> list[Worker]:
            return self._trial.running_workers()

        return self._chance.choice(await eventually(look))


class Gauges:
    """Memory and open files of each process, and the number of keys in the store, over the run."""

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        self._bytes: dict[int, list[int]] = defaultdict(list)
        self._files: dict[int, list[int]] = defaultdict(list)
        self._keys: list[int] = []

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_SAMPLES)
            for pid in self._trial.pids():
                try:
                    self._bytes[pid].append(resident_bytes(pid))
                    self._files[pid].append(open_files(pid))
                except OSError:
                    continue  # it has just been killed
            self._keys.append(await asyncio.to_thread(self._count_keys))

    def check(self) -> None:
        """Fails when something has grown all the time."""
        warm = round(SECONDS_TO_WARM_UP / SECONDS_BETWEEN_SAMPLES)
        for samples, most in ((self._bytes, MOST_GROWTH_OF_BYTES), (self._files, MOST_GROWTH_OF_FILES)):
            for pid, seen in samples.items():
                assert max(seen[warm:], default=0) <= max(seen[: warm + 1]) + most, f"process {pid}: {seen}"
        half = len(self._keys) // 2
        assert max(self._keys[half:]) < 1.5 * max(self._keys[:half]), self._keys

    def _count_keys(self) -> int:
        """Without those of idempotency, which stay for a day."""
        base = self._trial.endpoint.base.encode()
        with suppress(redis.RedisError, OSError), self._trial.deployment.store.client as store:
            keys = cast(Iterator[bytes], store.scan_iter(match=base + b":*", count=1000))
            return sum(b":idempotency:" not in key for key in keys)
        return 0


async def submit_and_see(client: Client, chance: random.Random, deadline: float) -> None:
    """A client that submits a job and sees to its end, again and again until the deadline."""
    while time.monotonic() < deadline:
        input: dict[str, Any] = {"chunks": chance.randrange(1, 10), "pause": chance.choice((0, 0.01, 0.1)), "size": 100}
        choice = chance.random()
        if choice < 0.2:
            await client.final(await client.runsync(**input))
        elif choice < 0.4:
            await client.final(await client.run(**input))
        elif choice < 0.9:
            await client.follow(await client.run(**input))
        else:
            job = await client.run(**input)
            await client.cancel(job)
            await client.final(job)


@pytest.mark.timeout(SECONDS + SECONDS_TO_DRAIN + 60)
async def test_faults_at_random(make_deployment: MakeDeployment, make_trial: MakeTrial) -> None:
    print(f"RUNLANE_SOAK_SEED={SEED}")
    chance = random.Random(SEED)
    is_long = SECONDS >= SECONDS_TO_BE_FLAT
    retention = str(RETENTION_SECONDS if is_long else LONG_RETENTION_SECONDS)
    # With `everysec` the store holds back what it has acknowledged while its disk is busy, and loses it when killed.
    deployment = make_deployment(
        2, fsync="always", run_retention_seconds=retention, runsync_retention_seconds=retention
    )
    trial = make_trial(deployment, leaseSeconds=LEASE_SECONDS, attempts=ATTEMPTS)
    for node, (kind, link) in zip(itertools.cycle(deployment.nodes), WORKERS, strict=False):
        trial.keep_worker(node, kind, CONCURRENCY, {"RUNLANE_LINK": link})
    faults, gauges = Faults(trial, chance), Gauges(trial)
    deadline = time.monotonic() + SECONDS
    chances = [random.Random(f"{SEED} {number}") for number in range(CLIENTS)]
    clients = [asyncio.create_task(submit_and_see(trial.client, own, deadline)) for own in chances]
    watching = asyncio.create_task(gauges.watch())
    await faults.go_on(deadline)
    async with asyncio.timeout(SECONDS_TO_DRAIN):
        await asyncio.gather(*clients)
    watching.cancel()
    print(f"{len(trial.history.jobs)} jobs, {len(trial.history.started())} attempts, faults: {' '.join(faults.done)}")
    if is_long:
        trial.check()
        gauges.check()
    else:
        await trial.settle()
