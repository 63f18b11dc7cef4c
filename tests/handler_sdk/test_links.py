"""The handler's process's end of a worker, over each link, without that process."""

import asyncio

import pytest

from handler_sdk.links import Attempt, LinkError

from .conftest import Gateway, Jobs, Store
from .ends import blocked, joined, one, take


class TestTake:
    async def test_returns_jobs_that_wait_in_the_order_of_the_queues(
        self, gateway: Gateway, jobs: Jobs, store: Store
    ) -> None:
        first, second = jobs.submit({"n": 1}), jobs.submit([2], request='{"webhook": "w"}')
        async with joined(gateway) as (link, _):
            taken = await take(link, lambda: 2)
            assert [job.attempt for job in taken] == [Attempt(first, 1), Attempt(second, 1)]
            assert [(job.input, job.request) for job in taken] == [(b'{"n": 1}', b""), (b"[2]", b'{"webhook": "w"}')]

    async def test_waits_for_a_job(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, lambda: 5))
            await blocked(gateway.store)
            job = await asyncio.to_thread(jobs.submit)
            assert [taken.attempt.job for taken in await taking] == [job]

    async def test_withdraws_its_offer_when_told_to_look_again(self, gateway: Gateway, jobs: Jobs) -> None:
        room = 1
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, lambda: room))
            await blocked(gateway.store)
            room = 0
            link.look_again()
            async with asyncio.timeout(0.5):
                assert await taking == []
            assert await take(link, lambda: room) == []
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"

    async def test_takes_no_more_than_was_offered(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, one))
            await blocked(gateway.store)
            first, second = await asyncio.to_thread(lambda: (jobs.submit(), jobs.submit()))
            assert [taken.attempt.job for taken in await taking] == [first]
            assert jobs.state(second) == "IN_QUEUE"

    async def test_gets_a_job_that_is_too_large_for_a_message(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, one))
            await blocked(gateway.store)
            await asyncio.to_thread(jobs.submit, "x" * 100_000)
            assert [taken.input for taken in await taking] == [b'"' + b"x" * 100_000 + b'"']


class TestReports:
    async def test_are_refused_from_an_attempt_that_is_over(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            assert await link.emit(taken.attempt, 1, [b"1"])
            assert await link.progress(taken.attempt, b"{}")
            jobs.cancel(job)
            assert not await link.emit(taken.attempt, 2, [b"2"])
            assert not await link.progress(taken.attempt, b"{}")
            assert not await link.finish(taken.attempt, "COMPLETED", "output", b"1")

    async def test_may_be_repeated(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            assert await link.emit(taken.attempt, 1, [b"1", b"2"])
            assert await link.emit(taken.attempt, 2, [b"2", b"3"])
            assert jobs.chunks(job) == [1, 2, 3]
            assert await link.finish(taken.attempt, "COMPLETED", "output", b"7")
            assert await link.finish(taken.attempt, "COMPLETED", "output", b"7")

    async def test_with_a_gap_raise(self, gateway: Gateway, jobs: Jobs) -> None:
        jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            with pytest.raises(LinkError, match=r"chunks before .* are missing"):
                await link.emit(taken.attempt, 2, [b"2"])

    async def test_wait_until_a_full_store_has_room(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            store.client.config_set("maxmemory", 1)
            try:
                emitting = asyncio.create_task(link.emit(taken.attempt, 1, [b"1"]))
                await asyncio.wait({emitting}, timeout=0.3)
                assert not emitting.done()
            finally:
                store.client.config_set("maxmemory", 0)
            assert await asyncio.wait_for(emitting, 5)
            assert jobs.chunks(job) == [1]
