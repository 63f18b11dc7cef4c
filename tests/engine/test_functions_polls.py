"""Workers that come over HTTP, at the functions: polls, what comes for them, what they say without numbers."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import ResponseError

from gateway.engine.reports import digest_of

from .driver import LEASE_MS, Driver, Taken

pytestmark = pytest.mark.every_store

PROCESS = "gw"
ALIVE_MS = 60_000
HELD_MS = 50_000


class Gateway:
    """The channel of a gateway process that holds polls."""

    def __init__(self, driver: Driver, pubsub: Any) -> None:
        self._driver = driver
        self.pubsub = pubsub

    async def next(self, seconds: float = 5) -> tuple[dict[str, Any], bytes] | None:
        """Header and payload of the next message; None when none came in time."""
        message = await self.pubsub.get_message(timeout=seconds)
        if message is None:
            return None
        head, _, payload = message["data"].partition(b"\n")
        return json.loads(head), payload

    async def park(
        self, worker: str = "w", poll: str = "p1", most: int = 1, has_none: bool = False, again: bool = False
    ) -> Any:
        flags = ["1" if flag else "" for flag in (has_none, again)]
        return await self._driver.call(
            "park", worker, most, PROCESS, poll, ALIVE_MS, HELD_MS, flags[0], "ready", flags[1]
        )

    async def stops(self, worker: str = "w") -> Any:
        return await self._driver.call("stops", worker, PROCESS)


@pytest.fixture
async def gateway(driver: Driver) -> AsyncIterator[Gateway]:
    node: Any = driver.store.node_of(driver.base)
    pubsub = node.pubsub()
    await pubsub.ssubscribe(f"{driver.base}:gateway:{PROCESS}")
    assert (await pubsub.get_message(timeout=5))["type"] == "ssubscribe"
    yield Gateway(driver, pubsub)
    await pubsub.aclose()


async def begin(driver: Driver, gateway: Gateway, worker: str = "w", **options: Any) -> Taken:
    """A job that the worker has got."""
    id = await driver.submit(**options)
    (job,) = await gateway.park(worker)
    assert job[0] == id
    return Taken(*job)


class TestPark:
    async def test_begins_what_is_queued_up_to_the_most(self, driver: Driver, gateway: Gateway) -> None:
        ids = [await driver.submit(input=f"[{number}]", request='{"webhook":"x"}') for number in range(3)]

        jobs = await gateway.park(most=2)

        assert jobs == [[id, 1, 600_000, f"[{n}]", '{"webhook":"x"}'] for n, id in enumerate(ids[:2])]
        assert await driver.state(ids[2]) == "IN_QUEUE"

    async def test_large_jobs_are_to_be_fetched(self, driver: Driver, gateway: Gateway) -> None:
        await driver.submit(input=f'"{"x" * 70_000}"')

        ((id, attempt, _, given, _),) = await gateway.park()

        assert given is None
        assert len((await driver.call("fetch", id, attempt))[0]) == 70_002

    async def test_a_job_that_comes_is_sent_in_answer_to_the_poll(self, driver: Driver, gateway: Gateway) -> None:
        assert await gateway.park(poll="p7") == []

        ids = [await driver.submit(input='"é"', request="{}") for _ in range(2)]

        header, payload = await gateway.next() or ({}, b"")
        assert header == {"kind": "job", "job": ids[0], "attempt": 1, "poll": "p7", "size": 2}
        assert payload.decode() == '{}"é"'
        assert await driver.state(ids[0]) == "IN_PROGRESS"
        assert await driver.state(ids[1]) == "IN_QUEUE"  # a poll gets one answer

    async def test_a_large_job_is_sent_without_its_input(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        await driver.submit(input=f'"{"x" * 70_000}"')
        header, payload = await gateway.next() or ({}, b"")
        assert (header["size"], payload) == (-1, b"")

    async def test_polls_are_served_in_turn(self, driver: Driver, gateway: Gateway) -> None:
        for worker in ("a", "b", "c"):
            await gateway.park(worker, poll=worker)
        for _ in range(3):
            await driver.submit()
        assert [(await gateway.next() or ({},))[0]["poll"] for _ in range(3)] == ["a", "b", "c"]

    async def test_a_process_that_is_gone_gets_nothing(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        await gateway.pubsub.sunsubscribe()
        assert (await gateway.pubsub.get_message(timeout=5))["type"] == "sunsubscribe"

        id = await driver.submit()

        assert await driver.state(id) == "IN_QUEUE"

    async def test_again_returns_what_was_sent_and_may_be_lost(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park(poll="p1")
        id = await driver.submit(input="[5]")

        assert [job[:4] for job in await gateway.park(poll="p1", again=True)] == [[id, 1, 600_000, "[5]"]]
        assert await gateway.park(poll="p2") == []

    async def test_again_returns_what_the_lost_reply_had(self, driver: Driver, gateway: Gateway) -> None:
        ids = [await driver.submit() for _ in range(2)]
        for again in (False, True):
            assert [job[0] for job in await gateway.park(most=5, again=again)] == ids

    async def test_again_leaves_a_newer_poll_alone(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park(poll="p1")
        await gateway.park(poll="p2")
        assert await gateway.park(poll="p1", again=True) == []
        await driver.submit()
        assert (await gateway.next() or ({},))[0]["poll"] == "p2"

    async def test_an_answer_has_a_few_megabytes_at_most(self, driver: Driver, gateway: Gateway) -> None:
        for _ in range(8):
            await driver.submit(input=f'"{"x" * 1_000_000}"')
        assert len(await gateway.park(most=100)) == 5

    async def test_a_worker_that_got_a_job_is_alive_for_no_longer_than_without_a_poll(
        self, driver: Driver, gateway: Gateway
    ) -> None:
        await gateway.park("waits", poll="p1")
        await driver.submit()
        await driver.submit()
        await gateway.park("asks", poll="p2")
        await driver.pass_time(ALIVE_MS + 1)
        assert await driver.call("workers", 0, 10) == []
        await gateway.park("parked", poll="p3")
        await driver.pass_time(ALIVE_MS + 1)
        assert len(await driver.call("workers", 0, 10)) == 1

    async def test_again_offers_anew_when_nothing_was_sent(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        await driver.key("ZREM", "waiting", "w")
        assert await gateway.park(again=True) == []
        id = await driver.submit()
        assert (await gateway.next() or ({},))[0]["job"] == id

    async def test_with_none_loses_what_the_worker_had(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)

        (again,) = await gateway.park(poll="p2", has_none=True)

        assert again[:2] == [job.id, 2]
        assert await driver.finish(job) == ["STALE", "IN_PROGRESS"]

    async def test_with_none_fails_the_job_at_the_limit(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        for number in range(2, 4):
            assert len(await gateway.park(poll=f"p{number}", has_none=True)) == 1
        assert await gateway.park(poll="p4", has_none=True) == []
        assert await driver.state(job.id) == "FAILED"
        error = await driver.field(job.id, "error")
        assert error == (
            "worker w came back without the job: its process ended, or two workers share this id (attempt 3 of 3)"
        )

    async def test_what_is_lost_goes_to_another_that_waits(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await gateway.park("v", poll="pv")
        await gateway.park("w", poll="p2", has_none=True)
        header, _ = await gateway.next() or ({}, b"")
        assert (header["poll"], header["job"], header["attempt"]) == ("pv", job.id, 2)

    async def test_losses_in_a_row_are_a_crash_loop_until_a_result_comes(
        self, driver: Driver, gateway: Gateway
    ) -> None:
        await driver.key("HSET", "settings", "attempts", 9)
        job = await begin(driver, gateway)
        for number in range(3):
            await gateway.park(poll=f"q{number}", has_none=True)
        assert (await driver.call("health"))[5:] == [0, 0, 0, 0, 1]

        assert await driver.call("done", "w", "", job.id, "@w", "COMPLETED", "output", "1") == "OK"
        await gateway.park(poll="r")
        assert (await driver.call("health"))[5:] == [0, 1, 0, 0, 0]

    async def test_at_an_endpoint_that_is_gone(self, driver: Driver, gateway: Gateway) -> None:
        await driver.call("remove", 100)
        with pytest.raises(ResponseError, match="NOGROUP"):
            await gateway.park()
        assert await driver.keys() == set()


class TestUnpark:
    async def test_withdraws_the_poll(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        assert await driver.call("unpark", "w", "p1", 5000, "") == 0
        id = await driver.submit()
        assert await driver.state(id) == "IN_QUEUE"

    async def test_tells_of_a_job_on_its_way(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        await driver.submit()
        assert await driver.call("unpark", "w", "p1", 5000, "") == 1

    async def test_puts_back_what_was_sent(self, driver: Driver, gateway: Gateway) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        ids = [await driver.submit() for _ in range(3)]
        await gateway.park(most=3)
        await driver.call("cancel", ids[1])
        assert await driver.call("unpark", "w", "p1", 5000, "1") == 0
        assert [await driver.state(id) for id in ids] == ["IN_QUEUE", "CANCELLED", "IN_QUEUE"]
        assert sorted(job[0] for job in await gateway.park(poll="p2", most=3)) == sorted([ids[0], ids[2]])

    async def test_leaves_a_newer_poll_alone(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park(poll="p1")
        await gateway.park(poll="p2")
        assert await driver.call("unpark", "w", "p1", 5000, "") == 0
        await driver.submit()
        assert (await gateway.next() or ({},))[0]["poll"] == "p2"

    async def test_says_for_how_long_the_worker_counts_as_alive(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.park()
        await driver.call("unpark", "w", "p1", 5000, "")
        await driver.pass_time(4000)
        assert (await driver.call("health"))[5:] == [0, 1, 0, 0, 0]
        await driver.pass_time(1001)
        assert (await driver.call("health"))[5:] == [0, 0, 0, 0, 0]


class TestRefuse:
    async def test_puts_the_job_back_and_was_no_try(self, driver: Driver, gateway: Gateway) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        job = await begin(driver, gateway)

        assert await driver.call("refuse", job.id, job.attempt) == "OK"

        assert await driver.state(job.id) == "IN_QUEUE"
        (again,) = await gateway.park(poll="p2")
        assert again[:2] == [job.id, 2]

    async def test_gives_it_to_another_that_waits(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await gateway.park("v", poll="pv")
        await driver.call("refuse", job.id, job.attempt)
        assert (await gateway.next() or ({},))[0]["poll"] == "pv"

    async def test_of_an_older_attempt_changes_nothing(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.finish(job)
        assert await driver.call("refuse", job.id, job.attempt) == ["STALE", "COMPLETED"]
        assert await driver.call("refuse", "no-such-job", 1) == ["STALE", "GONE"]


class TestReturn:
    async def test_puts_back_what_the_worker_does_not_have(self, driver: Driver, gateway: Gateway) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        has, lacks = await begin(driver, gateway), await begin(driver, gateway)

        assert await driver.call("return", "w", 2, has.id, has.attempt) == "OK"

        assert await driver.state(has.id) == "IN_PROGRESS"
        assert await driver.state(lacks.id) == "IN_QUEUE"
        assert await driver.call("return", "w", 1) == "OK"  # it was held up
        assert await driver.state(has.id) == "IN_PROGRESS"

    async def test_however_much_that_is(self, driver: Driver, gateway: Gateway) -> None:
        has, lacks = await begin(driver, gateway), await begin(driver, gateway)
        others = [value for number in range(10_000) for value in (f"j{number}", 1)]

        assert await driver.call("return", "w", 1, *others, has.id, has.attempt) == "OK"

        assert await driver.state(has.id) == "IN_PROGRESS"
        assert await driver.state(lacks.id) == "IN_QUEUE"


class TestReportsWithoutNumbers:
    async def test_count_for_the_attempt_that_the_worker_has(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        assert await driver.call("chunk", job.id, "w", "post-1", '"a"') == "OK"
        assert await driver.call("progress", job.id, "@w", "5") == "OK"
        assert await driver.call("chunk", job.id, "w", "post-2", '"b"', '"c"') == "OK"
        assert await driver.call("done", "w", "", job.id, "@w", "COMPLETED", "output", "7") == "OK"
        assert await driver.field(job.id, "output") == "7"
        assert (await driver.call("read", job.id, 0, 10, 1000, ""))[3] == ['"a"', '"b"', '"c"']

    @pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
    async def test_a_repeated_end_is_no_other(self, driver: Driver, gateway: Gateway, state: str) -> None:
        job = await begin(driver, gateway)
        for value in ("1", "2"):
            assert await driver.call("done", "w", "", job.id, "@w", state, "output", value) == "OK"
        assert await driver.field(job.id, "output") == "1"

    async def test_a_chunk_in_many_pieces(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        assert await driver.call("chunk", job.id, "w", "post", *range(10_000)) == "OK"
        assert await driver.field(job.id, "chunks") == "10000"

    async def test_of_another_worker_do_not(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        assert await driver.call("done", "v", "", job.id, "@v", "COMPLETED", "output", "1") == ["STALE", "IN_PROGRESS"]
        assert await driver.call("chunk", job.id, "v", "post", "1") == ["STALE", "IN_PROGRESS"]
        await driver.call("cancel", job.id)
        assert await driver.call("done", "w", "", job.id, "@w", "COMPLETED", "output", "1") == ["STALE", "CANCELLED"]

    async def test_a_post_that_is_repeated_adds_nothing(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        for post in ("post-1", "post-1", "post-2"):
            assert await driver.call("chunk", job.id, "w", post, '"a"') == "OK"
        assert await driver.field(job.id, "chunks") == "2"

    async def test_a_chunk_whose_answer_was_not_heard_is_repeated_once(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("chunk", job.id, "w", "post-1", '"a"')
        assert await driver.call("unheard", job.id, "w", digest_of([b'"a"'])) == 1
        for post in ("post-2", "post-3"):
            assert await driver.call("chunk", job.id, "w", post, '"a"') == "OK"
        assert await driver.field(job.id, "chunks") == "2"

    async def test_another_chunk_after_one_that_was_not_heard_counts(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("chunk", job.id, "w", "post-1", '"a"')
        await driver.call("unheard", job.id, "w", digest_of([b'"a"']))
        for post in ("post-2", "post-3"):
            await driver.call("chunk", job.id, "w", post, f'"{post}"')
        assert await driver.field(job.id, "chunks") == "3"

    async def test_of_the_attempt_before_do_not(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("chunk", job.id, "w", "post-1", '"a"')
        await driver.call("unheard", job.id, "w", digest_of([b'"a"']))
        await gateway.park(poll="p2", has_none=True)
        for post in ("post-1", "post-2"):
            await driver.call("chunk", job.id, "w", post, '"a"')
        assert (await driver.call("read", job.id, 0, 10, 1000, ""))[3] == ['"a"', '"a"']


class TestPing:
    async def ping(self, driver: Driver, *jobs: str, state: str = "", trouble: str = "", about: str = "") -> Any:
        return await driver.call("ping", "w", LEASE_MS, state, trouble, about, *jobs)

    async def test_makes_the_worker_known(self, driver: Driver) -> None:
        await self.ping(driver, about='{"sdk":"runpod 1"}')
        assert (await driver.call("health"))[5:] == [1, 0, 0, 0, 0]
        ((id, state, jobs, _, _, _, link, _, description, *_),) = await driver.call("workers", 0, 10)
        assert (id, state, jobs, link, description) == ("w", "initializing", 0, "http", '{"sdk":"runpod 1"}')

    async def test_renews_the_leases_of_the_jobs_it_names(self, driver: Driver, gateway: Gateway) -> None:
        named, silent = await begin(driver, gateway), await begin(driver, gateway)
        await driver.silence()
        await self.ping(driver, named.id)
        assert (await driver.upkeep())["leases"] == 1
        assert await driver.state(named.id) == "IN_PROGRESS"
        assert await driver.state(silent.id) == "IN_QUEUE"

    async def test_does_not_take_a_lease_from_another(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway, "v")
        await self.ping(driver, job.id)
        assert [worker for *_, worker in await driver.leases()] == ["v"]

    async def test_has_jobs_stopped_that_are_no_longer_the_workers(self, driver: Driver, gateway: Gateway) -> None:
        gone, done = "no-such-job", await begin(driver, gateway)
        await driver.call("done", "w", "", done.id, "@w", "COMPLETED", "output", "1")
        assert await gateway.stops() == []

        await self.ping(driver, gone, done.id)

        assert (await gateway.next() or ({},))[0] == {"kind": "stop", "job": gone, "worker": "w"}
        assert await gateway.stops() == [gone, 0, "GONE"]

    async def test_stops_no_job_that_the_worker_has_just_given_up(self, driver: Driver, gateway: Gateway) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 60_000)
        job = await begin(driver, gateway)
        await driver.call("done", "w", "", job.id, job.attempt, "RETRY", "error", "not yet")
        await self.ping(driver, job.id)
        assert await gateway.stops() == []

    async def test_tells_of_trouble(self, driver: Driver) -> None:
        await self.ping(driver, state="unhealthy", trouble="disk: full")
        assert (await driver.call("health"))[5:] == [0, 0, 0, 1, 0]
        assert (await driver.call("workers", 0, 10))[0][7] == "disk: full"

    async def test_at_an_endpoint_that_is_gone(self, driver: Driver) -> None:
        await driver.call("remove", 100)
        with pytest.raises(ResponseError, match="NOGROUP"):
            await self.ping(driver)
        assert await driver.keys() == set()


class TestStops:
    @pytest.mark.parametrize("end", ["CANCELLED", "TIMED_OUT"])
    async def test_are_kept_until_the_worker_asks(self, driver: Driver, gateway: Gateway, end: str) -> None:
        job = await begin(driver, gateway, timeout=5000)
        if end == "CANCELLED":
            await driver.call("cancel", job.id)
        else:
            await driver.pass_time(5001)
            await driver.upkeep()
        assert await gateway.stops() == [job.id, 1, end]
        assert await gateway.stops() == []

    async def test_wake_the_poll_that_waits(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await gateway.stops()
        await driver.call("cancel", job.id)
        assert (await gateway.next() or ({},))[0] == {"kind": "stop", "job": job.id, "worker": "w"}

    async def test_of_a_lost_lease(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.silence()
        await driver.upkeep()
        assert await gateway.stops() == [job.id, 1, "LOST"]

    async def test_do_not_stop_a_job_that_the_worker_was_given_again(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.silence()
        await driver.upkeep()
        (again,) = await gateway.park(poll="p2")
        assert again[0] == job.id
        assert await gateway.stops() == []

    async def test_of_a_worker_that_never_asks_are_not_kept_without_end(self, driver: Driver, gateway: Gateway) -> None:
        await driver.key("HSET", "stopped:w", *(part for number in range(1000) for part in (f"j{number}", "1 X")))
        job = await begin(driver, gateway)
        await driver.call("cancel", job.id)
        assert await driver.key("HLEN", "stopped:w") == 1000

    async def test_expire(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("cancel", job.id)
        assert await driver.key("PTTL", "stopped:w") > 0

    async def test_go_with_the_worker(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("cancel", job.id)
        await driver.call("leave", "w")
        assert await gateway.stops() == []

    async def test_of_a_worker_that_nobody_knows_leave_nothing_for_ever(self, driver: Driver, gateway: Gateway) -> None:
        await gateway.stops("stranger")
        assert await driver.key("PTTL", "worker:stranger") > 0


class TestTheEndOfAWorker:
    async def test_ends_its_polls_and_gives_it_nothing_for_a_while(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await gateway.park(poll="p2", most=3)
        await gateway.stops()

        await driver.call("done", "w", "1", job.id, "@w", "COMPLETED", "output", "1")

        assert (await gateway.next() or ({},))[0] == {"kind": "quit", "worker": "w"}
        id = await driver.submit()
        assert await driver.state(id) == "IN_QUEUE"
        assert 0 < await gateway.park(poll="p3") <= 1500
        await driver.pass_time(1501)
        assert [taken[0] for taken in await gateway.park(poll="p3")] == [id]

    async def test_said_once_more_does_nothing(self, driver: Driver, gateway: Gateway) -> None:
        job = await begin(driver, gateway)
        await driver.call("done", "w", "", job.id, "@w", "COMPLETED", "output", "1")
        await gateway.park(poll="p2")
        assert await driver.call("done", "w", "1", job.id, "@w", "COMPLETED", "output", "1") == "OK"
        id = await driver.submit()
        assert (await gateway.next() or ({},))[0]["job"] == id


class TestWorkers:
    async def test_are_listed_from_the_newest_on(self, driver: Driver, gateway: Gateway) -> None:
        await driver.call("renew", "old", 1000, 4, "ready", '{"gpu":"x"}')
        await driver.submit()
        await gateway.park("new", poll="n")
        rows = await driver.call("workers", 0, 10)
        assert [(row[0], row[1], row[2], row[5], row[6], row[8]) for row in rows] == [
            ("new", "running", 1, None, "http", None),
            ("old", "idle", 0, "4", None, '{"gpu":"x"}'),
        ]
        assert [row[0] for row in await driver.call("workers", 1, 1)] == ["old"]

    async def test_of_an_endpoint_that_is_gone(self, driver: Driver) -> None:
        await driver.call("remove", 100)
        assert await driver.call("workers", 0, 10) is None
