"""Keys and failed logins, as functions/access.lua keeps them."""

from typing import Any

import pytest

from .driver import Driver

WINDOW_MS = 60_000
DAY_MS = 86_400_000


async def login(
    driver: Driver, digest: str = "", address: str = "a", most: int = 3, good_keys_pass: bool = False
) -> list[Any]:
    reply = await driver.call("login", digest, address, most, WINDOW_MS, int(good_keys_pass))
    return list(reply)


async def add(driver: Driver, id: str = "k1", digest: str = "d1", tenant: str = "t", ms: int = 0) -> int:
    """Returns when it expires."""
    key, expires = await driver.call("key_add", tenant, id, digest, f'"{id}"', ms)
    assert key == f'"{id}"'
    return int(expires)


class TestKeys:
    async def test_a_key_is_found_by_its_digest(self, driver: Driver) -> None:
        await add(driver)
        assert await login(driver, "d1") == ["KEY", '"k1"', 0]
        assert await login(driver, "d2") == ["WRONG", 0]

    async def test_a_tenant_sees_its_own(self, driver: Driver) -> None:
        await add(driver, "k1", "d1", "t")
        await add(driver, "k2", "d2", "u")
        assert await driver.call("key_list", "t") == [['"k1"', 0]]
        assert await driver.call("key_get", "t", "k1") == ['"k1"', 0]
        for function, more in (("key_get", ()), ("key_revoke", ()), ("key_expire", (0,))):
            assert await driver.call(function, "t", "k2", *more) is None
        assert await login(driver, "d2") == ["KEY", '"k2"', 0]

    async def test_a_revoked_one_is_good_for_nothing_and_told(self, driver: Driver) -> None:
        await add(driver)
        assert await driver.call("key_revoke", "t", "k1") == ['"k1"', 0]
        assert await login(driver, "d1") == ["WRONG", 0]
        assert await driver.call("key_list", "t") == []
        ((_, news),) = await driver.key("XRANGE", "news", "-", "+")
        assert news == ["revoked", "d1"]

    async def test_who_has_a_revoked_one_does_not_guess(self, driver: Driver) -> None:
        await add(driver)
        await driver.call("key_revoke", "t", "k1")
        assert [await login(driver, "d1") for _ in range(9)] == [["WRONG", 0]] * 9

    async def test_it_is_remembered_for_a_day_and_no_longer(self, driver: Driver) -> None:
        await add(driver)
        await driver.call("key_revoke", "t", "k1")
        assert DAY_MS - WINDOW_MS < await driver.key("PTTL", "ended:d1") <= DAY_MS
        assert await driver.key("EXISTS", "key:d1") == 0

    async def test_one_that_expires_does_so_by_itself(self, driver: Driver) -> None:
        at = await add(driver, ms=2 * DAY_MS)
        assert await driver.key("PEXPIRETIME", "key:d1") == at
        assert await login(driver, "d1") == ["KEY", '"k1"', at]
        _, sooner = await driver.call("key_expire", "t", "k1", DAY_MS)
        assert DAY_MS - WINDOW_MS < at - sooner <= DAY_MS
        assert await driver.call("key_expire", "t", "k1", 2 * DAY_MS) == ['"k1"', sooner]
        for reply in (await driver.call("key_get", "t", "k1"), *await driver.call("key_list", "t")):
            assert reply == ['"k1"', sooner]

    @pytest.mark.parametrize("later", [False, True])
    async def test_who_has_one_that_has_expired_does_not_guess(self, driver: Driver, later: bool) -> None:
        await add(driver, ms=0 if later else 50)
        if later:
            await driver.call("key_expire", "t", "k1", 50)
        assert DAY_MS < await driver.key("PTTL", "ended:d1") <= DAY_MS + 50
        await driver.key("UNLINK", "key:d1")
        assert [await login(driver, "d1") for _ in range(9)] == [["WRONG", 0]] * 9

    async def test_those_that_have_expired_leave_room_for_others(self, driver: Driver) -> None:
        for number in range(10_000):
            await driver.key("HSET", "keys:t", f"old{number}", f"gone{number}")
        await add(driver)
        assert await driver.key("HLEN", "keys:t") == 1

    async def test_one_that_has_expired_is_listed_no_more(self, driver: Driver) -> None:
        await add(driver)
        await driver.key("UNLINK", "key:d1")
        assert await driver.call("key_list", "t") == []
        assert await driver.key("EXISTS", "keys:t") == 0


class TestFailures:
    async def test_block_after_so_many(self, driver: Driver) -> None:
        assert [await login(driver) for _ in range(2)] == [["WRONG", 0]] * 2
        what, ms = await login(driver)
        assert (what, 0 < ms <= WINDOW_MS) == ("WRONG", True)
        assert (await login(driver))[0] == "BLOCKED"

    async def test_good_keys_too(self, driver: Driver) -> None:
        await add(driver)
        for _ in range(3):
            await login(driver)
        assert (await login(driver, "d1"))[0] == "BLOCKED"
        assert await login(driver, "d1", address="b") == ["KEY", '"k1"', 0]
        assert await login(driver, "d1", good_keys_pass=True) == ["KEY", '"k1"', 0]
        assert (await login(driver, "d2", good_keys_pass=True))[0] == "BLOCKED"

    async def test_until_the_oldest_of_them_is_old_enough(self, driver: Driver) -> None:
        await login(driver)
        await driver.pass_time(WINDOW_MS // 2)
        for _ in range(2):
            await login(driver)
        _, ms = await login(driver)
        assert WINDOW_MS // 2 - 5000 < ms <= WINDOW_MS // 2
        await driver.pass_time(WINDOW_MS // 2)
        what, ms = await login(driver)  # one more failure is possible, and blocks again
        assert (what, ms > 0) == ("WRONG", True)

    async def test_what_is_refused_does_not_prolong_it(self, driver: Driver) -> None:
        for _ in range(3):
            await login(driver)
        await driver.pass_time(WINDOW_MS - 5000)
        for _ in range(20):
            assert (await login(driver))[0] == "BLOCKED"
        await driver.pass_time(5000)
        assert (await login(driver))[0] == "WRONG"

    async def test_are_told_to_all_and_to_whoever_comes_later(self, driver: Driver) -> None:
        for _ in range(3):
            await login(driver)
        ((id, news),) = await driver.key("XRANGE", "news", "-", "+")
        assert (news[:2], 0 < int(news[3]) <= WINDOW_MS) == (["blocked", "a"], True)
        last, (address, ms) = await driver.call("blocked", 10)
        assert (last, address, 0 < int(ms) <= WINDOW_MS) == (id, "a", True)
        await driver.pass_time(WINDOW_MS)
        assert (await driver.call("blocked", 10))[1] == []

    async def test_leave_nothing_behind(self, driver: Driver) -> None:
        for _ in range(3):
            await login(driver)
        for name in ("failures:a", "failing", "blocked"):
            assert 0 < await driver.key("PTTL", name) <= WINDOW_MS

    async def test_are_not_counted_when_there_is_no_limit(self, driver: Driver) -> None:
        before = await driver.keys()
        assert [await login(driver, address="") for _ in range(5)] == [["WRONG", 0]] * 5
        assert await driver.keys() == before

    @pytest.mark.parametrize("store", ["valkey"], indirect=True)
    async def test_of_very_many_addresses_are_bounded(self, driver: Driver) -> None:
        script = "for i = 1, 100000 do redis.call('ZADD', KEYS[1], i, 'x' .. i) end"
        await driver.store.commands.eval(script, 1, f"{driver.base}:failing")  # type: ignore[misc]
        await driver.key("RPUSH", "failures:x1", 1)
        await login(driver, address="new")
        assert await driver.key("ZCARD", "failing") == 100_000
        assert await driver.key("EXISTS", "failures:x1") == 0


class TestWorkers:
    async def came(self, driver: Driver, worker: str, id: str = "k1") -> int:
        return int(await driver.call("worker_came", id.replace("k", "d"), id, worker))

    async def test_are_known_by_the_key_that_they_came_with(self, driver: Driver) -> None:
        for id, digest in (("k1", "d1"), ("k2", "d2")):
            await add(driver, id, digest)
        for worker, id in (("e a", "k1"), ("t/f b", "k1"), ("e c", "k2")):
            assert await self.came(driver, worker, id) == 1
        assert set(await driver.call("workers_of", "k1", 10)) == {"e a", "t/f b"}
        await self.came(driver, "e a", "k2")
        await driver.call("worker_went", "e c")
        assert await driver.call("workers_of", "k1", 10) == ["t/f b"]
        assert await driver.call("workers_of", "k2", 10) == ["e a"]

    async def test_leave_nothing_when_they_go(self, driver: Driver) -> None:
        await add(driver, ms=DAY_MS)
        before = await driver.keys()
        await self.came(driver, "e a")
        assert await driver.call("worker_went", "e a") == 1
        assert await driver.keys() == before

    async def test_are_not_let_in_by_a_key_that_has_ended(self, driver: Driver) -> None:
        await add(driver)
        await driver.call("key_revoke", "t", "k1")
        assert await self.came(driver, "e a") == 0
        assert await self.came(driver, "e b", "k9") == 0
        assert await driver.call("workers_of", "k1", 10) == []

    async def test_are_due_when_their_key_expires(self, driver: Driver) -> None:
        for id, digest, ms in (("k1", "d1", 60_000), ("k2", "d2", 0), ("k3", "d3", 0)):
            await add(driver, id, digest, ms=ms)
        for worker, id in (("e ends", "k1"), ("e stays", "k2"), ("e rotated", "k3")):
            await self.came(driver, worker, id)
        await driver.call("key_expire", "t", "k3", 120_000)
        assert await driver.call("workers_due", 10) == []
        await driver.pass_time(61_000)
        assert await driver.call("workers_due", 10) == ["e ends"]
        await driver.pass_time(61_000)
        assert await driver.call("workers_due", 10) == ["e ends", "e rotated"]
