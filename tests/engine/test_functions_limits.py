"""How many requests there may be, as functions/limits.lua counts them."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from .driver import Driver

PERIOD_MS = 10_000
SILENCE_MS = 3000


def limit(
    requests: int = 0, at_once: int = 0, per_worker: int = 0, process: str = "gw", count: int = 1, name: str = "k:run"
) -> str:
    return f"{name} {requests} {at_once} {per_worker} {process} {count}"


async def let_in(driver: Driver, text: str) -> str | None:
    """None when a request is let in, else why it is not."""
    try:
        await driver.call("limited", text, "health")
    except ResponseError as error:
        return str(error)
    return None


async def said(driver: Driver) -> set[str]:
    """What processes have said of how many requests they have."""
    _, *parts = str(await driver.key("GET", "limit:k:run")).split()
    return {part.partition("@")[0] for part in parts}


async def workers(driver: Driver, count: int) -> None:
    for number in range(count):
        await driver.call("renew", f"w{number}", 60_000, 1, "ready", "")


class TestRate:
    async def test_so_many_requests_and_no_more(self, driver: Driver) -> None:
        for _ in range(5):
            assert await let_in(driver, limit(5)) is None
        what, most, ms = str(await let_in(driver, limit(5))).removeprefix("LIMITED ").split()
        assert (what, most) == ("rate", "5")
        assert 0 < int(ms) <= PERIOD_MS / 5

    async def test_tokens_come_with_time(self, driver: Driver) -> None:
        for _ in range(5):
            await let_in(driver, limit(5))
        await driver.pass_time(2 * PERIOD_MS // 5)
        assert [await let_in(driver, limit(5)) is None for _ in range(3)] == [True, True, False]

    async def test_a_long_pause_gives_no_more_than_there_may_be(self, driver: Driver) -> None:
        await let_in(driver, limit(2))
        await driver.pass_time(100 * PERIOD_MS)
        assert [await let_in(driver, limit(2)) is None for _ in range(3)] == [True, True, False]

    async def test_what_is_refused_costs_nothing(self, driver: Driver) -> None:
        for _ in range(30):
            await let_in(driver, limit(3))
        await driver.pass_time(PERIOD_MS)
        assert [await let_in(driver, limit(3)) is None for _ in range(4)] == [True, True, True, False]

    async def test_each_name_has_its_own(self, driver: Driver) -> None:
        assert await let_in(driver, limit(1, name="k:run")) is None
        assert await let_in(driver, limit(1, name="k:status")) is None
        assert await let_in(driver, limit(1, name="j:run")) is None
        assert await let_in(driver, limit(1, name="k:run")) is not None

    async def test_it_is_forgotten_when_it_is_full_again(self, driver: Driver) -> None:
        await let_in(driver, limit(5))
        assert 0 < await driver.key("PTTL", "limit:k:run") <= PERIOD_MS

    async def test_workers_that_are_ready_add_to_it(self, driver: Driver) -> None:
        await workers(driver, 3)
        text = limit(2, per_worker=2)
        while await let_in(driver, text) is None:
            pass
        for _ in range(12):  # six in a period, as long as there are so many
            await driver.pass_time(PERIOD_MS // 6 + 1)
            assert await let_in(driver, text) is None
        assert str(await let_in(driver, text)).startswith("LIMITED rate 6 ")

    async def test_workers_that_add_less_than_the_base_change_nothing(self, driver: Driver) -> None:
        await workers(driver, 1)
        assert [await let_in(driver, limit(3, per_worker=2)) is None for _ in range(4)] == [True, True, True, False]


class TestAtOnce:
    async def test_what_a_process_has_counts(self, driver: Driver) -> None:
        assert await let_in(driver, limit(at_once=2, count=2)) is None
        assert await let_in(driver, limit(at_once=2, count=3)) == "LIMITED at_once 2 1000"

    async def test_of_all_processes_together(self, driver: Driver) -> None:
        assert await let_in(driver, limit(at_once=3, count=2, process="a")) is None
        assert await let_in(driver, limit(at_once=3, count=1, process="b")) is None
        assert await let_in(driver, limit(at_once=3, count=2, process="b")) is not None
        await driver.call("at_once", limit(at_once=3, count=1, process="a"))
        assert await let_in(driver, limit(at_once=3, count=2, process="b")) is None

    async def test_what_a_process_said_that_is_gone_counts_no_more(self, driver: Driver) -> None:
        await driver.call("at_once", limit(at_once=3, count=3, process="gone"))
        await driver.pass_time(SILENCE_MS - 1000)
        assert await let_in(driver, limit(at_once=3, count=1, process="here")) is not None
        await driver.pass_time(1001)
        assert await let_in(driver, limit(at_once=3, count=1, process="here")) is None
        assert await said(driver) == {"here=1"}

    async def test_a_process_with_none_leaves_nothing(self, driver: Driver) -> None:
        await let_in(driver, limit(at_once=3, count=1))
        await driver.call("at_once", limit(at_once=3, count=0))
        assert await said(driver) == set()

    async def test_workers_add_to_it_in_the_same_measure(self, driver: Driver) -> None:
        await workers(driver, 4)
        assert await let_in(driver, limit(10, at_once=2, per_worker=5, count=4)) is None
        assert await let_in(driver, limit(10, at_once=2, per_worker=5, count=5)) == "LIMITED at_once 4 1000"

    async def test_to_say_that_there_are_too_many_fails(self, driver: Driver) -> None:
        with pytest.raises(ResponseError, match="LIMITED at_once 1"):
            await driver.call("at_once", limit(at_once=1, count=2))


async def test_a_refused_call_does_nothing(driver: Driver) -> None:
    id = await driver.submit()
    await let_in(driver, limit(1))
    with pytest.raises(ResponseError, match="LIMITED rate"):
        await driver.call("limited", limit(1), "cancel", id)
    assert await driver.state(id) == "IN_QUEUE"


async def test_the_call_gets_its_arguments_and_gives_its_reply(driver: Driver) -> None:
    id = await driver.submit()
    assert await driver.call("limited", limit(5), "status", id, "") == await driver.call("status", id, "")


class TestSubmit:
    async def submit(self, driver: Driver, *texts: str, **options: Any) -> list[Any]:
        jobs = [part for i, text in enumerate(texts) for part in driver.submission(f"j{i}", limit=text, **options)]
        return list(await driver.call("submit", *jobs))

    async def test_each_of_those_that_come_together_counts(self, driver: Driver) -> None:
        replies = await self.submit(driver, *(limit(2, count=number) for number in (1, 2, 3)))
        assert replies[:2] == ["NEW", "NEW"]
        assert replies[2][:3] == ["LIMITED", "rate", 2]
        assert await let_in(driver, limit(2)) is not None
        assert (await driver.call("health"))[3] == 2

    async def test_of_several_keys(self, driver: Driver) -> None:
        replies = await self.submit(driver, limit(1), limit(1, name="j:run"), limit(1), "")
        assert [reply if reply == "NEW" else reply[0] for reply in replies] == ["NEW", "NEW", "LIMITED", "NEW"]

    async def test_a_refused_one_leaves_nothing(self, driver: Driver) -> None:
        await let_in(driver, limit(1))
        before = set(await driver.keys())
        (refused,) = await self.submit(driver, limit(1), key="k", fingerprint="f")
        assert refused[0] == "LIMITED"
        assert set(await driver.keys()) == before

    async def test_no_more_than_may_wait(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "max_queued", 3)
        assert await self.submit(driver, *[""] * 4) == ["NEW", "NEW", "NEW", ["FULL", 3]]
        assert (await driver.call("health"))[3] == 3

    async def test_room_comes_with_each_job_that_is_taken(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "max_queued", 2)
        await self.submit(driver, "", "")
        await driver.take("w", 1)
        jobs = [part for id in ("a", "b") for part in driver.submission(id)]
        assert await driver.call("submit", *jobs) == ["NEW", ["FULL", 2]]

    async def test_jobs_that_wait_for_a_later_retry_count(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "max_queued", 1, "retry_delay_ms", 60_000)
        job = await driver.begin()
        await driver.call("lose", job.id, job.attempt, "gone")
        assert await driver.call("submit", *driver.submission("a")) == [["FULL", 1]]

    async def test_jobs_in_lines_count(self, driver: Driver) -> None:
        await driver.call("configure", 1, "fair", 1, "max_queued", 2)
        jobs = [part for id in ("a", "b", "c") for part in driver.submission(id, share=id)]
        assert await driver.call("submit", *jobs) == ["NEW", "NEW", ["FULL", 2]]

    async def test_a_repeat_is_no_new_job(self, driver: Driver) -> None:
        await driver.key("HSET", "settings", "max_queued", 1)
        await driver.submit("a", key="k", fingerprint="f")
        again = await driver.call("submit", *driver.submission("b", key="k", fingerprint="f"))
        assert again == [["SAME", "a", "IN_QUEUE"]]
