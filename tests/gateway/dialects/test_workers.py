from typing import Any

import pytest

from gateway.store import LIBRARY

from ..clients import API_KEY, Target, Worker, bearer
from ..conftest import Make


async def register(target: Target, body: Any = None, key: str | None = None) -> Any:
    headers = bearer(target.worker_key if key is None else key)
    return await target.post("/workers", body, headers=headers)


async def leave(target: Target, worker: str, key: str | None = None) -> Any:
    headers = bearer(target.worker_key if key is None else key)
    return await target.http.delete(f"{target.path}/workers/{worker}", headers=headers)


async def test_a_registration_has_all_that_a_worker_needs(make_target: Make) -> None:
    target = await make_target(leaseSeconds=12.5)
    response = await register(target, {"id": "w.1", "description": {"sdk": "x"}})
    assert response.status_code == 200
    found = response.json()
    assert found.pop("redis").keys() == {"url", "cluster"}
    assert found == {
        "worker": "w.1", "library": LIBRARY, "base": target.base,
        "lease_ms": 12_500, "output_limit": 20_000_000, "chunk_limit": 1_000_000,
        "queues": "",
    }  # fmt: skip


async def test_a_registration_for_some_of_the_queues(make_target: Make) -> None:
    sub_queues = [{"name": "default", "priority": 1}, {"name": "high", "priority": 2}]
    target = await make_target(queue={"sub_queues": sub_queues})
    for names, queues in ((["high"], ".high"), (["low", "default"], "low normal"), ([], "")):
        response = await register(target, {"id": "w", "restarted": True, "queues": names})
        assert (response.status_code, response.json()["queues"]) == (200, queues)
    unknown = {"id": "w", "queues": ["high", "other"]}
    response = await register(target, unknown | {"restarted": True})
    assert (response.status_code, response.json()["error"]) == (400, f"endpoint {target.id} has no sub-queue 'other'")
    response = await register(target, unknown)  # it works already, and the queue has gone meanwhile
    assert (response.status_code, response.json()["queues"]) == (200, ".high .other")
    assert (await register(target, {"queues": ["a b"]})).status_code == 400


async def test_a_registration_for_the_queues_of_runpods_jobs(make_target: Make) -> None:
    target = await make_target(queue={"sub_queues": [{"name": "high", "priority": 2}]})
    response = await register(target, {"restarted": True, "queues": ["default", "low"]})
    assert (response.status_code, response.json()["queues"]) == (200, "normal low")


@pytest.mark.parametrize("body", [None, b"", {}, {"id": None}, {"description": {}}])
async def test_a_worker_without_an_id_gets_one(target: Target, body: Any) -> None:
    ids = {(await register(target, body)).json()["worker"] for _ in range(2)}
    assert len(ids) == 2
    assert all(ids)


async def test_a_registered_worker_initializes(target: Target, worker: Worker) -> None:
    assert (await target.health())["workers"]["initializing"] == 1
    assert worker.take() == []


async def test_registering_again_is_the_same_worker(target: Target) -> None:
    for _ in range(3):
        await target.register("w1")
    assert (await target.health())["workers"]["initializing"] == 1


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b"1", b'"w1"', b'{"id": 5}', b'{"id": ["w"]}', b'{"description": "x"}', b'{"description": [1]}',
     b"\xff", rb'{"id": "\ud800"}', rb'{"description": {"a": "\ud800"}}', b"[" * 30_000,
     b'{"description": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}"],
    ids=lambda body: body[:24].decode("latin-1"),
)  # fmt: skip
async def test_a_registration_that_makes_no_sense(target: Target, body: bytes) -> None:
    response = await register(target, body)
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert sum((await target.health())["workers"].values()) == 0


@pytest.mark.parametrize(
    "value",
    ["123456789012345678901234567890", "1e400", "[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, '"\\u0000"'],
)
async def test_a_strange_description_is_no_fault_of_the_gateway_s(target: Target, value: str) -> None:
    response = await register(target, b'{"id": "w1", "description": {"a": %b}}' % value.encode())
    assert response.status_code in (200, 400), response.text


@pytest.mark.parametrize("id", ["", "-a", ".", "a b", "a/b", "a:b", "{}", "*", "é", "a\n", "a" * 64, "a" * 5_000])
async def test_an_id_that_no_worker_can_have(target: Target, id: str) -> None:
    response = await register(target, {"id": id})
    assert response.status_code == (400 if id else 200), response.text
    path = "".join(f"%{byte:02x}" for byte in id.encode())
    assert (await leave(target, path)).status_code == 404


async def test_a_registration_that_is_too_large(target: Target) -> None:
    response = await register(target, {"description": {"a": "x" * 64_000}})
    assert response.status_code == 413


async def test_a_worker_that_leaves_gives_back_what_it_holds(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    worker.take()
    response = await leave(target, "w1")
    assert (response.status_code, response.json()) == (200, {"returned": 1})
    assert (await target.status(id))["status"] == "IN_QUEUE"
    assert sum((await target.health())["workers"].values()) == 0
    (again,) = (await target.register("w2")).take()
    assert (again.id, again.attempt) == (id, 2)


async def test_leaving_twice(target: Target, worker: Worker) -> None:
    answers = [await leave(target, "w1") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[1].json() == {"returned": 0}


async def test_workers_of_an_endpoint_that_is_not_there(target: Target) -> None:
    for id in ("missing", "{}", "x" * 1000):
        for method, path in (("POST", "workers"), ("DELETE", "workers/w1")):
            response = await target.http.request(method, f"/v2/{id}/{path}", headers=bearer(API_KEY))
            assert response.status_code == 404
            response = await target.http.request(method, f"/v2/{id}/{path}", headers=bearer(target.worker_key))
            assert response.status_code == 403


async def test_methods_of_workers(target: Target) -> None:
    for method, path, allowed in (
        ("PUT", "workers", "GET, POST"),
        ("DELETE", "workers", "GET, POST"),
        ("PUT", "workers/w", "GET, DELETE"),
    ):
        response = await target.http.request(method, f"{target.path}/{path}", headers=bearer(target.worker_key))
        assert (response.status_code, response.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_only_a_worker_key_registers(target: Target, worker: Worker, key: str) -> None:
    id = await target.run(1)
    worker.take()
    for response in (await register(target, {"id": "w2"}, key), await leave(target, "w1", key)):
        assert response.status_code == 401
        assert response.json().keys() == {"error"}
    assert (await target.status(id))["status"] == "IN_PROGRESS"
    assert (await target.health())["workers"]["initializing"] + (await target.health())["workers"]["running"] == 1


async def test_a_worker_key_is_good_for_its_endpoint_only(make_target: Make) -> None:
    mine, other = await make_target(), await make_target()
    assert (await register(other, {}, mine.worker_key)).status_code == 403
    assert (await leave(other, "w1", mine.worker_key)).status_code == 403
    assert (await register(mine, {})).status_code == 200


async def test_a_bare_worker_key(target: Target) -> None:
    response = await target.post("/workers", {}, headers={"Authorization": target.worker_key})
    assert response.status_code == 200
