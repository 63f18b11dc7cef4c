"""Runqy's listing of workers."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ...stores import Server
from ..clients import Target, Worker, bearer
from ..conftest import Make, client_of
from ..processes import Gateway
from ..waiting import eventually

LISTS = ["/api/cli/workers", "/workers"]


async def listed(http: httpx.AsyncClient, path: str = LISTS[0], **query: Any) -> list[dict[str, Any]]:
    response = await http.get(path, params=query)
    assert response.status_code == 200, response.text
    found = response.json()
    assert found["count"] == len(found["workers"])
    return list(found["workers"])


async def of(target: Target, path: str = LISTS[0]) -> list[dict[str, Any]]:
    """The workers of this endpoint alone, of those that other tests have as well."""
    return [each for each in await listed(target.http, path) if each["endpoint"] == target.id]


@pytest.mark.parametrize("path", LISTS)
async def test_a_worker_has_the_fields_of_runqy_and_ours(make_target: Make, path: str) -> None:
    queue = {"sub_queues": [{"name": "high", "priority": 10}, {"name": "default", "priority": 6},
                            {"name": "off", "priority": 1, "enabled": False}]}  # fmt: skip
    target = await make_target(queue=queue)
    worker = await target.register("w1", sdk="runlane 1", hostname="gpu-1", pid=7)
    worker.ready()
    job = await target.run(1)
    worker.take()
    figures = '{"cpu_percent":3.5,"memory_used_bytes":1,"memory_total_bytes":2,"gpus":[{"index":0,"name":"L4"}]}'
    worker.call("tell", "w1", figures, "a", 1)
    (found,) = await of(target, path)
    assert (await target.http.get(f"{path}/{found['worker_id']}")).json() == found
    times = {name: found.pop(name) for name in ("started_at", "last_beat")}
    assert 1_600_000_000 < times["started_at"] <= times["last_beat"] < 10_000_000_000
    assert found["metrics"].pop("collected_at") > 1_600_000_000
    assert found == {
        "worker_id": f"{target.id}:w1", "concurrency": 1,
        "queues": f"map[{target.id}.default:6 {target.id}.high:10]",
        "status": "running", "healthy": True, "is_stale": False, "protected": False,
        "metrics": {
            "cpu_percent": 3.5, "memory_used_bytes": 1, "memory_total_bytes": 2,
            "gpus": [{"index": 0, "name": "L4", "utilization_percent": None, "memory_used_mb": 0, "memory_total_mb": 0,
                      "temperature_c": None}],
        },
        "endpoint": target.id, "state": "running", "jobs": [job], "version": "runlane 1", "hostname": "gpu-1", "pid": 7,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "status", "healthy"),
    [("initializing", "bootstrapping", True), ("ready", "running", True), ("unhealthy", "running", False),
     ("crashing", "running", False)],
)  # fmt: skip
async def test_what_a_worker_does(target: Target, worker: Worker, said: str, status: str, healthy: bool) -> None:
    worker.ready(said)
    (found,) = await of(target)
    assert (found["status"], found["healthy"]) == (status, healthy)


async def test_a_worker_that_left_is_stopped(target: Target, worker: Worker) -> None:
    await target.http.delete(f"{target.path}/workers/w1", headers=bearer(target.worker_key))
    (found,) = await of(target)
    assert (found["status"], found["state"], found["healthy"], found["is_stale"]) == (
        "stopped",
        "stopped",
        False,
        False,
    )
    shown = (await target.get("/workers/w1")).json()
    assert (shown["state"], shown["currentJobs"]) == ("stopped", [])
    assert (await target.get("/workers")).json()["workers"] == []


async def test_a_worker_that_fell_silent_is_lost(make_target: Make) -> None:
    target = await make_target(leaseSeconds=1)
    worker = await target.register("w1")
    worker.call("renew", "w1", 1, 1, "ready", "{}")

    async def is_forgotten() -> bool:
        return worker_is_gone(await of(target))

    def worker_is_gone(found: list[dict[str, Any]]) -> bool:
        return [each["state"] for each in found] == ["lost"]

    await eventually(is_forgotten)
    (found,) = await of(target)
    assert (found["status"], found["healthy"]) == ("stopped", False)


async def test_a_worker_that_has_been_silent_for_long_is_stale(target: Target, worker: Worker, admin: Any) -> None:
    worker.ready()
    seen = int(admin.hget(f"{target.base}:worker:w1", "seen"))
    for silent, is_stale in ((25_000, False), (31_000, True)):
        admin.hset(f"{target.base}:worker:w1", "seen", seen - silent)
        (found,) = await of(target)
        assert found["is_stale"] is is_stale


@pytest.mark.parametrize("figures", ["x", "[]", "{}", '{"cpu_percent":"a"}', "[" * 5000])
async def test_figures_that_make_no_sense_are_none(target: Target, worker: Worker, figures: str) -> None:
    worker.call("tell", "w1", figures, "a", 1)
    assert [each["metrics"] for each in await of(target)] == [None]
    assert (await target.get("/workers/w1")).json()["metrics"] is None


async def test_a_description_that_makes_no_sense_is_none(target: Target, worker: Worker) -> None:
    worker.call("renew", "w1", 60_000, 1, "ready", "[1")
    (found,) = await of(target)
    assert (found["version"], found["hostname"]) == (None, None)


@pytest.mark.parametrize("path", LISTS)
async def test_nobody(target: Target, path: str) -> None:
    for id in (f"{target.id}:w1", "missing:w1", f"{target.id}:-", "host:123"):
        response = await target.http.get(f"{path}/{id}")
        assert (response.status_code, response.json()) == (404, {"errors": ["Worker not found"]})


@pytest.fixture
async def fleet(backing: Server, tmp_path: Path, endpoint: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a tenant with four endpoints, which have three workers, none, one and two."""
    gateway = Gateway(tmp_path, backing.url, admin_keys=f"{endpoint}:rl-fleet-key", rate_limits="off", audit_log="off")
    async with client_of(gateway, "rl-fleet-key") as http:
        for name, number in zip("abcd", (3, 0, 1, 2), strict=True):
            made = (await http.post("/v1/endpoints", json={"id": name})).json()
            for worker in range(number):
                headers = bearer(made["workerKey"])
                body = {"id": f"w{worker}", "link": "http"}
                assert (await http.post(f"/v2/{name}/workers", json=body, headers=headers)).status_code == 200
        yield http
        for name in "abcd":
            await http.delete(f"/v1/endpoints/{name}")
    gateway.stop()


async def test_pages_go_through_all_endpoints(fleet: httpx.AsyncClient) -> None:
    everybody = [each["worker_id"] for each in await listed(fleet)]
    assert sorted(everybody) == ["a:w0", "a:w1", "a:w2", "c:w0", "d:w0", "d:w1"]
    for limit in (1, 2, 3, 4, 6, 1000):
        found, query = list[str](), {"limit": str(limit)}
        while True:
            page = (await fleet.get(LISTS[0], params=query)).json()
            assert len(page["workers"]) <= limit
            found += [each["worker_id"] for each in page["workers"]]
            if page["next"] is None:
                break
            query["cursor"] = page["next"]
        assert found == everybody


async def test_a_key_for_some_endpoints_sees_their_workers_only(fleet: httpx.AsyncClient) -> None:
    terms = {"scopes": ["manage"], "endpoints": ["c", "d"], "expiresInSeconds": 60}
    key = (await fleet.post("/v1/keys", json=terms)).json()["key"]
    headers = bearer(key)
    for path in LISTS:
        found = (await fleet.get(path, headers=headers)).json()["workers"]
        assert sorted(each["worker_id"] for each in found) == ["c:w0", "d:w0", "d:w1"]
        assert (await fleet.get(f"{path}/d:w1", headers=headers)).json()["endpoint"] == "d"
        for more in ("", "/logs", "/logs/stream"):
            response = await fleet.get(f"{path}/a:w0{more}", headers=headers)
            assert (response.status_code, response.json()) == (403, {"errors": ["insufficient permissions"]})


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=", "cursor=a", "cursor=a:x", "cursor=a/b:1"]
)
async def test_pages_that_make_no_sense(target: Target, query: str) -> None:
    response = await target.http.get(f"/workers?{query}")
    assert response.status_code == 400
    assert response.json().keys() == {"errors"}


@pytest.mark.parametrize("path", LISTS)
async def test_it_takes_a_key_that_may_manage(target: Target, path: str) -> None:
    assert (await target.http.get(path, headers=bearer(target.worker_key))).json() == {
        "errors": ["insufficient permissions"]
    }
    assert (await target.http.get(path, headers=bearer("wrong"))).json() == {"errors": ["access unauthorized"]}
