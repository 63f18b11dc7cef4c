"""The worker's own end, without its processes."""

import asyncio

from handler_sdk.links import Attempt

from .conftest import BASE, Gateway, Jobs, Store
from .ends import joined, one, take


class TestRenewal:
    async def test_keeps_leases_and_names_those_that_lapsed(self, gateway: Gateway, jobs: Jobs) -> None:
        job, lost = jobs.submit(), jobs.submit()
        async with joined(gateway) as (link, membership):
            await take(link, lambda: 2)
            jobs.cancel(lost)
            for _ in range(8):
                lapsed = await membership.renew(2, "ready", [Attempt(job, 1), Attempt(lost, 1)])
                assert lapsed == [(Attempt(lost, 1), "CANCELLED")]
                await asyncio.sleep(membership.registered.renewal_seconds)
            assert jobs.fields(job)["attempt"] == "1"
            assert jobs.state(job) == "IN_PROGRESS"

    async def test_interval_follows_the_lease(self, gateway: Gateway) -> None:
        gateway.lease_ms = 6000
        async with joined(gateway) as (_, membership):
            assert membership.registered.renewal_seconds == 1
        gateway.lease_ms = 600_000
        async with joined(gateway) as (_, membership):
            assert membership.registered.renewal_seconds == 5


class TestListen:
    async def test_tells_of_stops_and_of_connections(self, gateway: Gateway, jobs: Jobs) -> None:
        stops: asyncio.Queue[tuple[Attempt, str]] = asyncio.Queue()
        missed = asyncio.Event()
        job = jobs.submit()
        async with joined(gateway, lambda *stop: stops.put_nowait(stop), missed) as (link, _):
            await take(link, one)
            missed.clear()
            gateway.cut_listeners()
            await asyncio.wait_for(missed.wait(), 5)
            await asyncio.to_thread(jobs.cancel, job)
            assert await asyncio.wait_for(stops.get(), 5) == (Attempt(job, 1), "CANCELLED")


class TestLeave:
    async def test_gives_back_what_is_held_and_says_goodbye(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            await take(link, one)
        assert jobs.state(job) == "IN_QUEUE"
        assert gateway.left == [link.worker]
        consumers = store.client.xinfo_consumers(f"{BASE}:queue:normal", "workers")
        assert link.worker not in {consumer["name"] for consumer in consumers}


class TestGivingUp:
    async def test_of_an_attempt_has_the_job_tried_again(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, membership):
            await take(link, one)
            await membership.lose(Attempt(job, 1), "it crashed")
            assert (jobs.state(job), jobs.fields(job)["tries"]) == ("IN_QUEUE", "1")
            await membership.lose(Attempt(job, 1), "it crashed")
            assert jobs.state(job) == "IN_QUEUE"

    async def test_of_what_has_not_begun_costs_no_try(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, membership):
            await take(link, one)
            await membership.give_back([])
            assert (jobs.state(job), jobs.fields(job)["tries"]) == ("IN_QUEUE", "0")

    async def test_of_what_an_earlier_worker_of_this_id_was_given_comes_first(
        self, gateway: Gateway, jobs: Jobs, store: Store
    ) -> None:
        job = jobs.submit()
        store.call("take", "worker-1", 1, 0)
        assert jobs.state(job) == "IN_PROGRESS"
        async with joined(gateway):
            assert (jobs.state(job), jobs.fields(job)["tries"]) == ("IN_QUEUE", "1")  # a poison job must not go round
