"""Several queues of an endpoint, their jobs' own policies, and what Runqy's clients see and do."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from .driver import DAY_MS, LEASE_MS, RETENTION_MS, Driver

ARCHIVED_MS = 3 * RETENTION_MS
SOON_MS = 5_000
"""More than a test takes: time passes by itself, too."""

STATES = ("pending", "active", "scheduled", "retry", "archived", "completed")


def terms(
    stamp: str = "-", delay: int = 0, unique: str = "-", tries: int = 4, backoff: int = 10_000, pending: int = 0,
    keeps: bool = True, policy: bool = True,
) -> str:  # fmt: skip
    text = f"{stamp} {delay} {unique}"
    return f"{text} {tries} {backoff} {pending} {ARCHIVED_MS} {int(keeps)}" if policy else text


async def arrange(driver: Driver, queues: str, **settings: Any) -> None:
    await driver.change(queues=queues, **settings)


async def take(driver: Driver, count: int = 1, worker: str = "w") -> list[str]:
    """The ids of the jobs that a worker gets."""
    jobs = [job[0] for job in await driver.call("take", worker, count)]
    await driver.call("take", worker, 0)
    return jobs


async def counts(driver: Driver, queue: str = "normal") -> dict[str, int]:
    """The numbers of jobs in each state that has some."""
    row = next(row for row in await driver.call("queues") if row[0] == queue)
    return {state: number for state, number in zip(STATES, row[1:7], strict=True) if number}


async def ids(driver: Driver, state: str, *queues: str, skip: int = 0, count: int = 100) -> list[str]:
    return [row[0] for row in await driver.call("tasks", state, skip, count, *(queues or ("normal",)))]


async def fields(driver: Driver, id: str) -> dict[str, str]:
    found = await driver.key("HGETALL", f"job:{id}")
    return dict(zip(found[::2], found[1::2], strict=True))


async def task_state(driver: Driver, id: str) -> str:
    return str((await driver.call("task", id, ""))[1])


class TestOrder:
    async def test_is_that_of_the_settings(self, driver: Driver) -> None:
        await arrange(driver, ".high normal .bulk low")
        queued = {queue: await driver.submit(queue=queue) for queue in ("low", ".bulk", "normal", ".high")}
        assert await take(driver, 9) == [queued[queue] for queue in (".high", "normal", ".bulk", "low")]

    async def test_high_ones_go_before_a_thousand_low_ones(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        for first in range(0, 1000, 100):
            jobs = [driver.submission(f"slow-{first + number}") for number in range(100)]
            await driver.call("submit", *(part for job in jobs for part in job))
        high = [await driver.submit(queue=".high") for _ in range(5)]
        assert await take(driver, 6) == [*high, "slow-0"]

    async def test_a_job_that_goes_back_is_the_first_of_its_queue(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        first = await driver.submit(queue=".high")
        assert await take(driver) == [first]
        second = await driver.submit(queue=".high")
        await driver.call("lose", first, 1, "gone")
        assert await take(driver, 2) == [first, second]

    @pytest.mark.parametrize("fair", [0, 1])
    async def test_one_that_waits_too_long_is_served_first(self, driver: Driver, fair: int) -> None:
        await arrange(driver, ".high normal low", starvation_ms=60_000, fair=fair)
        old = await driver.submit()
        young = await driver.submit()
        await driver.pass_time(59_000)
        high = [await driver.submit(queue=".high") for _ in range(3)]
        assert await take(driver) == high[:1]
        await driver.pass_time(2_000)
        assert await take(driver, 4) == [old, young, *high[1:]]

    async def test_lines_of_fair_endpoints_have_priorities_too(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low", fair=1)
        plain = [await driver.submit(share="a") for _ in range(2)]
        high = [await driver.submit(queue=".high", share=share) for share in ("a", "a", "b")]
        assert await ids(driver, "pending", ".high", "normal") == [high[0], high[2], high[1], *plain]
        assert await take(driver, 9) == [high[0], high[2], high[1], *plain]

    async def test_a_queue_that_is_named_no_longer_is_served_until_nothing_is_left(self, driver: Driver) -> None:
        await arrange(driver, ".old normal low")
        old = await driver.submit(queue=".old")
        await arrange(driver, ".new normal low")
        plain = await driver.submit()
        assert await take(driver, 9) == [plain, old]
        await arrange(driver, "normal low")
        assert "queue:.old" in await driver.keys(), "a worker has a job of it"
        assert "queue:.new" not in await driver.keys()
        await driver.call("finish", old, 1, "COMPLETED", "", "")
        await driver.pass_time(RETENTION_MS)
        await driver.upkeep()
        await arrange(driver, "normal low")
        assert not {key for key in await driver.keys() if ".old" in key or ".new" in key}

    async def test_a_worker_of_some_queues_takes_the_jobs_of_those_alone(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        low, normal, high = [await driver.submit(queue=queue) for queue in ("low", "normal", ".high")]
        taken = await driver.call("take", "w", 9, 0, "low .high")
        assert [job[0] for job in taken] == [high, low]
        await driver.call("lose", high, 1, "w lost it")  # in front of the others of its queue again
        assert [job[0] for job in await driver.call("take", "w2", 9, 0, ".high")] == [high]
        assert [job[0] for job in await driver.call("take", "w3", 9, 0, "")] == [normal]

    @pytest.mark.parametrize("fair", [0, 1])
    async def test_a_job_is_handed_to_the_first_that_takes_it(self, driver: Driver, fair: int) -> None:
        await arrange(driver, ".high normal low", fair=fair)
        async with await driver.join("a") as a, await driver.join("b") as b, await driver.join("c") as c:
            for worker, queues in (("a", ".high"), ("b", "low"), ("c", "")):
                await driver.call("take", worker, 2, 0, queues)
            ids = [await driver.submit(queue=queue) for queue in ("low", "normal", ".high", ".high")]
            assert [await a.jobs(1), await b.jobs(1), await c.jobs(2)] == [[ids[2]], [ids[0]], [ids[1], ids[3]]]
            more = await driver.submit(queue="normal")  # nobody who is left takes it
            assert await driver.state(more) == "IN_QUEUE"
            assert await driver.key("ZRANGE", "waiting", 0, -1) == ["b", "a"]

    async def test_a_poll_of_some_queues_gets_the_jobs_of_those_alone(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        ids = [await driver.submit(queue=queue) for queue in ("normal", "low")]
        parked = ("w", 9, "gw", "p", 60_000, 0, "", "", "", "low")
        assert [job[0] for job in await driver.call("park", *parked)] == [ids[1]]

    async def test_nothing_is_left_of_a_queue_that_is_gone(self, driver: Driver) -> None:
        before = await driver.key("HGETALL", "counts")
        await arrange(driver, ".old normal low", fair=1)
        await driver.call("pause", 1, ".old", "low")
        id = await driver.submit(queue=".old")
        await driver.upkeep()
        await driver.call("delete", id)
        await arrange(driver, "normal low", fair=0)
        assert not [name for name in (await driver.key("HGETALL", "counts"))[len(before) :: 2] if ".old" in name]
        assert await driver.key("HGET", "settings", "paused") == "low"
        await arrange(driver, ".old normal low")
        again = await driver.submit(queue=".old")
        assert await take(driver) == [again]

    async def test_a_worker_that_waits_gets_what_comes_into_any(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        async with await driver.join("w") as listening:
            await driver.call("take", "w", 2)
            queued = [await driver.submit(queue=queue) for queue in (".high", "low")]
            assert await listening.jobs(2) == queued


class TestPause:
    async def test_stops_starts_and_nothing_else(self, driver: Driver) -> None:
        running, waiting = await driver.begin(), await driver.submit()
        assert await driver.call("pause", 1, "normal") == ["normal"]
        assert await take(driver) == []
        assert await driver.finish(running) == "OK"
        other = await driver.submit()
        assert await counts(driver) == {"pending": 2, "completed": 1}
        assert await driver.call("pause", 0, "normal") == ["normal"]
        assert await take(driver, 9) == [waiting, other]

    async def test_is_of_one_queue(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        await driver.call("pause", 1, ".high")
        await driver.submit(queue=".high")
        plain = await driver.submit()
        assert await take(driver, 9) == [plain]

    async def test_says_what_it_changed(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        assert await driver.call("pause", 1, "normal") == ["normal"]
        assert await driver.call("pause", 1, "normal", ".high") == [".high"]
        assert await driver.call("pause", 0, "normal") == ["normal"]
        assert [(row[0], row[7]) for row in await driver.call("queues")] == [(".high", 1), ("normal", 0), ("low", 0)]

    async def test_outlives_a_change_of_the_settings(self, driver: Driver) -> None:
        await driver.call("pause", 1, "normal")
        await arrange(driver, ".high normal low")
        await driver.submit()
        assert await take(driver) == []

    async def test_a_waiting_worker_is_handed_nothing_until_it_is_over(self, driver: Driver) -> None:
        await driver.call("pause", 1, "normal")
        async with await driver.join("w") as listening:
            await driver.call("take", "w", 1)
            id = await driver.submit()
            assert await listening.next(0.2) is None
            await driver.call("pause", 0, "normal")
            assert await listening.jobs(1) == [id]

    async def test_a_job_says_that_it_is_why_it_waits(self, driver: Driver) -> None:
        id = await driver.submit()
        await driver.call("pause", 1, "normal")
        assert (await driver.call("status", id, ""))[-1] == 1

    async def test_a_queue_that_is_closed_takes_nothing_either(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        high = await driver.submit(queue=".high")
        await arrange(driver, ".high normal low", closed=".high")
        assert await driver.call("submit", *driver.submission("more", queue=".high")) == [["CLOSED", ".high"]]
        assert await take(driver) == []
        await arrange(driver, ".high normal low", closed="")
        assert await take(driver) == [high]

    async def test_no_endpoint(self, driver: Driver) -> None:
        await driver.call("remove", 100)
        assert await driver.call("pause", 1, "normal") is None
        assert await driver.call("queues") == []


class TestRetries:
    async def fail(self, driver: Driver, id: str, attempt: int) -> str:
        assert await take(driver) == [id]
        return str(await driver.call("finish", id, attempt, "RETRY", "error", f"failure {attempt}"))

    async def test_pauses_grow_with_the_fourth_power(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(tries=4))
        for attempt, pause in enumerate((10_000, 160_000, 810_000), 1):
            assert await self.fail(driver, id, attempt) == "OK"
            assert await counts(driver) == {"retry": 1}
            await driver.pass_time(pause - SOON_MS)
            await driver.upkeep()
            assert await take(driver) == []
            await driver.pass_time(SOON_MS)
            await driver.upkeep()
        assert await self.fail(driver, id, 4) == "OK"
        found = await fields(driver, id)
        assert (found["state"], found["error"], found["attempt"]) == ("FAILED", "failure 4", "4")
        assert (await driver.call("task", id, ""))[13] == "failure 3"

    async def test_a_day_is_the_longest_pause(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(backoff=DAY_MS), ttl=9 * DAY_MS)
        await self.fail(driver, id, 1)
        await driver.pass_time(DAY_MS)
        await driver.upkeep()
        assert await take(driver) == [id]

    async def test_said_twice_counts_once(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms())
        await self.fail(driver, id, 1)
        assert await driver.call("finish", id, 1, "RETRY", "error", "failure 1") == "OK"
        assert (await fields(driver, id))["tries"] == "1"
        assert await driver.call("finish", id, 1, "COMPLETED", "", "") == ["STALE", "IN_QUEUE"]

    async def test_whoever_said_so_has_not_lost_the_job(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms())
        await self.fail(driver, id, 1)
        assert await driver.call("renew", "w", 10_000, 1, "ready", "", id, 1) == []
        assert await driver.call("renew", "w", 10_000, 1, "ready", "", id, 2) == [id, "2", "IN_QUEUE"]

    async def test_without_a_policy_the_settings_decide(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "retry_delay_ms", 5_000)
        id = await driver.submit()
        await self.fail(driver, id, 1)
        await driver.pass_time(5_000)
        await driver.upkeep()
        await self.fail(driver, id, 2)
        await driver.pass_time(5_000)
        await driver.upkeep()
        await self.fail(driver, id, 3)
        assert (await fields(driver, id))["state"] == "FAILED"

    async def test_the_limit_is_the_job_s_own(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(tries=1))
        await driver.key("HSET", "settings", "attempts", 50)
        await self.fail(driver, id, 1)
        assert (await fields(driver, id))["state"] == "FAILED"

    async def test_a_lost_lease_is_made_good_at_once(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(tries=2))
        assert await take(driver) == [id]
        await driver.silence(LEASE_MS + 1)
        await driver.upkeep()
        assert await take(driver) == [id]
        await driver.silence(LEASE_MS + 1)
        await driver.upkeep()
        assert (await fields(driver, id))["error"].endswith("(attempt 2 of 2)")

    async def test_running_too_long_is_a_failure_like_others(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(tries=2), timeout=7_000)
        assert await take(driver) == [id]
        await driver.pass_time(7_000)
        await driver.upkeep()
        assert await counts(driver) == {"retry": 1}
        await driver.pass_time(10_000)
        await driver.upkeep()
        assert await take(driver) == [id]
        await driver.pass_time(7_000)
        await driver.upkeep()
        assert (await fields(driver, id))["state"] == "TIMED_OUT"
        assert await counts(driver) == {"archived": 1}

    async def test_waiting_too_long_ends_a_job_though_no_worker_looks(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(pending=30_000))
        await driver.pass_time(30_000 - SOON_MS)
        await driver.upkeep()
        assert await task_state(driver, id) == "pending"
        await driver.pass_time(SOON_MS)
        await driver.upkeep()
        found = await fields(driver, id)
        assert (found["state"], "pending_timeout" in found["error"], found.get("tries")) == ("FAILED", True, None)
        assert await take(driver) == []

    async def test_waiting_again_is_counted_anew(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(pending=30_000), timeout=100_000)
        assert await take(driver) == [id]
        await driver.pass_time(50_000)
        await driver.upkeep()
        await driver.call("lose", id, 1, "gone")
        await driver.pass_time(30_000 - SOON_MS)
        await driver.upkeep()
        assert await task_state(driver, id) == "pending"
        await driver.pass_time(SOON_MS)
        await driver.upkeep()
        assert await task_state(driver, id) == "archived"

    async def test_each_end_is_kept_for_its_time(self, driver: Driver) -> None:
        good, bad = [await driver.submit(terms=terms()) for _ in range(2)]
        await take(driver, 2)
        await driver.call("finish", good, 1, "COMPLETED", "output", "1")
        await driver.call("finish", bad, 1, "FAILED", "error", "no")
        await driver.pass_time(RETENTION_MS)
        await driver.upkeep()
        assert await counts(driver) == {"archived": 1}
        await driver.pass_time(ARCHIVED_MS - RETENTION_MS)
        await driver.upkeep()
        assert await counts(driver) == {}
        assert not {key for key in await driver.keys() if key.startswith(("archived", "completed", "job"))}

    async def test_the_payload_stays_and_the_output_only_if_it_is_to(self, driver: Driver) -> None:
        kept, dropped = [await driver.submit(terms=terms(keeps=keeps), input='{"a":1}') for keeps in (True, False)]
        await take(driver, 2)
        for id in (kept, dropped):
            await driver.call("finish", id, 1, "COMPLETED", "output", "[1]")
        assert [(await driver.call("task", id, ""))[16:] for id in (kept, dropped)] == [
            ['{"a":1}', "[1]"], ['{"a":1}', None],
        ]  # fmt: skip


class TestTerms:
    async def test_other_settings_are_found_out(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "version", 3, "created", 77)
        assert await driver.call("submit", *driver.submission("a", terms=terms("3.77"))) == ["NEW"]
        for other in ("2.77", "3.76"):
            assert await driver.call("submit", *driver.submission("b", terms=terms(other))) == [["CHANGED"]]
        assert await counts(driver) == {"pending": 1}

    async def test_a_delayed_job_waits_for_its_time(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(delay=60_000))
        other = await driver.submit()
        assert await counts(driver) == {"pending": 1, "scheduled": 1}
        assert await take(driver, 9) == [other]
        await driver.pass_time(60_000)
        assert (await driver.upkeep())["delayed"] == 1
        assert await counts(driver) == {"pending": 1, "active": 1}
        assert await take(driver, 9) == [id]

    async def test_a_delayed_job_can_wait_in_its_queue_no_less_than_others(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(delay=60_000, pending=30_000))
        await driver.pass_time(60_000)
        await driver.upkeep()
        await driver.pass_time(30_000 - SOON_MS)
        await driver.upkeep()
        assert await task_state(driver, id) == "pending"
        await driver.pass_time(SOON_MS)
        await driver.upkeep()
        assert await task_state(driver, id) == "archived"

    async def test_a_delayed_job_gets_its_turn_on_a_fair_endpoint(self, driver: Driver) -> None:
        await arrange(driver, "normal low", fair=1)
        late = await driver.submit(terms=terms(delay=1_000), share="b", weight=2)
        crowd = [await driver.submit(share="a") for _ in range(3)]
        await driver.pass_time(1_000)
        await driver.upkeep()
        assert (await take(driver, 9)).index(late) < len(crowd)

    async def test_a_cancelled_one_leaves_the_list(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(delay=60_000))
        await driver.call("cancel", id)
        assert await counts(driver) == {"archived": 1}
        await driver.pass_time(60_000)
        assert (await driver.upkeep())["delayed"] == 0

    async def test_one_with_a_unique_key_at_a_time(self, driver: Driver) -> None:
        first = await driver.submit(terms=terms(unique="k"))
        second = driver.submission("second", terms=terms(unique="k"))
        assert await driver.call("submit", *second) == [["TAKEN", first]]
        assert await take(driver) == [first]
        assert await driver.call("submit", *second) == [["TAKEN", first]]
        await driver.call("finish", first, 1, "COMPLETED", "", "")
        assert await driver.call("submit", *second) == ["NEW"]

    async def test_two_with_one_key_in_one_call(self, driver: Driver) -> None:
        jobs = [driver.submission(id, terms=terms(unique="k")) for id in ("a", "b")]
        assert await driver.call("submit", *jobs[0], *jobs[1]) == ["NEW", ["TAKEN", "a"]]

    async def test_one_that_is_run_again_has_its_key_again(self, driver: Driver) -> None:
        first = await driver.begin(terms=terms(unique="k"))
        await driver.finish(first, "FAILED", "error", "no")
        second = await driver.submit(terms=terms(unique="k"))
        assert [await driver.call(function, first.id) for function in ("run", "retry")] == [["TAKEN", second]] * 2
        assert await counts(driver) == {"pending": 1, "archived": 1}
        await driver.call("delete", second)
        assert await driver.call("run", first.id) == "OK"
        assert await driver.call("submit", *driver.submission("c", terms=terms(unique="k"))) == [["TAKEN", first.id]]


class TestLists:
    async def test_each_state(self, driver: Driver) -> None:
        running = await driver.begin(terms=terms())
        retried = await driver.begin(terms=terms())
        await driver.call("finish", retried.id, 1, "RETRY", "error", "no")
        done, failed = [await driver.begin(terms=terms()) for _ in range(2)]
        await driver.call("finish", done.id, 1, "COMPLETED", "", "")
        await driver.call("finish", failed.id, 1, "FAILED", "error", "no")
        scheduled = await driver.submit(terms=terms(delay=1000))
        pending = await driver.submit()
        cancelled = await driver.submit(terms=terms())
        await driver.call("cancel", cancelled)
        expected = {
            "pending": [pending], "active": [running.id], "scheduled": [scheduled], "retry": [retried.id],
            "completed": [done.id],
        }  # fmt: skip
        assert {state: await ids(driver, state) for state in expected} == expected
        assert set(await ids(driver, "archived")) == {failed.id, cancelled}
        for state, found in expected.items():
            assert await task_state(driver, found[0]) == state

    async def test_pages_over_several_queues(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        again = await driver.begin(queue=".high")
        await driver.call("lose", again.id, 1, "gone")
        high = [again.id, *[await driver.submit(queue=".high") for _ in range(4)]]
        plain = [await driver.submit() for _ in range(4)]
        pages = [await ids(driver, "pending", ".high", "normal", skip=skip, count=2) for skip in range(0, 12, 2)]
        assert [id for page in pages for id in page] == high + plain

    async def test_large_payloads_are_left_out(self, driver: Driver) -> None:
        small, large = await driver.submit(input='"s"'), await driver.submit(input=f'"{"x" * 65_536}"')
        rows = await driver.call("tasks", "pending", 0, 10, "normal")
        assert [(row[0], row[16]) for row in rows] == [(small, '"s"'), (large, None)]
        assert len((await driver.call("task", large, ""))[16]) == 65_538

    async def test_memory_grows_with_the_jobs(self, driver: Driver) -> None:
        before = (await driver.call("queues"))[0][8]
        for _ in range(10):
            await driver.submit(input=f'"{"x" * 10_000}"')
        after = (await driver.call("queues"))[0][8]
        assert 100_000 < after - before < 200_000

    async def test_a_job_that_expired_while_upkeep_was_away_is_in_none(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        good, bad, retried = [await driver.begin(queue=".high", terms=terms()) for _ in range(3)]
        await driver.finish(good)
        await driver.finish(bad, "FAILED", "error", "no")
        await driver.finish(retried, "RETRY", "error", "no")
        scheduled = await driver.submit(queue=".high", terms=terms(delay=DAY_MS))
        for id in (good.id, bad.id, retried.id, scheduled):
            await driver.key("UNLINK", f"job:{id}")
        await driver.pass_time(2 * DAY_MS)
        await driver.upkeep()
        assert await counts(driver, ".high") == {}
        assert not {key for key in await driver.keys() if ".high" in key and not key.startswith("queue:")}

    async def test_no_job(self, driver: Driver) -> None:
        assert await driver.call("task", "none", "") == []
        assert [await driver.call(function, "none") for function in ("delete", "run")] == ["GONE", "GONE"]


class TestDelete:
    async def test_of_each_that_does_not_run(self, driver: Driver) -> None:
        running = await driver.begin()
        done = await driver.begin()
        await driver.call("finish", done.id, 1, "FAILED", "error", "no")
        others = [done.id, await driver.submit(), await driver.submit(terms=terms(delay=1000))]
        assert await driver.call("delete", running.id) == "ACTIVE"
        assert [await driver.call("delete", id) for id in others] == ["OK"] * 3
        assert await counts(driver) == {"active": 1}
        assert {key for key in await driver.keys() if key.startswith("job:")} == {f"job:{running.id}"}
        assert await take(driver, 9) == []

    async def test_of_a_queue_s_jobs(self, driver: Driver) -> None:
        await arrange(driver, ".high normal low")
        running = await driver.begin(queue=".high")
        for _ in range(5):
            await driver.submit(queue=".high")
        await driver.submit(queue=".high", terms=terms(delay=1000))
        plain = await driver.submit()
        assert [await driver.call("clear", ".high", 4) for _ in range(3)] == [4, 2, 0]
        assert await counts(driver, ".high") == {"active": 1}
        assert await ids(driver, "pending") == [plain]
        assert await driver.finish(running) == "OK"

    async def test_of_a_queue_s_jobs_behind_some_that_have_expired(self, driver: Driver) -> None:
        queued = [await driver.submit() for _ in range(7)]
        later = [await driver.submit(terms=terms(delay=1000)) for _ in range(7)]
        for id in queued[:5] + later[:5]:
            await driver.key("UNLINK", f"job:{id}")
        assert [await driver.call("clear", "normal", 3) for _ in range(2)] == [3, 1]
        assert not {key for key in await driver.keys() if key.startswith("job:")}

    async def test_of_a_queue_spares_a_running_one_that_is_listed_as_over(self, driver: Driver) -> None:
        running = await driver.begin()
        await driver.key("ZADD", "archived:normal", 1, running.id)  # as one without lists leaves it, that retries a job
        assert await driver.call("clear", "normal", 3) == 0
        assert await driver.finish(running) == "OK"


class TestRun:
    async def test_a_scheduled_job_runs_now(self, driver: Driver) -> None:
        id = await driver.submit(terms=terms(delay=DAY_MS))
        assert await driver.call("run", id) == "OK"
        assert await counts(driver) == {"pending": 1}
        assert await driver.call("run", id) == ["STATE", "IN_QUEUE"]
        assert await take(driver) == [id]
        assert await driver.call("run", id) == ["STATE", "IN_PROGRESS"]

    async def test_one_that_waits_for_its_next_try_runs_now(self, driver: Driver) -> None:
        job = await driver.begin(terms=terms())
        await driver.call("finish", job.id, 1, "RETRY", "error", "no")
        assert await driver.call("run", job.id) == "OK"
        assert await take(driver) == [job.id]
        assert (await fields(driver, job.id))["tries"] == "2"

    @pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
    async def test_an_archived_one_begins_anew(self, driver: Driver, state: str) -> None:
        job = await driver.begin(terms=terms(tries=1), input='"in"')
        if state == "FAILED":
            await driver.call("finish", job.id, 1, "FAILED", "error", "no")
        else:
            await driver.call("cancel", job.id)
        assert await driver.call("run", job.id) == "OK"
        assert await counts(driver) == {"pending": 1}
        begun = await driver.call("take", "w", 1)
        assert (begun[0][0], begun[0][3]) == (job.id, '"in"')
        await driver.call("finish", job.id, 2, "COMPLETED", "", "")
        assert await counts(driver) == {"completed": 1}
        assert await driver.call("run", job.id) == ["STATE", "COMPLETED"]

    async def test_a_cancelled_one_without_its_input_does_not(self, driver: Driver) -> None:
        id = await driver.submit()
        await driver.call("cancel", id)
        assert await driver.call("run", id) == ["STATE", "CANCELLED"]


async def test_a_worker_cannot_say_just_anything(driver: Driver) -> None:
    job = await driver.begin()
    with pytest.raises(ResponseError, match="cannot say"):
        await driver.call("finish", job.id, 1, "CANCELLED", "", "")
