"""Both ends of a worker over HTTP, without its processes, through a proxy that breaks lines."""

import asyncio

import pytest

from handler_sdk.links import Attempt, LinkError, LostReplyError, RefusedError, TakenJob
from handler_sdk.links.gateway import body_of, path_of
from handler_sdk.links.http import HttpLink, read_jobs
from handler_sdk.links.http_connection import Answer

from .conftest import BASE, Gateway, Jobs, Store, eventually
from .ends import Worker, blocked, joined, nothing, one, take

pytestmark = pytest.mark.only_over("http")


def test_what_a_query_says_comes_as_it_is() -> None:
    path = path_of("a b", "c/d", queues=".high normal", wait=5)
    assert path == "/a%20b/c%2Fd?queues=.high%20normal&wait=5"


def asked(gateway: Gateway, operation: str) -> int:
    """How many requests for this operation there were."""
    return sum(request.path.split("/")[3] == operation for request in gateway.requests)


async def take_until_found(worker: Worker) -> list[TakenJob]:
    async with asyncio.timeout(5):
        while not (found := await take(worker.link, one)):
            pass
    return found


class TestTake:
    async def test_gets_a_job_again_whose_answer_was_lost(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as worker:
            job = await asyncio.to_thread(jobs.submit, "x" * 100_000)
            order = gateway.lose_answer(b"/job-take-batch/")
            (taken,) = await take_until_found(worker)
            assert order.done.is_set()
            assert (taken.attempt, jobs.fields(job)["tries"]) == (Attempt(job, 2), "1")

    async def test_gets_a_job_again_whose_answer_was_lost_after_a_wait(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as worker:
            order = gateway.lose_answer(b"/job-take-batch/")
            taking = asyncio.create_task(take_until_found(worker))
            await blocked(gateway.store)
            job = await asyncio.to_thread(jobs.submit)
            (taken,) = await taking
            assert order.done.is_set()
            assert (taken.attempt, jobs.fields(job)["tries"]) == (Attempt(job, 2), "1")

    async def test_keeps_what_has_begun_when_an_answer_was_lost(self, gateway: Gateway, jobs: Jobs) -> None:
        first, second = jobs.submit(), jobs.submit()
        async with joined(gateway) as (link, _):
            (held,) = await take(link, one)
            gateway.lose_answer(b"/job-take-batch/")
            await link.take(one, lambda: [held.attempt], lambda _: None)
            assert [jobs.state(job) for job in (first, second)] == ["IN_PROGRESS", "IN_QUEUE"]

    async def test_goes_on_waiting_while_there_is_room(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            room = 4
            taking = asyncio.create_task(take(link, lambda: room))
            await blocked(gateway.store)
            room = 8
            link.look_again()
            room = 1
            link.look_again()
            job = await asyncio.to_thread(jobs.submit)
            assert [taken.attempt.job for taken in await taking] == [job]
            assert asked(gateway, "job-take-batch") == 1

    async def test_says_what_it_has_once_it_has_withdrawn(self, gateway: Gateway) -> None:
        async with joined(gateway) as (link, _):
            room = 1
            taking = asyncio.create_task(take(link, lambda: room))
            await blocked(gateway.store)
            before = asked(gateway, "job-return")
            room = 0
            link.look_again()
            assert await taking == []
            assert asked(gateway, "job-return") == before + 1

    async def test_declines_what_comes_from_then_on(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            await link.give_back(nothing)
            job = await asyncio.to_thread(jobs.submit)
            assert jobs.state(job) == "IN_QUEUE"

    def test_refuses_half_an_answer(self) -> None:
        whole = b'job-1 2 8 5\n{"a": 1}"one"job-2 1 0 2\n22'
        assert read_jobs(whole) == [
            TakenJob(Attempt("job-1", 2), b'"one"', b'{"a": 1}'),
            TakenJob(Attempt("job-2", 1), b"22", b""),
        ]
        for size in range(1, len(whole)):
            if size != len(b'job-1 2 8 5\n{"a": 1}"one"'):
                with pytest.raises(ValueError):
                    read_jobs(whole[:size])


class TestReports:
    async def test_that_were_executed_are_not_executed_again(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            for first, part in ((1, b"/job-stream/"), (3, b"first=3")):
                order = gateway.lose_answer(part)
                assert await link.emit(taken.attempt, first, [b"%d" % first, b'"\xc3\xa9"'])
                assert order.done.is_set()
            assert jobs.chunks(job) == [1, "é", 3, "é"]
            order = gateway.lose_answer(b"/job-done/")
            assert await link.finish(taken.attempt, "COMPLETED", "output", b'{"a": 1.0}')
            assert order.done.is_set()
            assert (jobs.state(job), jobs.fields(job)["output"]) == ("COMPLETED", '{"a": 1.0}')
            assert asked(gateway, "job-done") == 2

    @pytest.mark.parametrize("size", [10, 3_000_000])
    async def test_that_broke_off_half_way_are_sent_again(self, size: int, gateway: Gateway, jobs: Jobs) -> None:
        job, output = jobs.submit(), b'"' + b"x" * size + b'"'
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            order = gateway.halve(b"/job-done/")
            assert await link.finish(taken.attempt, "COMPLETED", "output", output)
            assert order.done.is_set()
            assert (jobs.state(job), jobs.fields(job)["output"]) == ("COMPLETED", output.decode())

    async def test_of_progress_are_not_repeated(self, gateway: Gateway, jobs: Jobs) -> None:
        jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            gateway.lose_answer(b"/job-done/")
            with pytest.raises(LostReplyError):
                await link.progress(taken.attempt, b"1")
            assert asked(gateway, "job-done") == 1

    async def test_of_progress_are_overtaken_by_none(self, gateway: Gateway, jobs: Jobs) -> None:
        async with joined(gateway) as (link, _):
            for _ in range(10):
                job = jobs.submit()
                (taken,) = await take(link, one)
                assert all(await asyncio.gather(*(link.progress(taken.attempt, b"%d" % step) for step in range(10))))
                assert jobs.fields(job)["progress"] == "9"
                progress = link.progress(taken.attempt, b"10")
                assert all(await asyncio.gather(progress, link.finish(taken.attempt, "COMPLETED", "", b"")))

    async def test_say_how_the_job_ended(self, gateway: Gateway, jobs: Jobs) -> None:
        many = [jobs.submit() for _ in range(3)]
        async with joined(gateway) as (link, _):
            taken = [job.attempt for job in await take(link, lambda: 3)]
            assert await link.finish(taken[0], "FAILED", "error", 'no "é"\nat all'.encode())
            assert await link.finish(taken[1], "COMPLETED", "", b"")
            assert await link.finish(taken[2], "COMPLETED", "output", b"null")
        first, second, third = (jobs.fields(job) for job in many)
        assert (first["state"], first["error"]) == ("FAILED", 'no "é"\nat all')
        assert (second["state"], second.get("output")) == ("COMPLETED", None)
        assert (third["state"], third["output"]) == ("COMPLETED", "null")

    async def test_are_sent_at_once_when_they_are_small_and_a_connection_stands(self, gateway: Gateway) -> None:
        async with joined(gateway) as (link, _):
            assert isinstance(link, HttpLink)
            assert link.sends_at_once(65_536)
            assert not link.sends_at_once(65_537)
            await link.close()
            assert not link.sends_at_once(1)


class TestMembership:
    @pytest.mark.parametrize(("status", "text"), [(404, "does not exist"), (401, "does not accept the key")])
    async def test_ends_when_the_gateway_does_not_know_the_worker_any_more(
        self, status: int, text: str, gateway: Gateway, store: Store
    ) -> None:
        async with joined(gateway) as (_, membership):
            gateway.status = status
            store.client.delete(f"{BASE}:settings")
            with pytest.raises(RefusedError, match=text):
                await asyncio.wait_for(membership.renew(1, "ready", []), 5)

    async def test_goes_on_when_the_gateway_knows_the_worker_again(self, gateway: Gateway, store: Store) -> None:
        async with joined(gateway) as (_, membership):
            gateway.status = 503
            store.client.delete(f"{BASE}:settings")
            renewing = asyncio.create_task(membership.renew(1, "ready", []))
            await asyncio.to_thread(eventually, lambda: asked(gateway, "workers") == 2)
            store.prepare()
            gateway.status = 200
            assert await asyncio.wait_for(renewing, 5) == []

    async def test_hears_of_a_stop_whose_answer_was_lost(self, gateway: Gateway, jobs: Jobs) -> None:
        job = jobs.submit()
        missed = asyncio.Event()
        order = gateway.lose_answer(b"/job-stop/worker-1?attempts=1&wait=25000")
        async with joined(gateway, missed=missed) as (link, membership):
            (taken,) = await take(link, one)
            await asyncio.to_thread(eventually, lambda: asked(gateway, "job-stop") == 2)  # the one that waits
            missed.clear()
            await asyncio.to_thread(jobs.cancel, job)
            await asyncio.wait_for(missed.wait(), 5)
            assert order.done.is_set()
            assert await membership.renew(1, "ready", [taken.attempt]) == [(taken.attempt, "CANCELLED")]

    async def test_is_told_of_stops_that_come_between_two_polls(self, gateway: Gateway, jobs: Jobs) -> None:
        many = [jobs.submit() for _ in range(20)]
        stops = list[Attempt]()
        async with joined(gateway, lambda attempt, _: stops.append(attempt)) as (link, _):
            taken = [job.attempt for job in await take(link, lambda: 20)]
            await asyncio.to_thread(lambda: [jobs.cancel(job) for job in many])
            await asyncio.to_thread(eventually, lambda: sorted(stops) == sorted(taken))


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (400, b'{"error": "no JSON"}', "status 400, no JSON"),
        (409, b'{"error": "GAP"}', "status 409, GAP"),
        (413, b"<h1>Too\nlarge</h1>", "status 413, <h1>Too large</h1>"),
    ],
)
def test_what_is_refused_for_good_is_not_repeated(status: int, body: bytes, text: str) -> None:
    with pytest.raises(LinkError) as error:
        body_of(Answer(status, body))
    assert str(error.value) == text


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 409])
def test_what_a_proxy_says_passes(status: int) -> None:
    with pytest.raises(OSError, match=f"status {status}, <h1>not now"):
        body_of(Answer(status, b"<h1>not\nnow</h1>"))


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429, 500, 502, 503, 504])
def test_other_trouble_passes(status: int) -> None:
    with pytest.raises(OSError, match=f"status {status}, later"):
        body_of(Answer(status, b'{"error": "later"}'))
