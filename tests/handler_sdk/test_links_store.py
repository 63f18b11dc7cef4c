"""What a worker does when the store does not serve it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions

from handler_sdk.links import Attempt, RefusedError
from handler_sdk.links.store import remedy_for

from .conftest import BASE, Gateway, Jobs, Store, eventually
from .ends import joined, one, take

pytestmark = pytest.mark.only_over("redis")


class TestRegistration:
    async def test_is_repeated_when_the_user_is_gone(self, gateway: Gateway, jobs: Jobs, store: Store) -> None:
        make_user(store, "alice", "first")
        gateway.url_of_store = f"redis://alice:first@127.0.0.1:{store.port}/0"
        job = jobs.submit()
        async with joined(gateway) as (link, _):
            (taken,) = await take(link, one)
            store.client.acl_deluser("alice")
            make_user(store, "alice", "second")
            gateway.url_of_store = f"redis://alice:second@127.0.0.1:{store.port}/0"
            assert await asyncio.wait_for(link.finish(taken.attempt, "COMPLETED", "output", b"1"), 5)
            assert jobs.state(job) == "COMPLETED"
            assert [body.get("id") for body in gateway.registrations] == [None, link.worker]
        store.client.acl_deluser("alice")

    async def test_is_repeated_when_a_permission_is_gone(self, gateway: Gateway, store: Store) -> None:
        make_user(store, "bob", "secret")
        gateway.url_of_store = f"redis://bob:secret@127.0.0.1:{store.port}/0"
        async with joined(gateway) as (_, membership):
            await membership.renew(1, "ready", [])
            store.client.acl_setuser("bob", reset_keys=True)
            renewing = asyncio.create_task(membership.renew(1, "ready", []))
            await asyncio.to_thread(eventually, lambda: len(gateway.registrations) == 2)
            make_user(store, "bob", "secret")
            assert await asyncio.wait_for(renewing, 5) == []
        store.client.acl_deluser("bob")

    async def test_that_is_refused_later_ends_every_call(self, gateway: Gateway, store: Store) -> None:
        async with joined(gateway) as (link, _):
            gateway.status = 404
            store.client.delete(*(f"{BASE}:queue:{queue}" for queue in ("normal", "low", "normal:again", "low:again")))
            with pytest.raises(RefusedError, match="does not exist"):
                await asyncio.wait_for(take(link, one), 5)

    async def test_leads_to_the_store_that_took_over(
        self, gateway: Gateway, jobs: Jobs, store: Store, tmp_path: Path
    ) -> None:
        """The worker's address is that of a store that is no more."""
        other = Store(tmp_path)
        other.prepare()
        gateway.url_of_store = f"redis://127.0.0.1:{other.port}/0"
        job = jobs.submit()
        async with joined(gateway, store=other) as (link, membership):
            await membership.renew(1, "ready", [])
            other.kill()
            gateway.url_of_store = f"redis://127.0.0.1:{store.port}/0"
            assert [taken.attempt.job for taken in await asyncio.wait_for(take(link, one), 12)] == [job]
        other.client.close()


class TestCluster:
    @pytest.fixture
    def cluster(self, tmp_path: Path) -> Iterator[Store]:
        store = Store(tmp_path, "--cluster-enabled", "yes")
        store.client.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
        eventually(lambda: store.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
        store.prepare()
        yield store
        store.client.close()
        store.kill()

    async def test_serves_like_a_single_store(self, cluster: Store) -> None:
        gateway = await asyncio.to_thread(Gateway, cluster)
        gateway.cluster = True
        jobs = Jobs(cluster)
        stops: asyncio.Queue[Any] = asyncio.Queue()
        try:
            async with joined(gateway, lambda *stop: stops.put_nowait(stop)) as (link, _):
                first, second = jobs.submit(), jobs.submit()
                await take(link, lambda: 2)
                assert await link.emit(Attempt(first, 1), 1, [b"1"])
                assert await link.finish(Attempt(first, 1), "COMPLETED", "", b"")
                jobs.cancel(second)
                assert await asyncio.wait_for(stops.get(), 5) == (Attempt(second, 1), "CANCELLED")
        finally:
            await asyncio.to_thread(gateway.close)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (exceptions.ConnectionError("refused"), "repeat"),
        (exceptions.TimeoutError("slow"), "repeat"),
        (exceptions.BusyLoadingError("loading"), "repeat"),
        (exceptions.OutOfMemoryError("command not allowed"), "repeat"),
        (exceptions.ClusterDownError("down"), "repeat"),
        (exceptions.ResponseError("MISCONF disk"), "repeat"),
        (exceptions.AuthenticationError("WRONGPASS"), "register"),
        (exceptions.NoPermissionError("no"), "register"),
        (exceptions.ReadOnlyError("replica"), "register"),
        (exceptions.MovedError("1 host:1"), "register"),
        (exceptions.ResponseError("NOGROUP no such key"), "register"),
        (exceptions.ResponseError("ERR Function not found"), "register"),
        (exceptions.ResponseError("GAP"), None),
    ],
)
def test_every_error_has_its_remedy(error: Exception, remedy: str | None) -> None:
    assert remedy_for(error) == remedy


def make_user(store: Store, name: str, password: str) -> None:
    store.client.acl_setuser(
        name, enabled=True, passwords=[f"+{password}"], keys=[BASE, f"{BASE}:*"], channels=["*"], categories=["+@all"]
    )
