"""GET /queue/{task_id}."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest

from ...stores import Server
from ..clients import API_KEY, Target, Worker, bearer
from ..conftest import Make, client_of
from ..processes import Gateway
from ..waiting import eventually, still_waits

NEVER = "0001-01-01T00:00:00Z"
DEPLOYMENT = {"git_url": "https://git.example/code", "startup_cmd": "python main.py"}


async def add(target: Target, data: Any = None, **fields: Any) -> str:
    """Adds a task and returns its id."""
    response = await target.http.post("/queue/add", json={"queue": target.id, "data": data, **fields})
    assert response.status_code == 200, response.text
    return str(response.json()["info"]["id"])


async def get(target: Target, id: str, **query: Any) -> dict[str, Any]:
    """The answer for a task that there is."""
    response = await target.http.get(f"/queue/{id}", params=query)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_task_that_waits(target: Target) -> None:
    id = await add(target, {"a": 1})
    answer = await get(target, id)
    name = f"{target.id}.default"
    common = {"id": id, "type": name, "queue": name, "state": "pending", "max_retry": 3, "retried": 0}
    assert answer["info"] == common | {
        "payload": {"a": 1}, "last_err": None, "last_failed_at": None, "next_process_at": None, "completed_at": None,
        "timeout": "168h0m0s", "result": None,
    }  # fmt: skip
    assert answer["Info"] == common | {
        "payload": '{"a":1}', "LastErr": "", "LastFailedAt": NEVER, "Deadline": NEVER, "Group": "",
        "NextProcessAt": NEVER, "IsOrphaned": False, "CompletedAt": NEVER, "Result": None,
    }  # fmt: skip


RESULTS = [b"null", b"true", b"1234", b"0.10", b'"text"', b'"1234"', b'"{\\"a\\":1}"', b'{"a": [1,  2]}', b'""', b"[]",
           b'"\\u00e9"']  # fmt: skip


@pytest.mark.parametrize("result", RESULTS)
async def test_a_result_of_any_kind(target: Target, worker: Worker, result: bytes) -> None:
    id = await add(target)
    worker.finish(await worker.next(), result)
    response = await target.http.get(f"/queue/{id}")
    assert b'"result":%b}' % result in response.content
    answer = response.json()
    assert answer["Info"]["Result"].encode() == result
    assert answer["info"]["state"] == answer["Info"]["state"] == "completed"
    assert answer["info"]["completed_at"] == answer["Info"]["CompletedAt"]
    assert abs(datetime.fromisoformat(answer["info"]["completed_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (answer["info"]["payload"], answer["Info"]["payload"]) == (None, "null")


async def test_a_task_that_failed_for_good(target: Target, worker: Worker) -> None:
    id = await add(target, {"a": 1})
    worker.fail(await worker.next(), "it broke")
    answer = await get(target, id)
    for info, error in ((answer["info"], "last_err"), (answer["Info"], "LastErr")):
        assert (info["state"], info[error], info["retried"]) == ("archived", "it broke", 0)
    assert answer["info"]["payload"] == {"a": 1}


async def test_a_task_that_is_to_be_tried_again(target: Target, worker: Worker) -> None:
    id = await add(target)
    taken = await worker.next()
    assert (await get(target, id))["info"]["state"] == "active"
    worker.call("finish", taken.id, taken.attempt, "RETRY", "error", "not now")
    info = (await get(target, id))["info"]
    assert (info["state"], info["last_err"], info["retried"]) == ("retry", "not now", 1)
    wait = datetime.fromisoformat(info["next_process_at"]) - datetime.fromisoformat(info["last_failed_at"])
    assert wait == timedelta(seconds=10)


async def test_a_task_that_was_cancelled(target: Target) -> None:
    id = await add(target)
    await target.http.post(f"/api/tasks/{id}/cancel")
    info = (await get(target, id))["info"]
    assert (info["state"], info["last_err"]) == ("archived", "the task was cancelled")


async def test_a_job_of_runpod_s_clients(target: Target, worker: Worker) -> None:
    id = await target.run({"a": 1})
    info = (await get(target, id))["info"]
    assert (info["state"], info["payload"], info["max_retry"]) == ("pending", {"a": 1}, 2)
    worker.finish(await worker.next(), b'{"b":2}')
    assert (await get(target, id))["info"]["result"] == {"b": 2}


@pytest.mark.parametrize("id", ["00000000-0000-4000-a000-000000000000", "x", "a:b", "%2e%2e", "a" * 100, "ż", "{}"])
async def test_a_task_that_there_is_not(target: Target, id: str) -> None:
    for query in ({}, {"wait": "true"}):
        response = await target.http.get(f"/queue/{id}", params=query)
        assert (response.status_code, response.json()) == (404, {"errors": ["task not found"]})


async def test_an_id_of_the_endpoint_that_there_is_not(target: Target) -> None:
    id = await add(target)
    other = ("0" if id[0] != "0" else "1") + id[1:]
    assert (await target.http.get(f"/queue/{other}")).status_code == 404


# waiting


async def test_a_wait_ends_with_the_task(target: Target, worker: Worker) -> None:
    id = await add(target, {"a": 1})
    waiting = asyncio.create_task(get(target, id, wait="true"))
    assert await still_waits(waiting)
    worker.finish(await worker.next(), b'"done"')
    info = (await waiting)["info"]
    assert (info["state"], info["result"], info["payload"]) == ("completed", "done", {"a": 1})


async def test_a_wait_goes_on_while_a_task_is_tried_again(target: Target, worker: Worker) -> None:
    id = await add(target)
    waiting = asyncio.create_task(get(target, id, wait="true"))
    taken = await worker.next()
    worker.call("finish", taken.id, taken.attempt, "RETRY", "error", "not now")
    assert await still_waits(waiting)
    assert (await target.http.post(f"/api/queues/{target.id}/tasks/{id}/run")).status_code == 200
    worker.fail(await worker.next(), "it broke")
    info = (await waiting)["info"]
    assert (info["state"], info["last_err"], info["retried"]) == ("archived", "it broke", 1)


async def test_a_wait_for_a_task_that_has_ended(target: Target, worker: Worker) -> None:
    id = await add(target)
    worker.finish(await worker.next(), b"1")
    assert (await get(target, id, wait="true"))["info"]["result"] == 1


async def test_a_wait_ends_with_its_time(target: Target) -> None:
    id = await add(target)
    response = await target.http.get(f"/queue/{id}", params={"wait": "true", "timeout": 1})
    assert (response.status_code, response.json()) == (408, {"errors": ["timeout waiting for task result"]})


@pytest.mark.parametrize("seconds", ["0", "301", "-1", "1.5", "x", ""])
async def test_a_time_that_cannot_be_waited(target: Target, seconds: str) -> None:
    response = await target.http.get(f"/queue/{await add(target)}", params={"wait": "true", "timeout": seconds})
    assert response.status_code == 400


@pytest.mark.parametrize("wait", ["false", "", "no"])
async def test_no_wait(target: Target, wait: str) -> None:
    assert (await get(target, await add(target), wait=wait))["info"]["state"] == "pending"


async def test_a_result_that_is_not_stored_goes_to_those_that_wait(make_target: Make) -> None:
    target = await make_target(queue={"deployment": DEPLOYMENT | {"redis_storage": False}})
    worker = await target.register()
    id = await add(target)
    waiting = asyncio.create_task(get(target, id, wait="true"))
    assert await still_waits(waiting)
    worker.finish(await worker.next(), b'"for you alone"')
    assert (await waiting)["info"]["result"] == "for you alone"
    info = (await get(target, id))["info"]
    assert (info["state"], info["result"]) == ("completed", None)


async def test_an_error_is_kept_where_results_are_not(make_target: Make) -> None:
    target = await make_target(queue={"deployment": DEPLOYMENT | {"redis_storage": False}})
    worker = await target.register()
    id = await add(target)
    worker.fail(await worker.next(), "it broke")
    info = (await get(target, id))["info"]
    assert (info["state"], info["last_err"]) == ("archived", "it broke")


@pytest.fixture(scope="module")
def other_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Another gateway over the same store, whose tasks need no key."""
    gateway = Gateway(
        tmp_path_factory.mktemp("public"), backing.url, api_keys=f"{API_KEY},acme:rl-acme", rate_limits="off",
        failed_logins="0", runqy_public_tasks="true",
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.fixture
async def other(other_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(other_gateway) as client:
        yield client


async def test_many_wait_at_two_gateways_and_are_all_woken(
    target: Target, worker: Worker, other: httpx.AsyncClient
) -> None:
    ids = [await add(target, number) for number in range(50)]
    clients = [target.http, other]
    asking = [
        asyncio.create_task(clients[number % 2].get(f"/queue/{id}", params={"wait": "true"}))
        for number, id in enumerate(ids)
    ]

    async def all_wait() -> bool:
        return not any([not await still_waits(each, 0) for each in asking])

    assert await all_wait()
    for job in worker.take(50):
        worker.finish(job, b'{"of":%b}' % job.input)
    answers = [orjson.loads((await each).content)["info"] for each in asking]
    assert [answer["result"] for answer in answers] == [{"of": number} for number in range(50)]


async def test_tasks_need_a_key_unless_a_setting_says_otherwise(target: Target, other: httpx.AsyncClient) -> None:
    id = await add(target, {"a": 1})
    anonymous: dict[str, Any] = {"Authorization": ""}
    response = await target.http.get(f"/queue/{id}", headers=anonymous)
    assert (response.status_code, response.json()) == (401, {"errors": ["access unauthorized"]})
    public = await other.get(f"/queue/{id}", headers=anonymous)
    assert public.json()["info"]["payload"] == {"a": 1}
    assert (await other.get(f"/queue/{id}", headers=bearer("wrong"))).status_code == 401
    # Of another tenant, whose ids a key finds and nobody else.
    assert (await other.get(f"/queue/{id}", headers=bearer("rl-acme"))).status_code == 404


async def test_what_is_there_without_a_key(target: Target) -> None:
    async with httpx.AsyncClient(base_url=target.http.base_url) as anyone:
        health = (await anyone.get("/health")).json()
        assert health["status"] == "ok"
        assert datetime.fromisoformat(health["timestamp"])
        assert (await anyone.get("/healthz")).json() | {"timestamp": ""} == {
            "status": "ok",
            "redis": True,
            "timestamp": "",
        }


async def test_health_without_the_store(own_server: Server, tmp_path: Any) -> None:
    gateway = Gateway(tmp_path / "gateway", own_server.url, api_keys=API_KEY)
    async with client_of(gateway) as client:
        assert (await client.get("/healthz")).status_code == 200
        own_server.kill()

        async def is_degraded() -> bool:
            return (await client.get("/healthz")).status_code == 503

        await eventually(is_degraded)
        assert (await client.get("/healthz")).json()["redis"] is False
        assert (await client.get("/health")).status_code == 200
    gateway.stop()
