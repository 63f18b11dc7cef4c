"""Offers to the store, without a handler's process."""

import asyncio
from typing import Any

import pytest

from handler_sdk.links import Attempt, TakenJob

from .conftest import BASE, Gateway, Jobs, Store
from .ends import blocked, joined, nothing, one, take

pytestmark = pytest.mark.only_over("redis")


class TestTake:
    async def test_gives_up_waiting_after_about_a_second(self, gateway: Gateway) -> None:
        async with joined(gateway) as (link, _), asyncio.timeout(2.5):
            assert await take(link, one) == []

    async def test_looks_again_also_when_told_so_while_its_offer_is_on_its_way(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with joined(gateway) as (link, _):
            offer, wait = link._offer, link._inbox.wait
            ended: list[bool] = []

            async def told_meanwhile(*arguments: Any) -> Any:
                came = await offer(*arguments)
                link.look_again()
                return came

            async def watched(*arguments: Any) -> None:
                await wait(*arguments)
                ended.append(link._inbox._changed.is_set())  # not by the time that it waits at most

            monkeypatch.setattr(link, "_offer", told_meanwhile)
            monkeypatch.setattr(link._inbox, "wait", watched)
            await link.take(lambda: 1, list, lambda _: None)
            assert ended == [True]

    async def test_while_more_jobs_wait_they_come_a_few_at_a_time(
        self, gateway: Gateway, jobs: Jobs, store: Store
    ) -> None:
        submitted = [await asyncio.to_thread(jobs.submit) for _ in range(60)]
        begun: list[Attempt] = []
        at_each_step: list[int] = []

        def begin(job: TakenJob) -> None:
            begun.append(job.attempt)
            at_each_step.append(link._inbox.received)

        async with joined(gateway) as (link, _):
            await link.take(lambda: 10 - len(begun), lambda: begun, begin)
            await link.take(lambda: 40 - len(begun), lambda: begun, begin)
            assert at_each_step == [10] * 10 + [26] * 16 + [40] * 14
            await link.take(lambda: 20, lambda: begun, begin)  # all that run end at once, so there is room for the rest
            assert at_each_step[40:] == [56] * 16 + [60] * 4
            assert [attempt.job for attempt in begun] == submitted
            # All of the room is offered; four of the twenty were on their way when that was said.
            assert store.client.hget(f"{BASE}:worker:{link.worker}", "free") == "16"
            last = await asyncio.to_thread(jobs.submit)
            async with asyncio.timeout(5):
                while len(begun) == len(submitted):
                    await link.take(lambda: 10, lambda: begun, begin)
            assert begun[-1] == Attempt(last, 1)

    async def test_a_job_that_overtakes_the_reply_is_begun_and_room_offered_anew(
        self, gateway: Gateway, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The offer is used up by then, so there is nothing to wait for."""
        async with joined(gateway) as (link, _):
            assert await take(link, one) == []
            call = link._store.call

            def overtaken(name: str, *arguments: Any, **options: Any) -> Any:
                link._inbox.put(f"{link._inbox._epoch} job 1 60000 0\nnull".encode())
                return call(name, *arguments, **options)

            async def wait(*_: Any) -> None:
                pytest.fail("it waits")

            monkeypatch.setattr(link._store, "call", overtaken)
            monkeypatch.setattr(link._inbox, "wait", wait)
            monkeypatch.setattr(link._inbox, "offered", 0)
            assert [taken.attempt for taken in await take(link, one)] == [Attempt("job", 1)]

    async def test_withdraws_its_offer_when_there_is_no_room_any_more(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            assert await take(link, one) == []
            assert await take(link, lambda: 0) == []
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"

    async def test_gives_back_what_never_arrived(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        """The store has sent a job, and the line broke before it was here."""
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, one))
            await blocked(store)
            link._inbox._epoch = "another"  # whatever comes now is not heard
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_PROGRESS"
            store.client.client_kill_filter(_type="pubsub")
            found = [taken.attempt for taken in await taking]
            while not found:
                found = [taken.attempt for taken in await take(link, one)]
            assert found == [Attempt(job, 2)]
            assert jobs.fields(job)["tries"] == "1"

    async def test_comes_back_when_the_store_has_forgotten_the_worker(
        self, gateway: Gateway, jobs: Jobs, store: Store
    ) -> None:
        async with joined(gateway) as (link, _):
            taking = asyncio.create_task(take(link, one))
            await blocked(store)
            store.call("leave", link.worker)
            await taking
            store.call("take", link.worker, 1, 0)  # an offer that comes late
            job = await asyncio.to_thread(jobs.submit)
            found: list[TakenJob] = []
            async with asyncio.timeout(5):
                while not found:
                    found = await take(link, one)
            assert [taken.attempt for taken in found] == [Attempt(job, 2)]
            assert jobs.fields(job)["tries"] == "1"

    async def test_declines_what_comes_from_then_on(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            assert await take(link, one) == []
            await link.give_back(nothing)
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"
