import asyncio
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import redis

from ..clients import bearer
from ..conftest import Make
from ..waiting import still_waits

DEFAULTS = {
    "templateId": None, "computeType": "GPU", "gpuCount": 1, "gpuTypeIds": [], "env": {}, "workersMin": 0,
    "workersMax": 3, "idleTimeout": 5, "scalerType": "QUEUE_DELAY", "scalerValue": 4, "executionTimeoutMs": 600_000,
    "flashboot": False, "attempts": 3, "leaseSeconds": 30, "retryDelaySeconds": 0, "fair": False,
}  # fmt: skip

OTHERS = {
    "name": "Mine é", "templateId": "tpl", "computeType": "CPU", "gpuCount": 2, "gpuTypeIds": ["NVIDIA H100"],
    "env": {"A": "1"}, "workersMin": 1, "workersMax": 7, "idleTimeout": 3600, "scalerType": "REQUEST_COUNT",
    "scalerValue": 1, "executionTimeoutMs": 5_000, "flashboot": True, "attempts": 1, "leaseSeconds": 1.5,
    "retryDelaySeconds": 0.25, "fair": True, "vcpuCount": 8, "dataCenterIds": ["EU-1"], "networkVolumeId": "v",
}  # fmt: skip

BAD_FIELDS = [
    ("idleTimeout", 0), ("idleTimeout", 3601), ("idleTimeout", "5"), ("scalerValue", 0), ("scalerType", "RANDOM"),
    ("executionTimeoutMs", 4_999), ("executionTimeoutMs", 604_800_001), ("workersMin", -1), ("workersMax", -1),
    ("workersMax", 1.5), ("workersMax", 10**30), ("gpuCount", 0), ("gpuTypeIds", "H100"), ("gpuTypeIds", [1]),
    ("computeType", "TPU"), ("env", {"A": 1}), ("env", []), ("flashboot", "yes"), ("name", None), ("name", 5),
    ("attempts", 0), ("attempts", 101), ("leaseSeconds", 0.5), ("leaseSeconds", 3601), ("retryDelaySeconds", -1),
    ("fair", 1), ("fair", None),
]  # fmt: skip


def described(name: str, value: Any) -> str:
    return f"{name}={value}"[:40]


# create


async def test_the_defaults_of_a_new_endpoint(http: httpx.AsyncClient, endpoint: str) -> None:
    before = datetime.now(UTC)
    created = (await http.post("/v1/endpoints", json={"id": endpoint})).json()
    assert created.pop("workerKey")
    shown = (await http.get(f"/v1/endpoints/{endpoint}")).json()
    assert created == shown
    assert DEFAULTS.items() <= shown.items()
    assert (shown["id"], shown["name"], shown["version"], shown["workers"]) == (endpoint, endpoint, 1, [])
    assert abs((datetime.fromisoformat(shown["createdAt"]) - before).total_seconds()) < 60
    await http.delete(f"/v1/endpoints/{endpoint}")


async def test_every_field_is_kept_and_shown(make_target: Make) -> None:
    target = await make_target(**OTHERS)
    shown = (await target.http.get(f"/v1/endpoints/{target.id}")).json()
    assert OTHERS.items() <= shown.items()


async def test_an_endpoint_without_an_id_gets_one(http: httpx.AsyncClient) -> None:
    ids = {(await http.post("/v1/endpoints", json={}, headers={})).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    for id in ids:
        assert (await http.get(f"/v2/{id}/health")).status_code == 200
        assert (await http.delete(f"/v1/endpoints/{id}")).status_code == 204


async def test_an_endpoint_is_there_once(make_target: Make) -> None:
    target = await make_target(name="first")
    response = await target.http.post("/v1/endpoints", json={"id": target.id, "name": "second"})
    assert response.status_code == 409
    assert target.id in response.json()["error"]
    assert (await target.http.get(f"/v1/endpoints/{target.id}")).json()["name"] == "first"


async def test_only_one_of_many_makes_the_endpoint(http: httpx.AsyncClient, endpoint: str) -> None:
    answers = await asyncio.gather(*(http.post("/v1/endpoints", json={"id": endpoint}) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
    (key,) = [answer.json()["workerKey"] for answer in answers if answer.status_code == 201]
    assert (await http.post(f"/v2/{endpoint}/workers", headers=bearer(key))).status_code == 200
    await http.delete(f"/v1/endpoints/{endpoint}")


@pytest.mark.parametrize(
    "id", ["", "-a", "a-", "_", "a b", "a/b", "{}", "*", "é", "a\n", "a" * 64, "a" * 10_000, 5, [], {}, True]
)
async def test_an_id_that_no_endpoint_can_have(http: httpx.AsyncClient, id: Any) -> None:
    response = await http.post("/v1/endpoints", json={"id": id})
    assert response.status_code == 400, response.text
    assert "id" in response.json()["error"]
    assert id not in [item["id"] for item in (await http.get("/v1/endpoints")).json()]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=[described(*field) for field in BAD_FIELDS])
async def test_a_field_out_of_its_range(make_target: Make, endpoint: str, name: str, value: Any) -> None:
    target = await make_target()
    before = (await target.http.get(f"/v1/endpoints/{target.id}")).json()
    for method, path, more in (
        ("POST", "", {"id": f"{endpoint}-bad"}),
        ("PATCH", f"/{target.id}", {}),
        ("POST", f"/{target.id}/update", {}),
    ):
        response = await target.http.request(method, f"/v1/endpoints{path}", json=more | {name: value})
        assert response.status_code == 400, response.text
        assert name in response.json()["error"]
    assert (await target.http.get(f"/v1/endpoints/{endpoint}-bad")).status_code == 404
    assert (await target.http.get(f"/v1/endpoints/{target.id}")).json() == before


@pytest.mark.parametrize("fields", [{"workerMax": 1}, {"version": 5}, {"createdAt": "x"}, {"workers_max": 1}, {"": 1}])
async def test_an_unknown_field(make_target: Make, endpoint: str, fields: dict[str, Any]) -> None:
    target = await make_target()
    for method, path in (("POST", ""), ("PATCH", f"/{target.id}")):
        response = await target.http.request(method, f"/v1/endpoints{path}", json=fields)
        assert response.status_code == 400
        assert next(iter(fields)) in response.json()["error"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"1", b"\xff", b'{"name": NaN}', rb'{"name": "\ud800"}', b"[" * 100_000,
     b'{"env": ' + b'{"a":' * 100_000, b'{"env":' * 1000 + b"{}" + b"}" * 1000, b'{"leaseSeconds": 1e400}', b"{}\x00"],
    ids=lambda body: body[:20].decode("latin-1"),
)  # fmt: skip
async def test_a_body_that_makes_no_sense(make_target: Make, body: bytes) -> None:
    target = await make_target()
    for method, path in (("POST", ""), ("PATCH", f"/{target.id}"), ("POST", f"/{target.id}/update")):
        response = await target.http.request(method, f"/v1/endpoints{path}", content=body)
        assert response.status_code == 400, response.text
        assert response.json().keys() == {"error"}


async def test_a_body_that_is_too_large(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/endpoints", json={"name": "x" * 1_000_000})
    assert response.status_code == 413


# list and show


async def test_the_list_has_every_endpoint_as_it_is_shown(make_target: Make) -> None:
    targets = [await make_target(name=name) for name in ("one", "two")]
    listed = {item["id"]: item for item in (await targets[0].http.get("/v1/endpoints")).json()}
    assert list(listed) == sorted(listed)
    for target in targets:
        assert listed[target.id] == (await target.http.get(f"/v1/endpoints/{target.id}")).json()


async def test_the_worker_key_is_shown_once(make_target: Make, admin: "redis.Redis") -> None:
    target = await make_target()
    for response in (
        await target.http.get("/v1/endpoints"),
        await target.http.get(f"/v1/endpoints/{target.id}"),
        await target.http.patch(f"/v1/endpoints/{target.id}", json={"workersMax": 4}),
    ):
        assert target.worker_key not in response.text
        assert "workerKey" not in response.text
    assert target.worker_key.encode() not in b"".join(admin.hgetall(f"{target.base}:settings").values())  # type: ignore[union-attr]


# update


@pytest.mark.parametrize(("method", "suffix"), [("PATCH", ""), ("POST", "/update")])
async def test_an_update_changes_what_it_names(make_target: Make, method: str, suffix: str) -> None:
    target = await make_target(workersMin=1)
    before = (await target.http.get(f"/v1/endpoints/{target.id}")).json()
    path = f"/v1/endpoints/{target.id}{suffix}"
    response = await target.http.request(method, path, json={"workersMax": 9, "name": "new"})
    assert response.status_code == 200
    assert response.json() == before | {"workersMax": 9, "name": "new", "version": 2}
    assert (await target.http.get(f"/v1/endpoints/{target.id}")).json() == response.json()


async def test_an_update_counts_for_the_jobs_that_come(make_target: Make) -> None:
    target = await make_target()
    worker = await target.register()
    await target.http.patch(f"/v1/endpoints/{target.id}", json={"executionTimeoutMs": 7_000, "attempts": 1})
    id = await target.run(1)
    (job,) = worker.take()
    worker.lose(job)
    assert job.timeout == 7_000
    assert (await target.status(id))["status"] == "FAILED"


async def test_updates_at_the_same_time_do_not_undo_each_other(make_target: Make) -> None:
    target = await make_target()
    path = f"/v1/endpoints/{target.id}"
    answers = await asyncio.gather(*(target.http.patch(path, json={"env": {str(i): "x"}}) for i in range(20)))
    done = [answer for answer in answers if answer.status_code == 200]
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert (await target.http.get(path)).json()["version"] == 1 + len(done) > 1


async def test_an_update_keeps_jobs_and_keys(make_target: Make) -> None:
    target = await make_target()
    id = await target.run(1)
    await target.http.patch(f"/v1/endpoints/{target.id}", json={"workersMax": 9})
    (job,) = (await target.register()).take()
    assert job.id == id


# delete


async def test_a_deleted_endpoint_is_gone(make_target: Make) -> None:
    target = await make_target()
    id = await target.run(1)
    response = await target.http.delete(f"/v1/endpoints/{target.id}")
    assert (response.status_code, response.content) == (204, b"")
    assert (await target.post("/run", {"input": 1})).status_code == 404
    for path in (f"/v2/{target.id}/health", f"/v2/{target.id}/status/{id}", f"/v1/endpoints/{target.id}"):
        assert (await target.http.get(path)).status_code == 404
    assert target.id not in [item["id"] for item in (await target.http.get("/v1/endpoints")).json()]


async def test_a_deletion_cancels_what_waits_and_what_runs(make_target: Make) -> None:
    target = await make_target()
    worker = await target.register()
    answers = [asyncio.create_task(target.post("/runsync", {"input": i})) for i in range(2)]
    job = await worker.next()
    assert await still_waits(answers[0])
    with worker.store.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.ssubscribe(f"{target.base}:stops:{worker.id}")
        subscription.get_message(timeout=5)
        await target.http.delete(f"/v1/endpoints/{target.id}")
        message = subscription.get_message(timeout=5)
    assert {(await answer).json()["status"] for answer in answers} == {"CANCELLED"}
    assert message
    assert message["data"] == f"{job.id} 1 CANCELLED".encode()


async def test_a_deletion_leaves_nothing_behind(make_target: Make, admin: "redis.Redis") -> None:
    target = await make_target(retryDelaySeconds=60)
    worker = await target.register()
    for _ in range(4):
        await target.run(1, policy={"lowPriority": True})
    done, late, held = worker.take(3)
    worker.emit(done, 1, b"1")
    worker.finish(done)
    worker.lose(late)
    worker.emit(held, 1, b"1")
    await target.http.delete(f"/v1/endpoints/{target.id}")
    left = [key for key in admin.scan_iter(match=f"{target.base}*", count=1000) if admin.ttl(key) == -1]
    assert left == []
    assert not admin.sismember("runlane:endpoints", target.id)


async def test_an_endpoint_made_again_is_a_new_one(make_target: Make) -> None:
    target = await make_target(name="old", attempts=1)
    id = await target.run(1)
    await target.http.delete(f"/v1/endpoints/{target.id}")
    response = await target.http.post("/v1/endpoints", json={"id": target.id})
    assert (response.status_code, response.json()["version"], response.json()["attempts"]) == (201, 1, 3)
    assert response.json()["workerKey"] != target.worker_key
    assert (await target.post("/workers", headers=bearer(target.worker_key))).status_code == 401
    assert (await target.get(f"/status/{id}")).status_code == 404
    assert sum((await target.health())["jobs"].values()) == 0


@pytest.mark.parametrize("id", ["missing", "{}", "*", "a%2Fb", "é", "x" * 10_000])
async def test_an_endpoint_that_is_not_there(http: httpx.AsyncClient, id: str) -> None:
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/update")):
        response = await http.request(method, f"/v1/endpoints/{id}{path}", json={})
        assert response.status_code == 404, response.text
        assert response.json().keys() == {"error"}


async def test_methods_of_endpoints(http: httpx.AsyncClient) -> None:
    for path, allowed in (
        ("/v1/endpoints", {"GET", "POST"}),
        ("/v1/endpoints/x", {"GET", "PATCH", "DELETE"}),
        ("/v1/endpoints/x/update", {"POST"}),
    ):
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - allowed:
            response = await http.request(method, path, json={})
            assert response.status_code == 405
            assert {name.strip() for name in response.headers["allow"].split(",")} == allowed
