"""Vaults, as functions/vaults.lua keeps them: what a value is does not matter there."""

from typing import Any

import pytest

from .driver import Driver

SEALED = b"\x00\xff sealed \n1 2 3"
MOST_VAULTS, MOST_ENTRIES, MOST_BYTES = 500, 500, 1024 * 1024


class Tenant:
    """The vaults of a tenant that is called as the endpoint."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    async def call(self, function: str, *arguments: str | bytes) -> Any:
        return await self.driver.call(f"vault_{function}", *arguments)

    async def set(self, entry: str, sealed: bytes = b"x", vault: str = "v") -> str:
        return str(await self.call("set", vault, entry, sealed))

    async def rows(self, vault: str = "v") -> dict[str, str]:
        """The sealed values by their entries."""
        flat = (await self.call("read", vault))[1]
        return {entry: row.split(" ", 2)[2] for entry, row in zip(flat[::2], flat[1::2], strict=True)}

    async def times(self, entry: str | None = None, vault: str = "v") -> tuple[int, int]:
        """When the vault, or one of its entries, was made and changed."""
        row, flat = await self.call("read", vault)
        if entry is not None:
            row = flat[flat.index(entry) + 1]
        made, changed, _ = row.split(" ", 2)
        return int(made), int(changed)


@pytest.fixture
async def tenant(driver: Driver) -> Tenant:
    """With one vault, which is empty."""
    tenant = Tenant(driver)
    assert await tenant.call("create", "v", "what it is for") == "OK"
    return tenant


@pytest.mark.every_store
async def test_what_was_put_in_comes_out(tenant: Tenant) -> None:
    assert await tenant.set("A", b"one") == await tenant.set("B", b"two") == "OK"
    row, flat = await tenant.call("read", "v")
    assert row.split(" ", 2)[2] == "what it is for"
    assert set(flat[::2]) == {"A", "B"}
    assert await tenant.rows() == {"A": "one", "B": "two"}


async def test_bytes_of_every_kind_are_kept(tenant: Tenant) -> None:
    await tenant.set("A", SEALED)
    await tenant.set("A", SEALED + SEALED)
    raw = await tenant.driver.store.commands.hget(f"{tenant.driver.base}:v", "A")  # type: ignore[misc]
    assert raw.split(b" ", 2)[2] == SEALED + SEALED


async def test_there_is_one_vault_of_a_name(tenant: Tenant) -> None:
    await tenant.set("A")
    assert await tenant.call("create", "v", "another") == "EXISTS"
    assert (await tenant.call("read", "v"))[0].endswith(" what it is for")
    assert await tenant.rows() == {"A": "x"}


async def test_a_vault_that_there_is_not(tenant: Tenant) -> None:
    assert await tenant.set("A", vault="w") == "NO_VAULT"
    assert await tenant.call("read", "w") is None
    assert await tenant.call("unset", "w", "A") == "NO_VAULT"
    assert await tenant.call("delete", "w") == 0
    assert await tenant.call("replace", "w", "A", "1 1 x", "1 1 y") == 0
    assert await tenant.driver.key("EXISTS", "w") == 0


async def test_unset(tenant: Tenant) -> None:
    await tenant.set("A")
    await tenant.set("B")
    assert [await tenant.call("unset", "v", "A") for _ in range(2)] == ["OK", "NO_ENTRY"]
    assert await tenant.rows() == {"B": "x"}


async def test_a_deleted_vault_takes_its_entries_with_it(tenant: Tenant) -> None:
    await tenant.set("A")
    await tenant.call("create", "w", "")
    await tenant.set("A", vault="w")
    assert [await tenant.call("delete", "v") for _ in range(2)] == [1, 0]
    assert await tenant.driver.key("EXISTS", "v") == 0
    assert await tenant.rows("w") == {"A": "x"}
    await tenant.call("create", "v", "")
    assert await tenant.rows() == {}


async def test_the_list_has_no_values(tenant: Tenant) -> None:
    await tenant.call("create", "w", "")
    await tenant.set("A")
    await tenant.set("B")
    found = {name: (row.split(" ", 2)[2], count) for name, row, count in await tenant.call("list")}
    assert found == {"v": ("what it is for", 2), "w": ("", 0)}


async def test_when_things_were_made_and_changed(tenant: Tenant) -> None:
    await tenant.set("A")
    made, changed = await tenant.times()
    first, _ = await tenant.times("A")
    await tenant.driver.pass_time(1000)
    await tenant.set("A", b"y")
    assert first + 1000 <= (await tenant.times("A"))[1]
    assert (await tenant.times("A"))[0] == first
    assert (await tenant.times())[0] == made
    assert (await tenant.times())[1] >= changed + 1000
    await tenant.driver.pass_time(1000)
    await tenant.call("unset", "v", "A")
    assert (await tenant.times())[1] >= changed + 2000


class TestReplace:
    async def row(self, tenant: Tenant, entry: str) -> str:
        return str(await tenant.driver.key("HGET", "v", entry))

    async def test_what_is_still_as_it_was_read(self, tenant: Tenant) -> None:
        for entry in "ABC":
            await tenant.set(entry)
        read = [await self.row(tenant, entry) for entry in "ABC"]
        await tenant.set("B", b"set meanwhile")
        await tenant.call("unset", "v", "C")
        arguments = [part for i, entry in enumerate("ABC") for part in (entry, read[i], f"7 8 new {entry}")]
        assert await tenant.call("replace", "v", *arguments) == 1
        assert await tenant.rows() == {"A": "new A", "B": "set meanwhile"}
        assert await tenant.times("A") == (7, 8)

    async def test_nothing_is_made_in_a_vault_that_has_gone(self, tenant: Tenant) -> None:
        await tenant.set("A")
        read = await self.row(tenant, "A")
        await tenant.call("delete", "v")
        assert await tenant.call("replace", "v", "A", read, "7 8 new") == 0
        assert await tenant.driver.key("EXISTS", "v") == 0


class TestBounds:
    async def test_vaults_of_a_tenant(self, tenant: Tenant) -> None:
        replies = [await tenant.call("create", f"v{i}", "") for i in range(MOST_VAULTS)]
        assert replies == ["OK"] * (MOST_VAULTS - 1) + ["FULL"]
        assert await tenant.call("create", "v", "") == "EXISTS"
        await tenant.call("delete", "v")
        assert await tenant.call("create", "other", "") == "OK"

    async def test_entries_of_a_vault(self, tenant: Tenant) -> None:
        replies = [await tenant.set(f"A{i}") for i in range(MOST_ENTRIES + 1)]
        assert replies == ["OK"] * MOST_ENTRIES + ["FULL"]
        assert await tenant.set("A0", b"y") == "OK"

    async def test_bytes_of_a_vault(self, tenant: Tenant) -> None:
        part = b"x" * (MOST_BYTES // 4)
        assert [await tenant.set(f"A{i}", part) for i in range(4)] == ["OK"] * 3 + ["FULL"]
        assert await tenant.set("A0", part) == "OK"  # in the place of as much
        assert await tenant.set("A0", part + part) == "FULL"
        assert len((await tenant.rows())["A0"]) == len(part)
        await tenant.call("unset", "v", "A1")
        assert await tenant.set("A0", part + part) == "OK"
