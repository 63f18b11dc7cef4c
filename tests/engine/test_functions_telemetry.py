"""What workers tell, and which there are."""

import json
from typing import Any

import pytest
from redis.exceptions import ResponseError

from .driver import Driver

pytestmark = pytest.mark.every_store

NAMES = ("id", "state", "jobs", "seen", "silent", "concurrency", "link", "trouble", "description", "came", "metrics",
         "measured", "named", "queues")  # fmt: skip


async def tell(driver: Driver, *texts: str, first: int = 1, run: str = "a", figures: str = "", age: int = 0) -> None:
    lines = [part for text in texts for part in (age, "stdout", text)]
    assert await driver.call("tell", "w", figures, run, first, *lines) == "OK"


async def lines(driver: Driver, after: str = "", count: int = 500) -> list[list[str]]:
    """(id, time, stream, text) of each."""
    reply = await driver.call("log", "w", after, count)
    return [reply[at : at + 4] for at in range(0, len(reply), 4)]


async def texts(driver: Driver, count: int = 500) -> list[str]:
    return [line[3] for line in await lines(driver, count=count)]


async def renew(driver: Driver, worker: str = "w", gone: int = 30_000, state: str = "ready") -> None:
    await driver.call("renew", worker, gone, 4, state, '{"sdk":"x"}')


async def workers(driver: Driver, skip: int = 0, most: int = 100) -> list[dict[str, Any]]:
    """Those that are gone among them."""
    return [dict(zip(NAMES, row, strict=True)) for row in await driver.call("workers", skip, most, "1")]


async def worker(driver: Driver, id: str = "w") -> dict[str, Any] | None:
    row = await driver.call("worker", id)
    return row and dict(zip(NAMES, row, strict=True))


class TestLog:
    async def test_has_the_lines_in_their_order_with_their_times(self, driver: Driver) -> None:
        await renew(driver)
        await tell(driver, "one", "", "ü\0x", age=1500)
        found = await lines(driver)
        assert [line[2:] for line in found] == [["stdout", "one"], ["stdout", ""], ["stdout", "ü\0x"]]
        seen = (await worker(driver) or {})["seen"]
        assert all(-1500 <= int(line[1]) - seen <= 5000 for line in found)

    async def test_is_read_from_a_line_on(self, driver: Driver) -> None:
        await tell(driver, "one", "two")
        (_, _, _, _), (id, _, _, _) = await lines(driver)
        assert await lines(driver, id) == []
        await tell(driver, "three", first=3)
        assert [line[3] for line in await lines(driver, id)] == ["three"]
        assert await texts(driver, 2) == ["two", "three"]

    async def test_takes_each_line_once(self, driver: Driver) -> None:
        """A reply was lost, so the worker tells again, with what came meanwhile."""
        await tell(driver, "one", "two")
        await tell(driver, "one", "two", "three")
        await tell(driver, "one", "two", "three")
        await tell(driver, "four", first=4)
        assert await texts(driver) == ["one", "two", "three", "four"]

    async def test_begins_anew_with_another_process_of_the_worker(self, driver: Driver) -> None:
        await tell(driver, "one", "two")
        await tell(driver, "one", run="b")
        assert await texts(driver) == ["one", "two", "one"]

    async def test_keeps_the_newest_lines(self, driver: Driver) -> None:
        await tell(driver, *map(str, range(1, 401)))
        await tell(driver, *map(str, range(401, 801)), first=401)
        assert await texts(driver) == [str(number) for number in range(301, 801)]

    async def test_keeps_no_more_than_a_megabyte(self, driver: Driver) -> None:
        for first in range(1, 401, 8):
            await tell(driver, *["x" * 8000] * 8, first=first)
        kept = len(await lines(driver))
        assert 1_048_576 - 8000 < kept * 8000 <= 1_048_576
        await driver.call("leave", "w")
        await driver.key("UNLINK", "worker:w")  # what it knew of the size is gone with it
        await tell(driver, *["x" * 8000] * 8, first=401)
        assert len(await lines(driver)) == kept

    async def test_outlives_its_worker_for_hours(self, driver: Driver) -> None:
        await renew(driver)
        await tell(driver, "last words")
        await driver.call("leave", "w")
        assert await texts(driver) == ["last words"]
        assert 3_600_000 < await driver.key("PTTL", "log:w") <= 6 * 3_600_000

    async def test_of_a_worker_that_prints_nothing_stays(self, driver: Driver) -> None:
        await tell(driver, "once")
        await driver.key("PEXPIRE", "log:w", 1000)
        await tell(driver, figures="{}")
        assert await driver.key("PTTL", "log:w") > 3_600_000

    async def test_of_a_worker_that_is_not_known(self, driver: Driver) -> None:
        assert await driver.call("log", "w", "", 10) is None
        await renew(driver)
        assert await driver.call("log", "w", "", 10) == []

    async def test_is_told_late_and_brings_nobody_back(self, driver: Driver) -> None:
        await renew(driver)
        await driver.call("leave", "w")
        await tell(driver, "late", figures="{}")
        assert await driver.call("workers", 0, 10) == []
        assert 0 < await driver.key("PTTL", "worker:w") <= 60_000

    async def test_at_an_endpoint_that_is_gone(self, driver: Driver) -> None:
        await renew(driver)
        await tell(driver, "one")
        await driver.call("remove", 100)
        for call in (("tell", "w", "{}", "a", 1, 0, "stdout", "x"), ("log", "w", "", 10), ("worker", "w")):
            with pytest.raises(ResponseError, match="NOGROUP"):
                await driver.call(*call)
        assert await driver.keys() == set()


class TestFigures:
    async def test_are_shown_with_their_time(self, driver: Driver) -> None:
        await renew(driver)
        assert (await worker(driver) or {})["metrics"] is None
        await tell(driver, figures='{"cpu_percent":1}')
        await driver.pass_time(7000)
        await renew(driver)
        found = await worker(driver) or {}
        assert json.loads(found["metrics"]) == {"cpu_percent": 1}
        assert 7000 <= found["seen"] - found["measured"] < 12_000


class TestWorkers:
    async def test_are_known_since_they_came(self, driver: Driver) -> None:
        await renew(driver)
        await driver.pass_time(5000)
        await renew(driver)
        found = await worker(driver) or {}
        assert 5000 <= found["seen"] - found["came"] < 10_000
        await driver.pass_time(2000)
        assert (await worker(driver) or {})["silent"] >= 2000

    async def test_over_http_are_known_since_their_first_word(self, driver: Driver) -> None:
        for _ in range(2):
            await driver.call("ping", "w", 30_000, "", "", '{"sdk":"runpod"}')
            await driver.pass_time(5000)
        found = await worker(driver) or {}
        assert found["seen"] - found["came"] >= 5000

    async def test_show_some_of_the_jobs_that_they_have(self, driver: Driver) -> None:
        await renew(driver)
        jobs = [await driver.submit(queue=queue) for queue in ("low", *["normal"] * 12)]
        await driver.take("w", 13)
        (found,) = await workers(driver)
        assert (found["jobs"], found["named"]) == (13, jobs[1:11])
        assert (await worker(driver) or {})["named"] == jobs[1:11]

    async def test_that_left_are_seen_for_a_while(self, driver: Driver) -> None:
        await renew(driver)
        await renew(driver, "stays")
        await driver.call("leave", "w")
        (stays, left) = await workers(driver)
        assert (stays["id"], stays["state"]) == ("stays", "idle")
        assert (left["id"], left["state"], left["jobs"], left["description"]) == ("w", "stopped", 0, '{"sdk":"x"}')
        assert (await worker(driver) or {}) | {"silent": 0} == left | {"silent": 0}
        assert [row[0] for row in await driver.call("workers", 0, 10)] == ["stays"]
        await driver.pass_time(600_001)
        await renew(driver, "stays")
        assert [each["id"] for each in await workers(driver)] == ["stays"]
        assert await worker(driver) is None

    async def test_that_fell_silent_are_lost(self, driver: Driver) -> None:
        await renew(driver, gone=1000)
        await driver.pass_time(1001)
        assert [each["state"] for each in await workers(driver)] == ["lost"]
        assert await driver.call("workers", 0, 10) == []
        await driver.pass_time(60_000)
        assert (await driver.upkeep())["workers"] == ["w"]
        (lost,) = await workers(driver)
        assert (lost["id"], lost["state"]) == ("w", "lost")
        assert lost["silent"] > 61_000

    async def test_that_come_back_are_listed_once(self, driver: Driver) -> None:
        for _ in range(2):
            await renew(driver)
            await driver.call("leave", "w")
        assert [each["state"] for each in await workers(driver)] == ["stopped"]
        await renew(driver)
        assert [each["state"] for each in await workers(driver)] == ["idle"]

    async def test_that_left_twice_left_once(self, driver: Driver) -> None:
        await renew(driver)
        for _ in range(2):
            await driver.call("leave", "w")
        assert await driver.key("XLEN", "departed") == 1

    async def test_are_paged(self, driver: Driver) -> None:
        for number in range(8):
            await renew(driver, f"w{number}", 30_000 + number)
        for number in range(4):
            await driver.call("leave", f"w{number}")
        everybody = [each["id"] for each in await workers(driver)]
        assert everybody == ["w7", "w6", "w5", "w4", "w3", "w2", "w1", "w0"]
        for most in (1, 3, 4, 5):
            pages = [await workers(driver, skip, most) for skip in range(0, 8, most)]
            assert [each["id"] for page in pages for each in page] == everybody

    async def test_that_are_gone_are_no_more_than_a_hundred(self, driver: Driver) -> None:
        for number in range(110):
            await renew(driver, f"w{number}")
            await driver.call("leave", f"w{number}")
        found = [each["id"] for each in await workers(driver, 0, 1000)]
        assert found == [f"w{number}" for number in range(109, 9, -1)]
