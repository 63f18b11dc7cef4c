"""Keys that are made, changed and revoked while the gateways run: two of them, over one store."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.access.credentials import user_of
from gateway.access.keys import Scope
from gateway.engine.keys import ACCESS

from ..clients import Target, bearer
from ..conftest import client_of
from ..processes import Gateway, Process
from ..waiting import eventually, still_waits
from .conftest import OTHER_ADMIN_KEY, key_name

Replicas = tuple[Gateway, Gateway]
DAY_MS = 86_400_000


async def created(http: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    response = await http.post("/v1/keys", json=wanted)
    assert response.status_code == 201, response.text
    return dict(response.json())


async def endpoint_of(http: httpx.AsyncClient, id: str, **fields: Any) -> Target:
    response = await http.post("/v1/endpoints", json={"id": id, **fields})
    assert response.status_code == 201, response.text
    return Target(http, response.json())


async def status_of(gateway: Gateway, key: str, path: str = "/v2/no-such-endpoint/health", method: str = "GET") -> int:
    async with client_of(gateway, key) as http:
        return (await http.request(method, path)).status_code


class TestCreate:
    async def test_shows_the_key_once(self, one: httpx.AsyncClient) -> None:
        made = await created(one, name="app", scopes=["read"], endpoints=["e"], rate=5, weight=3, expiresInSeconds=60)
        shown = (await one.get(f"/v1/keys/{made['id']}")).json()
        secret = made.pop("key")
        assert shown == made
        assert (made["tenant"], made["name"], made["scopes"], made["endpoints"]) == ("acme", "app", ["read"], ["e"])
        assert (made["rate"], made["weight"]) == (5, 3)
        assert secret not in (await one.get("/v1/keys")).text

    async def test_keeps_nothing_but_its_digest(self, one: httpx.AsyncClient, admin: "redis.Redis") -> None:
        secret = (await created(one))["key"]
        assert admin.exists(key_name(secret))
        for name in admin.scan_iter("runlane:{access}*"):
            if admin.type(name) == b"string":
                assert secret.encode() not in admin.get(name)  # type: ignore[operator]
            assert secret.encode() not in name

    async def test_is_good_at_every_gateway_at_once(self, one: httpx.AsyncClient, replicas: Replicas) -> None:
        key = (await created(one))["key"]
        assert [await status_of(gateway, key) for gateway in replicas] == [404, 404]

    async def test_by_default_for_clients(self, one: httpx.AsyncClient) -> None:
        made = await created(one)
        assert (made["scopes"], made["endpoints"], made["expiresAt"]) == (["cancel", "read", "submit"], [], None)

    @pytest.mark.parametrize(
        "wanted",
        [{"scopes": ["root"]}, {"scopes": []}, {"scopes": "read"}, {"rate": 0}, {"weight": 1001},
         {"endpoints": ["a/b"]}, {"endpoints": "e"}, {"expiresInSeconds": 0}, {"expiresInSeconds": "1h"},
         {"tenant": "other"}, {"id": "mine"},
         {"name": "x" * 101}],
    )  # fmt: skip
    async def test_what_makes_no_sense(self, one: httpx.AsyncClient, wanted: dict[str, Any]) -> None:
        before = (await one.get("/v1/keys")).json()
        response = await one.post("/v1/keys", json=wanted)
        assert (response.status_code, response.json().keys()) == (400, {"error"})
        assert (await one.get("/v1/keys")).json() == before


NEEDS = {
    ("POST", "/v2/e/run"): Scope.SUBMIT,
    ("POST", "/v2/e/runsync"): Scope.SUBMIT,
    ("POST", "/v2/e/retry/j"): Scope.SUBMIT,
    ("POST", "/v2/e/openai/v1/x"): Scope.SUBMIT,
    ("GET", "/v2/e/status/j"): Scope.READ,
    ("GET", "/v2/e/status-sync/j"): Scope.READ,
    ("GET", "/v2/e/stream/j"): Scope.READ,
    ("GET", "/v2/e/health"): Scope.READ,
    ("GET", "/v2/e/requests"): Scope.READ,
    ("GET", "/v2/e/workers"): Scope.READ,
    ("POST", "/v2/e/cancel/j"): Scope.CANCEL,
    ("POST", "/v2/e/purge-queue"): Scope.CANCEL,
    ("GET", "/v1/endpoints"): Scope.MANAGE,
    ("POST", "/v1/endpoints"): Scope.MANAGE,
    ("GET", "/v1/endpoints/e"): Scope.MANAGE,
    ("PATCH", "/v1/endpoints/e"): Scope.MANAGE,
    ("DELETE", "/v1/endpoints/e"): Scope.MANAGE,
    ("POST", "/v2/e/workers"): Scope.WORKER,
    ("DELETE", "/v2/e/workers/w"): Scope.WORKER,
    ("GET", "/v2/e/worker-env"): Scope.WORKER,
    ("GET", "/v2/e/job-take/w"): Scope.WORKER,
    ("GET", "/v2/e/job-stop/w"): Scope.WORKER,
    ("POST", "/v2/e/job-done/w/j"): Scope.WORKER,
    ("POST", "/v2/e/job-stream/w/j"): Scope.WORKER,
    ("GET", "/v2/e/ping/w"): Scope.WORKER,
    ("GET", "/v1/keys"): Scope.ADMIN,
    ("POST", "/v1/keys"): Scope.ADMIN,
    ("GET", "/v1/keys/k"): Scope.ADMIN,
    ("DELETE", "/v1/keys/k"): Scope.ADMIN,
    ("POST", "/v1/keys/k/rotate"): Scope.ADMIN,
}


class TestScopes:
    @pytest.mark.parametrize("scope", Scope)
    async def test_a_key_is_good_for_its_own_and_no_other(
        self, one: httpx.AsyncClient, replicas: Replicas, scope: Scope
    ) -> None:
        key = (await created(one, scopes=[scope]))["key"]

        async def refused(method: str, path: str) -> bool:
            async with client_of(replicas[0], key) as http:
                response = await http.request(method, path, content=b"[]")
                assert response.status_code in (400, 403, 404, 200), (method, path, response.text)
                return response.status_code == 403

        answers = await asyncio.gather(*(refused(method, path) for method, path in NEEDS))
        allowed = {call for call, is_refused in zip(NEEDS, answers, strict=True) if not is_refused}
        assert allowed == {call for call, needs in NEEDS.items() if needs is scope}

    async def test_a_key_that_only_reads_cannot_shorten_a_life(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        id = await target.run(1)
        key = bearer((await created(one, scopes=["read"]))["key"])
        assert (await target.get(f"/status/{id}?ttl=10000", headers=key)).status_code == 403
        assert (await target.get(f"/status/{id}", headers=key)).status_code == 200

    async def test_a_key_for_some_endpoints(self, one: httpx.AsyncClient, endpoint: str) -> None:
        mine, other = await endpoint_of(one, endpoint), await endpoint_of(one, f"{endpoint}-other")
        terms = {"scopes": ["read", "manage"], "endpoints": [mine.id]}
        key = bearer((await created(one, **terms))["key"])
        assert (await mine.get("/health", headers=key)).status_code == 200
        for id in (other.id, "missing"):
            response = await one.get(f"/v2/{id}/health", headers=key)
            assert (response.status_code, response.json()) == (403, {"error": "this key is not for this endpoint"})
            assert (await one.delete(f"/v1/endpoints/{id}", headers=key)).status_code == 403
            assert (await one.post("/v1/endpoints", json={"id": id}, headers=key)).status_code == 403
        assert (await one.post("/v1/endpoints", json={}, headers=key)).status_code == 403
        assert [each["id"] for each in (await one.get("/v1/endpoints", headers=key)).json()] == [mine.id]

    async def test_a_key_for_some_endpoints_makes_no_keys_for_others(self, one: httpx.AsyncClient) -> None:
        admin = await created(one, scopes=["admin"], endpoints=["e"])
        headers = bearer(admin["key"])
        before = (await one.get("/v1/keys")).json()
        id = f"/{admin['id']}"
        for method, path in (("POST", ""), ("GET", ""), ("GET", id), ("DELETE", id), ("POST", f"{id}/rotate")):
            response = await one.request(method, f"/v1/keys{path}", headers=headers, json={})
            assert response.status_code == 403, (method, path, response.text)
        assert (await one.get("/v1/keys")).json() == before


class TestRevoke:
    async def test_ends_a_key_at_every_gateway(self, one: httpx.AsyncClient, replicas: Replicas) -> None:
        made = await created(one)
        assert [await status_of(gateway, made["key"]) for gateway in replicas] == [404, 404]
        assert (await one.delete(f"/v1/keys/{made['id']}")).status_code == 204

        async def is_over() -> bool:
            return [await status_of(gateway, made["key"]) for gateway in replicas] == [401, 401]

        assert await eventually(is_over, seconds=1.0)
        assert (await one.get(f"/v1/keys/{made['id']}")).status_code == 404
        assert (await one.delete(f"/v1/keys/{made['id']}")).status_code == 404

    async def test_hangs_up_on_whoever_uses_it(self, one: httpx.AsyncClient, replicas: Replicas, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        made, id = await created(one), await target.run(1)
        async with client_of(replicas[1], made["key"]) as theirs, client_of(replicas[0], made["key"]) as ours:
            stream = theirs.stream("GET", f"{target.path}/stream/{id}", headers={"Accept": "text/event-stream"})
            async with stream as response:
                waiting = asyncio.create_task(ours.get(f"{target.path}/status-sync/{id}"))
                assert response.status_code == 200
                assert await still_waits(waiting)
                await one.delete(f"/v1/keys/{made['id']}")
                with pytest.raises(httpx.TransportError):
                    await response.aread()
                with pytest.raises(httpx.TransportError):
                    await waiting
        assert (await target.status(id))["status"] == "IN_QUEUE"

    @pytest.mark.parametrize("how", ["expired", "rotated"])
    async def test_hangs_up_on_whoever_uses_an_expired_one(
        self, one: httpx.AsyncClient, endpoint: str, how: str
    ) -> None:
        target = await endpoint_of(one, endpoint)
        await target.register("w1")
        made = await created(one, scopes=["manage"], **({"expiresInSeconds": 1} if how == "expired" else {}))
        stream = one.stream("GET", f"/workers/{endpoint}:w1/logs/stream", headers=bearer(made["key"]))
        async with stream as response:
            assert response.status_code == 200
            if how == "rotated":
                await one.post(f"/v1/keys/{made['id']}/rotate", json={"overlapSeconds": 1})
            with pytest.raises(httpx.RemoteProtocolError):
                await asyncio.wait_for(response.aread(), 12)
        target.close()

    async def test_ends_the_workers_that_came_with_it(
        self, one: httpx.AsyncClient, replicas: Replicas, endpoint: str
    ) -> None:
        target = await endpoint_of(one, endpoint)
        revoked, kept = [await created(one, scopes=["worker"], endpoints=[target.id]) for _ in range(2)]
        workers = []
        for id, key in (("w1", revoked), ("w2", kept)):
            target.worker_key = key["key"]
            workers.append(await target.register(id))
        job = await target.run(1)
        assert [taken.id for taken in workers[0].take()] == [job]
        async with client_of(replicas[1], revoked["key"]) as pod:
            poll = asyncio.create_task(pod.get(f"{target.path}/job-take/pod"))
            await eventually(lambda: self._polls(target))
            await one.delete(f"/v1/keys/{revoked['id']}")
            with pytest.raises(httpx.TransportError):
                await poll
        with pytest.raises((redis.AuthenticationError, redis.ConnectionError)):
            workers[0].take()
        (taken,) = workers[1].take()
        assert taken.id == job
        assert taken.attempt > 1  # the poll may have had it for a moment
        target.close()

    async def test_ends_a_worker_of_our_own(
        self, one: httpx.AsyncClient, replicas: Replicas, endpoint: str, tmp_path: Path
    ) -> None:
        target = await endpoint_of(one, endpoint)
        key = await created(one, scopes=["worker"], endpoints=[target.id])
        (tmp_path / "handler.py").write_text("import handler_sdk\nhandler_sdk.start({'handler': lambda job: 1})\n")
        worker = Process(
            tmp_path, "worker", "handler.py", url=replicas[0].url, endpoint=target.id, worker_key=key["key"]
        )  # fmt: skip
        assert (await target.post("/runsync", {"input": 1})).json()["output"] == 1
        await one.delete(f"/v1/keys/{key['id']}")

        async def has_ended() -> bool:
            return "does not accept the key" in worker.log

        assert await eventually(has_ended)
        assert (await target.health())["workers"]["ready"] == 0
        worker.stop()

    async def test_an_expired_one_too(self, one: httpx.AsyncClient, endpoint: str, admin: "redis.Redis") -> None:
        target = await endpoint_of(one, endpoint)
        target.worker_key = (await created(one, scopes=["worker"], expiresInSeconds=1))["key"]
        worker = await target.register("w1")

        async def is_gone() -> bool:
            return user_of(f"acme/{endpoint}", "w1") not in admin.acl_users()

        assert not await is_gone()
        assert await eventually(is_gone)
        with pytest.raises((redis.AuthenticationError, redis.ConnectionError)):
            worker.take()
        target.close()

    async def test_ends_the_workers_that_deny_it(self, one: httpx.AsyncClient, endpoint: str) -> None:
        """A worker's user can write what is known of the worker, and so is no source for it."""
        target = await endpoint_of(one, endpoint)
        key = await created(one, scopes=["worker"], endpoints=[target.id])
        target.worker_key = key["key"]
        denying, hiding = await target.register("w1"), await target.register("w2")
        denying.store.hset(f"{denying.base}:worker:w1", "key", "another")
        hiding.store.zrem(f"{hiding.base}:workers", "w2")
        await one.delete(f"/v1/keys/{key['id']}")
        for worker in (denying, hiding):
            with pytest.raises((redis.AuthenticationError, redis.ConnectionError)):
                worker.take()
        target.close()

    async def test_ends_the_workers_that_come_just_then(
        self, one: httpx.AsyncClient, replicas: Replicas, endpoint: str, admin: "redis.Redis"
    ) -> None:
        target = await endpoint_of(one, endpoint)
        key = await created(one, scopes=["worker"], endpoints=[target.id])
        is_over = asyncio.Event()

        async def come(gateway: Gateway, number: int) -> None:
            async with client_of(gateway, key["key"]) as http:
                while not is_over.is_set():
                    with contextlib.suppress(httpx.TransportError):
                        await http.post(f"{target.path}/workers", json={"id": f"w{number}-{secrets.token_hex(4)}"})

        coming = [asyncio.create_task(come(gateway, number)) for gateway in replicas for number in range(8)]
        await eventually(lambda: self._comes(target))
        await one.delete(f"/v1/keys/{key['id']}")

        async def is_refused() -> bool:
            return [await status_of(each, key["key"], f"{target.path}/worker-env") for each in replicas] == [401, 401]

        await eventually(is_refused)
        is_over.set()
        await asyncio.gather(*coming)
        users: Any = admin.acl_users()
        assert [user for user in users if user.startswith(f"runlane:acme/{target.id}:")] == []
        assert (await target.get("/workers")).json()["workers"] == []

    async def _comes(self, target: Target) -> bool:
        return len((await target.get("/workers")).json()["workers"]) > 10

    async def _polls(self, target: Target) -> bool:
        return "pod" in [worker["id"] for worker in (await target.get("/workers")).json()["workers"]]

    async def test_deleting_an_endpoint_ends_its_workers_keys(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        key = bearer(target.worker_key)
        assert (await target.get("/worker-env", headers=key)).status_code == 200
        await one.delete(f"/v1/endpoints/{target.id}")

        async def is_over() -> bool:
            return (await target.get("/worker-env", headers=key)).status_code == 401

        assert await eventually(is_over)


class TestRotate:
    async def test_both_keys_are_good_for_a_while(self, one: httpx.AsyncClient, replicas: Replicas) -> None:
        before = await created(one, name="app", scopes=["read"], rate=7)
        after = (await one.post(f"/v1/keys/{before['id']}/rotate", json={"overlapSeconds": 3600})).json()
        assert {name: after[name] for name in ("name", "scopes", "rate")} == {
            "name": "app",
            "scopes": ["read"],
            "rate": 7,
        }
        assert [await status_of(replicas[1], key["key"]) for key in (before, after)] == [404, 404]

    async def test_the_first_ends_then(self, one: httpx.AsyncClient, admin: "redis.Redis") -> None:
        before = await created(one)
        await one.post(f"/v1/keys/{before['id']}/rotate", json={})
        left: Any = admin.pttl(key_name(before["key"]))
        assert DAY_MS - 60_000 < left <= DAY_MS

    @pytest.mark.parametrize("in_pieces", [False, True])
    async def test_or_at_once(self, one: httpx.AsyncClient, replicas: Replicas, in_pieces: bool) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b'{"overlapSeconds":'
            yield b"0}"

        before = await created(one)
        content = body() if in_pieces else b'{"overlapSeconds":0}'
        after = (await one.post(f"/v1/keys/{before['id']}/rotate", content=content)).json()
        assert [await status_of(replicas[1], key["key"]) for key in (before, after)] == [401, 404]

    async def test_one_can_see_when_it_ends(self, one: httpx.AsyncClient) -> None:
        before = await created(one)
        await one.post(f"/v1/keys/{before['id']}/rotate", json={"overlapSeconds": 3600})
        (listed,) = [key for key in (await one.get("/v1/keys")).json()["keys"] if key["id"] == before["id"]]
        assert listed == (await one.get(f"/v1/keys/{before['id']}")).json()
        ends = datetime.fromisoformat(listed["expiresAt"]) - datetime.now(UTC)
        assert timedelta(minutes=59) < ends <= timedelta(minutes=60)

    async def test_its_workers_end_with_it(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        key = await created(one, scopes=["worker"])
        target.worker_key = key["key"]
        worker = await target.register("w1")
        await one.post(f"/v1/keys/{key['id']}/rotate", json={"overlapSeconds": 0.5})

        async def is_gone() -> bool:
            try:
                worker.ready()
            except (redis.AuthenticationError, redis.ConnectionError):
                return True
            return False

        await eventually(is_gone)
        target.close()

    async def test_no_longer_than_it_was_meant_to_be_good(self, one: httpx.AsyncClient, admin: "redis.Redis") -> None:
        before = await created(one, expiresInSeconds=60)
        await one.post(f"/v1/keys/{before['id']}/rotate")
        left: Any = admin.pttl(key_name(before["key"]))
        assert 0 < left <= 60_000


async def test_an_endpoint_without_room_for_its_key_is_not_made(
    replicas: Replicas, endpoint: str, admin: "redis.Redis"
) -> None:
    names = [key_name(f"filler-{number}") for number in range(10_000)]
    index = f"{ACCESS}:keys:other"
    with admin.pipeline(transaction=False) as pipeline:
        for number, name in enumerate(names):
            pipeline.set(name, "{}", ex=60)
            pipeline.hset(index, f"filler-{number}", name.rpartition(":")[2])
        pipeline.execute()
    try:
        async with client_of(replicas[0], OTHER_ADMIN_KEY) as other:
            assert (await other.post("/v1/endpoints", json={"id": endpoint})).status_code == 409
            assert (await other.get(f"/v1/endpoints/{endpoint}")).status_code == 404
    finally:
        admin.unlink(*names, index)


async def test_a_key_that_has_expired(one: httpx.AsyncClient, replicas: Replicas, admin: "redis.Redis") -> None:
    made = await created(one, expiresInSeconds=3600)
    assert await status_of(replicas[0], made["key"]) == 404
    admin.pexpire(key_name(made["key"]), 1)

    async def is_over() -> bool:
        return await status_of(replicas[0], made["key"]) == 401

    assert await eventually(is_over)
    assert made["id"] not in [key["id"] for key in (await one.get("/v1/keys")).json()["keys"]]


async def test_keys_of_another_tenant_are_not_there(one: httpx.AsyncClient, replicas: Replicas) -> None:
    made = await created(one)
    async with client_of(replicas[0], OTHER_ADMIN_KEY) as other:
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
            answers = [await other.request(method, f"/v1/keys/{id}{path}") for id in (made["id"], "never-was")]
            assert [answer.status_code for answer in answers] == [404, 404]
            assert answers[0].content == answers[1].content
        assert made["id"] not in (await other.get("/v1/keys")).text
    assert (await one.get(f"/v1/keys/{made['id']}")).status_code == 200
