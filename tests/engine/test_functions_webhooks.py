"""Deliveries of webhooks: made with a job's end, claimed, tried, logged and forgotten."""

import json
from typing import Any, NamedTuple

import pytest

from .driver import CLOCKED, DAY_MS, RETENTION_MS, Driver, Taken, text

pytestmark = pytest.mark.every_store

A = "https://a.example/hook"
B = "http://b.example:8080/?x=1"
RECEIVER_A, RECEIVER_B = "https://a.example", "http://b.example:8080"
LEASE_MS = 30_000
FOREVER_MS = 3 * DAY_MS


class Claimed(NamedTuple):
    id: str
    job: str
    url: str
    receiver: str
    number: int
    tries: int
    size: int
    at: int


async def claim(
    driver: Driver, most: int = 100, each: int = 100, failing: int = 100, in_trouble: bool = False, **taken: int
) -> list[Claimed]:
    """What a gateway process gets; `taken`: how many more receivers A and B may have."""
    names = {"a": RECEIVER_A, "b": RECEIVER_B}
    fewer = [part for name, count in taken.items() for part in (names[name], count, int(in_trouble))]
    _, rows = await driver.call("claim_webhooks", LEASE_MS, most, each, failing, *fewer)
    return [Claimed(*row) for row in rows]


async def settle(driver: Driver, claimed: Claimed, outcome: str, result: str = "500", delay: int = 10_000) -> str:
    reply = await driver.call("settle_webhook", claimed.id, claimed.number, outcome, 7, result, delay)
    return str(reply)


async def end_one(driver: Driver, webhooks: str = A, value: str = "1") -> Taken:
    job = await driver.begin(webhooks=webhooks)
    assert await driver.finish(job, value=value) == "OK"
    return job


async def deliver_one(driver: Driver, outcome: str = "delivered", **options: str) -> Claimed:
    await end_one(driver, **options)
    (claimed,) = await claim(driver)
    assert await settle(driver, claimed, outcome) == outcome
    return claimed


async def event(driver: Driver, claimed: Claimed) -> dict[str, Any]:
    reply = await driver.call("webhook_event", claimed.id)
    names = ("state", "created", "started", "finished", "worker", "attempt", "chunks", "output", "error", "progress")
    return dict(zip(names, reply, strict=True)) if reply else {}


async def logged(driver: Driver) -> list[str]:
    """The ids in the log, the newest first."""
    reply = await driver.call("webhooks", "+inf", 0, 1000)
    return [str(id) for id in reply[::3]]


async def state(driver: Driver, claimed: Claimed) -> str | None:
    reply = await driver.call("webhook", claimed.id)
    return str(reply[2]) if reply[2] else None


async def due(driver: Driver) -> int:
    """For how many receivers upkeep says that something is due."""
    return int((await driver.upkeep())["webhooks"])


class TestAnEnd:
    async def test_makes_a_delivery(self, driver: Driver) -> None:
        job = await driver.begin(webhooks=A)
        assert await claim(driver) == []

        await driver.finish(job, value='"out"')

        (claimed,) = await claim(driver)
        assert claimed[:6] == (f"msg_{job.id}_1", job.id, A, RECEIVER_A, 1, 0)
        told = await event(driver, claimed)
        assert (told["state"], told["output"], told["worker"], told["attempt"]) == ("COMPLETED", '"out"', "w", "1")
        assert await claim(driver) == []

    async def test_of_a_job_without_an_address_makes_none(self, driver: Driver) -> None:
        await end_one(driver, webhooks="")
        assert await claim(driver) == []
        assert not {key for key in await driver.keys() if key.startswith(("webhook", "event", "deliveries"))}

    async def test_makes_one_for_each_address(self, driver: Driver) -> None:
        job = await end_one(driver, webhooks=f"{A} {B}")
        assert {(each.id, each.url) for each in await claim(driver)} == {
            (f"msg_{job.id}_1", A), (f"msg_{job.id}_2", B),
        }  # fmt: skip

    async def test_goes_to_the_endpoint_s_address_when_the_job_has_none(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "webhook", B)
        job = await driver.begin()
        own = await driver.begin(webhooks=A)
        await driver.key("HSET", "settings", "webhook", "https://changed.example/")
        await driver.finish(job)
        await driver.finish(own)
        assert {(each.job, each.url) for each in await claim(driver)} == {(job.id, B), (own.id, A)}

    async def test_of_any_kind_is_told(self, driver: Driver) -> None:
        failed = await driver.begin(webhooks=A)
        await driver.finish(failed, "FAILED", "error", "it broke")
        cancelled, purged = await driver.submit(webhooks=A), await driver.submit(webhooks=A)
        await driver.call("cancel", cancelled)
        await driver.call("purge", 10)
        late = await driver.begin(webhooks=A, timeout=5000)
        await driver.pass_time(5001)
        assert await due(driver) == 1

        told = {each.job: await event(driver, each) for each in await claim(driver)}

        assert {id: each["state"] for id, each in told.items()} == {
            failed.id: "FAILED", cancelled: "CANCELLED", purged: "CANCELLED", late.id: "TIMED_OUT",
        }  # fmt: skip
        assert told[failed.id]["error"] == "it broke"

    async def test_by_the_loss_of_the_last_attempt_is_told(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "attempts", 1)
        job = await driver.begin(webhooks=A)
        await driver.call("lose", job.id, 1, "gone")
        (claimed,) = await claim(driver)
        assert (await event(driver, claimed))["error"] == "gone (attempt 1 of 1)"

    async def test_by_its_time_to_live_is_told_as_timed_out(self, driver: Driver) -> None:
        job = await driver.submit(webhooks=A, ttl=10_000)
        await driver.pass_time(10_001)
        await driver.upkeep()
        assert await driver.state(job) is None
        (claimed,) = await claim(driver)
        told = await event(driver, claimed)
        assert (told["state"], told["error"]) == ("TIMED_OUT", "the job had not ended when its time to live was over")

    @pytest.mark.parametrize("then", ["submit", "touch", "retry"])
    async def test_by_its_time_to_live_is_told_after_hours_without_upkeep(self, driver: Driver, then: str) -> None:
        jobs = {}
        for webhooks in ("", A):
            if then == "retry":
                job = await driver.begin(webhooks=webhooks, ttl=10_000)
                await driver.finish(job, "FAILED", "error", "x")
                jobs[webhooks] = job.id
            else:
                jobs[webhooks] = await driver.submit(webhooks=webhooks, ttl=10_000)
        for id in jobs.values():
            if then != "submit":
                await driver.call(then, id, 10_000)
        assert await driver.key("PTTL", f"job:{jobs['']}") <= 70_000
        assert await driver.key("PTTL", f"job:{jobs[A]}") > 12 * 3_600_000

    async def test_keeps_the_job_no_longer_than_others(self, driver: Driver) -> None:
        job = await end_one(driver)
        assert await driver.key("PTTL", f"job:{job.id}") <= RETENTION_MS + 60_000
        await driver.call("touch", job.id, 10_000)
        assert await driver.key("PTTL", f"job:{job.id}") <= 70_000

    async def test_comes_once(self, driver: Driver) -> None:
        job = await end_one(driver)
        assert await driver.finish(job) == "OK"
        assert await driver.finish(job, "FAILED", "error", "x") == "OK"
        assert len(await claim(driver)) == 1

    async def test_after_a_retry_is_another_event_and_the_first_is_still_told(self, driver: Driver) -> None:
        job = await driver.begin(webhooks=A)
        await driver.finish(job, "FAILED", "error", "x")
        await driver.call("retry", job.id)
        (again,) = await driver.take("w")
        await driver.finish(again)

        claims = {each.id: each for each in await claim(driver)}

        assert claims.keys() == {f"msg_{job.id}_1", f"msg_{job.id}_2"}
        assert (await event(driver, claims[f"msg_{job.id}_1"]))["state"] == "FAILED"
        assert (await event(driver, claims[f"msg_{job.id}_2"]))["state"] == "COMPLETED"

    async def test_is_told_after_the_job_is_forgotten(self, driver: Driver) -> None:
        job = await driver.begin(webhooks=A, retention=1000)
        await driver.finish(job, value="7")
        await driver.pass_time(1001)
        await driver.upkeep()
        assert await driver.state(job.id) is None
        (claimed,) = await claim(driver)
        assert (await event(driver, claimed))["output"] == "7"

    async def test_keeps_nothing_of_the_input(self, driver: Driver) -> None:
        job = await driver.begin(webhooks=A, input='"large"', request='{"a":1}')
        await driver.finish(job, "FAILED", "error", "x")
        assert await driver.key("HMGET", f"event:msg_{job.id}_1", "input", "request") == [None, None]
        assert await driver.field(job.id, "input") == '"large"'


class TestAClaim:
    async def test_ends_and_another_one_follows(self, driver: Driver) -> None:
        await end_one(driver)
        (first,) = await claim(driver)
        await driver.pass_time(LEASE_MS - 5000)
        assert await due(driver) == 0
        assert await claim(driver) == []
        await driver.pass_time(5001)
        assert await due(driver) == 1
        (second,) = await claim(driver)
        assert (second.id, second.number, second.tries) == (first.id, 2, 0)

    async def test_that_is_not_the_newest_cannot_say_that_it_failed(self, driver: Driver) -> None:
        await end_one(driver)
        (first,) = await claim(driver)
        await driver.pass_time(LEASE_MS + 1)
        (second,) = await claim(driver)
        assert await settle(driver, first, "again") == "STALE"
        assert await settle(driver, first, "failed") == "STALE"
        assert await state(driver, second) == "pending"
        assert await settle(driver, first, "delivered", "200") == "delivered"
        assert await settle(driver, second, "failed") == "STALE"
        assert await state(driver, second) == "delivered"

    async def test_that_was_not_used_is_given_back(self, driver: Driver) -> None:
        await end_one(driver)
        (first,) = await claim(driver)
        assert await driver.call("release_webhook", first.id, first.number, 1000) == 1
        assert await claim(driver) == []
        await driver.pass_time(1001)
        (second,) = await claim(driver)
        assert (second.number, second.tries) == (2, 0)
        assert await driver.call("release_webhook", first.id, first.number, 0) == 0

    async def test_takes_the_oldest_and_no_more_than_there_is_room_for(self, driver: Driver) -> None:
        jobs = [await end_one(driver) for _ in range(5)]
        assert [each.job for each in await claim(driver, most=2)] == [job.id for job in jobs[:2]]
        assert [each.job for each in await claim(driver, each=1)] == [jobs[2].id]
        assert [each.job for each in await claim(driver, a=2)] == [job.id for job in jobs[3:]]

    async def test_passes_over_a_receiver_that_has_enough(self, driver: Driver) -> None:
        for _ in range(300):
            await end_one(driver)
        job = await end_one(driver, webhooks=B)
        assert [each.job for each in await claim(driver, most=1, a=0)] == [job.id]

    @pytest.mark.parametrize(("most", "taken", "left"), [(1, {}, 1), (9, {}, 0), (9, {"a": 0}, 1), (9, {"a": 1}, 1)])
    async def test_says_whether_more_is_due(self, driver: Driver, most: int, taken: dict[str, int], left: int) -> None:
        await end_one(driver)
        await end_one(driver)
        fewer = [RECEIVER_A, taken["a"], 0] if taken else []
        assert (await driver.call("claim_webhooks", LEASE_MS, most, 100, 100, *fewer))[0] == left

    @pytest.mark.parametrize(("failing", "claimed"), [(0, [B]), (1, [A, B]), (2, [A, A, B])])
    async def test_has_so_many_for_receivers_in_trouble(self, driver: Driver, failing: int, claimed: list[str]) -> None:
        for url in (A, A, A, B):
            await end_one(driver, webhooks=url)
        found = await claim(driver, failing=failing, a=5, in_trouble=True)
        assert sorted(each.url for each in found) == sorted(claimed)

    async def test_knows_the_size_of_what_is_told(self, driver: Driver) -> None:
        await end_one(driver, value="x" * 5000)
        (claimed,) = await claim(driver)
        assert 5000 <= claimed.size < 7000


class TestATry:
    async def test_that_failed_is_followed_by_another(self, driver: Driver) -> None:
        await end_one(driver)
        (first,) = await claim(driver)
        assert await settle(driver, first, "again", "503", 10_000) == "pending"
        await driver.pass_time(9000)
        assert await claim(driver) == []
        await driver.pass_time(1001)
        (second,) = await claim(driver)
        assert (second.id, second.tries) == (first.id, 1)

    async def test_that_succeeded_ends_the_delivery(self, driver: Driver) -> None:
        claimed = await deliver_one(driver)
        await driver.pass_time(FOREVER_MS)
        assert await claim(driver) == []
        assert await due(driver) == 0
        assert await driver.key("EXISTS", f"event:{claimed.id}") == 0
        assert await driver.key("HGET", "counts", "event_bytes") == "0"

    async def test_that_failed_for_good_ends_it(self, driver: Driver) -> None:
        claimed = await deliver_one(driver, "failed")
        await driver.pass_time(DAY_MS // 2)
        assert await claim(driver) == []
        assert await driver.key("EXISTS", f"event:{claimed.id}") == 1

    async def test_is_the_last_when_the_next_would_come_after_a_day(self, driver: Driver) -> None:
        await end_one(driver)
        await driver.pass_time(DAY_MS - 20_000)
        (claimed,) = await claim(driver)
        assert await settle(driver, claimed, "again", delay=10_000) == "pending"
        await driver.pass_time(10_001)
        (claimed,) = await claim(driver)
        assert await settle(driver, claimed, "again", delay=10_000) == "failed"
        assert await state(driver, claimed) == "failed"

    async def test_is_logged_with_the_last_ones_before(self, driver: Driver) -> None:
        await end_one(driver)
        for number in range(7):
            (claimed,) = await claim(driver)
            await settle(driver, claimed, "again", f"50{number}", 1000)
            await driver.pass_time(1001)
        attempts = json.loads((await driver.call("webhook", claimed.id))[5])
        assert [attempt[1] for attempt in attempts] == ["502", "503", "504", "505", "506"]
        assert {attempt[2] for attempt in attempts} == {7}
        assert attempts == sorted(attempts)

    async def test_of_a_delivery_that_is_gone_counts_for_nothing(self, driver: Driver) -> None:
        await end_one(driver)
        (claimed,) = await claim(driver)
        await driver.call("remove", 100)
        await driver.call("remove", 100)
        assert await settle(driver, claimed, "delivered") == "STALE"
        assert await settle(driver, claimed, "again") == "STALE"
        assert await driver.keys() == set()


class TestRetryByHand:
    async def test_makes_a_pending_one_due(self, driver: Driver) -> None:
        await end_one(driver)
        (claimed,) = await claim(driver)
        await settle(driver, claimed, "again", delay=3_600_000)
        assert await driver.call("retry_webhook", claimed.id) == "OK"
        assert [each.id for each in await claim(driver)] == [claimed.id]

    async def test_leaves_one_alone_that_is_being_tried(self, driver: Driver) -> None:
        await end_one(driver)
        (claimed,) = await claim(driver)
        assert await driver.call("retry_webhook", claimed.id) == "OK"
        assert await claim(driver) == []

    async def test_tries_a_failed_one_again_with_the_same_body(self, driver: Driver) -> None:
        claimed = await deliver_one(driver, "failed", value="7")
        await driver.pass_time(DAY_MS - 5000)  # the job itself is gone
        await driver.upkeep()
        assert await driver.call("retry_webhook", claimed.id) == "OK"
        (again,) = await claim(driver)
        assert (again.id, again.tries) == (claimed.id, 0)
        assert (await event(driver, again))["output"] == "7"
        assert await settle(driver, again, "delivered") == "delivered"

    async def test_tries_a_delivered_one_again_while_its_job_is_kept(self, driver: Driver) -> None:
        claimed = await deliver_one(driver, value="7")
        assert await driver.call("retry_webhook", claimed.id) == "OK"
        assert await driver.call("retry_webhook", claimed.id) == "OK"
        (again,) = await claim(driver)
        assert (await event(driver, again))["output"] == "7"

    async def test_is_refused_when_its_job_is_kept_no_longer(self, driver: Driver) -> None:
        claimed = await deliver_one(driver)
        await driver.pass_time(DAY_MS // 2)
        await driver.upkeep()
        assert await driver.call("retry_webhook", claimed.id) == "NO_JOB"
        assert await state(driver, claimed) == "delivered"

    async def test_is_refused_when_its_job_has_begun_anew(self, driver: Driver) -> None:
        job = await driver.begin(webhooks=A)
        await driver.finish(job, "FAILED", "error", "x")
        (claimed,) = await claim(driver)
        await settle(driver, claimed, "delivered")
        await driver.call("retry", job.id)
        assert await driver.call("retry_webhook", claimed.id) == "NO_JOB"
        (again,) = await driver.take("w")
        await driver.finish(again)
        assert await driver.call("retry_webhook", claimed.id) == "NO_JOB"

    async def test_of_what_is_not_there(self, driver: Driver) -> None:
        assert await driver.call("retry_webhook", "msg_x_1") == "GONE"


class TestTheStoreIsNotFilled:
    """By what is kept for a receiver that is dead."""

    @pytest.fixture(autouse=True)
    async def almost_full(self, driver: Driver) -> None:
        await driver.submit("warm-up", webhooks=A)
        await driver.call("cancel", "warm-up")
        for each in await claim(driver):
            await settle(driver, each, "delivered")
        await driver.key("HSET", "counts", "event_bytes", 268_435_456 - 1500)

    async def test_what_has_no_room_is_told_from_the_job_itself(self, driver: Driver) -> None:
        first, second = await end_one(driver, value="1"), await end_one(driver, value="2")
        claims = {each.job: each for each in await claim(driver)}
        assert await driver.key("EXISTS", f"event:{claims[first.id].id}") == 1
        assert await driver.key("EXISTS", f"event:{claims[second.id].id}") == 0
        assert (await event(driver, claims[second.id]))["output"] == "2"
        assert claims[second.id].size == 1
        assert await settle(driver, claims[second.id], "delivered") == "delivered"

    async def test_and_tried_as_long_as_that_is_kept(self, driver: Driver) -> None:
        await end_one(driver)
        job = await end_one(driver)
        (claimed,) = [each for each in await claim(driver) if each.job == job.id]
        assert await settle(driver, claimed, "again", delay=60_000) == "pending"
        await driver.pass_time(60_001)
        (claimed,) = [each for each in await claim(driver) if each.job == job.id]
        assert await settle(driver, claimed, "again", delay=3_600_000) == "failed"

    async def test_room_comes_back(self, driver: Driver) -> None:
        await end_one(driver)
        (claimed,) = await claim(driver)
        await settle(driver, claimed, "delivered")
        await end_one(driver)
        (claimed,) = await claim(driver)
        assert await driver.key("EXISTS", f"event:{claimed.id}") == 1


class TestTheLog:
    async def test_shows_the_newest_first(self, driver: Driver) -> None:
        ids = []
        for _ in range(3):
            ids.append((await deliver_one(driver)).id)
            await driver.pass_time(1)
        assert await logged(driver) == ids[::-1]

    async def test_shows_what_was_scheduled_again_as_new(self, driver: Driver) -> None:
        old = await deliver_one(driver)
        await driver.pass_time(10)
        new = await deliver_one(driver)
        await driver.pass_time(10)
        await driver.call("retry_webhook", old.id)
        assert await logged(driver) == [old.id, new.id]

    async def test_forgets_what_ended_long_ago(self, driver: Driver) -> None:
        old = await deliver_one(driver, "failed")
        await driver.pass_time(DAY_MS)
        new = await deliver_one(driver)
        assert await logged(driver) == [new.id]
        assert await state(driver, old) is None
        assert await driver.key("HGET", "counts", "event_bytes") == "0"

    async def test_forgets_it_though_nothing_else_ends(self, driver: Driver) -> None:
        await deliver_one(driver, "failed")
        await driver.pass_time(DAY_MS // 2)
        await deliver_one(driver)
        assert await due(driver) == 0
        for left in (1, 0):
            await driver.pass_time(DAY_MS // 2)
            assert await due(driver) == 1
            assert await claim(driver) == []
            assert await due(driver) == 0
            assert len(await logged(driver)) == left
        names = {name for name in await driver.keys() if name.startswith(("webhook", "event", "deliveries", "ended"))}
        assert names == set()
        assert await driver.key("HGET", "counts", "event_bytes") == "0"

    async def test_is_bounded_and_drops_nothing_that_is_pending(self, driver: Driver) -> None:
        await end_one(driver)
        (pending,) = await claim(driver)
        await settle(driver, pending, "again", delay=3_600_000)
        oldest = await deliver_one(driver)
        for first in range(0, 9998, 1000):
            numbers = range(first, min(first + 1000, 9998))
            await driver.key("ZADD", "ended", *(part for i in numbers for part in (10**15, f"msg_x_{i}")))
        newer = await deliver_one(driver)
        assert oldest.id in await logged(driver)
        newest = await deliver_one(driver)
        assert await logged(driver) == [newest.id, newer.id, pending.id]

    @pytest.mark.parametrize("pending", [0, 1])
    async def test_has_a_lifetime_of_its_own(self, driver: Driver, pending: int) -> None:
        delivered, failed = await deliver_one(driver), await deliver_one(driver, "failed")
        for _ in range(pending):
            await end_one(driver)
        names = {name for name in await driver.keys() if name.startswith(("webhook", "event", "deliveries", "ended"))}
        assert {f"webhook:{delivered.id}", f"webhook:{failed.id}", f"event:{failed.id}"} < names
        for name in names:
            assert 0 < await driver.key("PTTL", name) <= 3 * DAY_MS, name

    async def test_goes_with_the_endpoint(self, driver: Driver) -> None:
        await deliver_one(driver, "failed")
        await end_one(driver, webhooks=f"{A} {B}")
        await driver.submit(webhooks=A)  # which is cancelled, and not told
        while not await driver.call("remove", 2):
            pass
        assert await driver.keys() == set()

    async def test_goes_with_the_endpoint_some_receivers_at_a_time(self, driver: Driver) -> None:
        for number in range(5):
            await end_one(driver, webhooks=f"https://{number}.example/")
        left = [5]
        while not await driver.call("remove", 2):
            left.append(await driver.key("ZCARD", "webhooks"))
        assert sorted(set(left), reverse=True) == [5, 3, 1, 0]
        assert await driver.keys() == set()

    async def test_of_no_endpoint(self, driver: Driver) -> None:
        while not await driver.call("remove", 2):
            pass
        assert await driver.call("webhooks", "+inf", 0, 10) is None


async def test_upkeep_counts_receivers_that_are_due(driver: Driver) -> None:
    assert await due(driver) == 0
    for _ in range(2):
        await end_one(driver, webhooks=f"{A} {B}")
    assert await due(driver) == 2
    for claimed in await claim(driver):
        await settle(driver, claimed, "delivered" if claimed.url == A else "again", delay=60_000)
    assert await due(driver) == 0
    await driver.pass_time(60_001)
    assert await due(driver) == 1


class TestSecrets:
    async def secrets(self, driver: Driver, function: str, *arguments: str | int) -> Any:
        """Calls a function with the key of a tenant that is called as the endpoint."""
        command = ("FCALL", f"{CLOCKED}_{function}", 1, f"{driver.base}:secrets", *arguments)
        return text(await driver.store.commands.execute_command(*command))

    async def pass_time(self, driver: Driver, ms: int) -> None:
        await driver.key("INCRBY", "secrets:clock", ms)

    async def test_the_first_is_made_when_it_is_needed(self, driver: Driver) -> None:
        ((id, made, expires, secret),) = await self.secrets(driver, "webhook_secrets", "i1", "s1")
        assert (id, expires, secret) == ("i1", 0, "s1")
        assert await self.secrets(driver, "webhook_secrets", "i2", "s2") == [["i1", made, 0, "s1"]]

    async def test_a_rotation_leaves_the_others_in_force_for_a_while(self, driver: Driver) -> None:
        await self.secrets(driver, "webhook_secrets", "i1", "s1")
        await self.pass_time(driver, 1000)
        found = await self.secrets(driver, "rotate_webhook_secret", "i2", "s2", 60_000)
        assert [(each[0], each[3]) for each in found] == [("i2", "s2"), ("i1", "s1")]
        assert (found[0][2], found[1][2] - found[0][1]) == (0, 60_000)
        await self.pass_time(driver, 60_001)
        assert [each[0] for each in await self.secrets(driver, "webhook_secrets", "x", "x")] == ["i2"]

    async def test_a_rotation_prolongs_nothing(self, driver: Driver) -> None:
        await self.secrets(driver, "webhook_secrets", "i1", "s1")
        await self.secrets(driver, "rotate_webhook_secret", "i2", "s2", 60_000)
        await self.secrets(driver, "rotate_webhook_secret", "i3", "s3", 3_600_000)
        await self.pass_time(driver, 60_001)
        assert {each[0] for each in await self.secrets(driver, "webhook_secrets", "x", "x")} == {"i2", "i3"}

    async def test_there_are_never_too_many(self, driver: Driver) -> None:
        for number in range(5):
            assert await self.secrets(driver, "rotate_webhook_secret", f"i{number}", "s", 60_000)
        assert await self.secrets(driver, "rotate_webhook_secret", "more", "s", 60_000) is None
        found = await self.secrets(driver, "rotate_webhook_secret", "only", "s", 0)
        assert [each[0] for each in found] == ["only"]
