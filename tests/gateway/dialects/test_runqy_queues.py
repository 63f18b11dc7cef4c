"""The management of queues and their tasks, under /api/cli and /api."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from ...stores import Server
from ..clients import API_KEY, Target, Worker, bearer
from ..conftest import Make, client_of
from ..processes import Gateway
from ..waiting import eventually, still_waits

ADMIN_KEY = "rl-admin-of-queues"
BASES = ("/api/cli/queues", "/api/queues")
SUB_QUEUES = [{"name": "high", "priority": 10}, {"name": "default", "priority": 5}]
EMPTY = {"pending": 0, "active": 0, "scheduled": 0, "retry": 0, "archived": 0, "completed": 0}


@pytest.fixture
async def target(make_target: Make) -> Target:
    """An endpoint with two queues."""
    return await make_target(queue={"sub_queues": SUB_QUEUES})


async def add(target: Target, sub_queue: str = "default", data: Any = None, **fields: Any) -> str:
    """Adds a task and returns its id."""
    body = {"queue": f"{target.id}.{sub_queue}", "data": data, **fields}
    response = await target.http.post("/queue/add", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["info"]["id"])


async def add_many(target: Target, number: int, sub_queue: str = "default") -> list[str]:
    body = {"queue": f"{target.id}.{sub_queue}", "jobs": [{"data": n} for n in range(number)]}
    ids: list[str] = (await target.http.post("/queue/add-batch", json=body)).json()["task_ids"]
    assert len(ids) == number
    return ids


async def ask(target: Target, method: str, path: str, status: int = 200, **query: Any) -> dict[str, Any]:
    response = await target.http.request(method, path.format(q=target.id), params=query)
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.json()
    return found


async def error(target: Target, method: str, path: str, status: int, **query: Any) -> str:
    (message,) = (await ask(target, method, path, status, **query))["errors"]
    return str(message)


async def counts(target: Target, name: str = "{q}") -> dict[str, int]:
    found = await ask(target, "GET", f"/api/queues/{name}")
    return {state: found[state] for state in EMPTY}


async def in_every_state(target: Target, worker: Worker) -> dict[str, str]:
    """A task of `default` in each state: its id."""
    ids = {}
    for state in ("completed", "archived", "retry", "active", "pending"):
        ids[state] = await add(target, data={"for": state})
        if state != "pending":
            taken = await worker.next()
            if state == "completed":
                worker.finish(taken, b'"done"')
            elif state == "archived":
                worker.fail(taken, "it broke")
            elif state == "retry":
                worker.call("finish", taken.id, taken.attempt, "RETRY", "error", "not now")
    ids["scheduled"] = await add(target, data={"for": "scheduled"}, delay=3600)
    return ids


@pytest.mark.parametrize("base", BASES)
async def test_all_queues_are_listed_also_those_that_are_empty(target: Target, base: str) -> None:
    await add(target, "high")
    listed = {each["queue"]: each for each in (await ask(target, "GET", base))["queues"]}
    mine = {name: each for name, each in listed.items() if name.startswith(f"{target.id}.")}
    assert list(mine) == [f"{target.id}.high", f"{target.id}.default"]
    high = mine[f"{target.id}.high"]
    assert high.pop("memory_usage") > 0
    assert high == {"queue": f"{target.id}.high", **EMPTY, "pending": 1, "paused": False}


async def test_a_queue_that_nobody_named_is_listed_while_it_has_tasks(target: Target) -> None:
    async def names() -> list[str]:
        listed = (await ask(target, "GET", "/api/queues"))["queues"]
        return [each["queue"] for each in listed if each["queue"].startswith(f"{target.id}.")]

    assert f"{target.id}.low" not in await names()
    await target.run(1, policy={"lowPriority": True})
    assert f"{target.id}.low" in await names()


@pytest.mark.parametrize("base", BASES)
async def test_the_tasks_of_a_queue_are_counted_by_their_states(target: Target, worker: Worker, base: str) -> None:
    await in_every_state(target, worker)
    await add(target, "high")
    found = await ask(target, "GET", f"{base}/{{q}}.default")
    assert found["queue"] == f"{target.id}.default"
    assert {state: found[state] for state in EMPTY} == dict.fromkeys(EMPTY, 1)
    together = await ask(target, "GET", f"{base}/{{q}}")
    assert together["queue"] == target.id
    assert {state: together[state] for state in EMPTY} == dict.fromkeys(EMPTY, 1) | {"pending": 2}


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("POST", "/pause"), ("POST", "/unpause"), ("DELETE", ""), ("GET", "/tasks"), ("GET", "/tasks/x"),
     ("DELETE", "/tasks/x"), ("POST", "/tasks/x/run")],
)  # fmt: skip
async def test_a_queue_that_there_is_not(target: Target, method: str, path: str) -> None:
    for name in ("nowhere", "nowhere.high", "%00", "*", "a b"):
        for base in BASES:
            assert "queue not found" in await error(target, method, f"{base}/{name}{path}", 404)


async def test_a_sub_queue_that_there_is_not(target: Target) -> None:
    for method, path in (("GET", ""), ("POST", "/pause"), ("DELETE", ""), ("GET", "/tasks")):
        assert "queue not found" in await error(target, method, f"/api/queues/{{q}}.none{path}", 404)


@pytest.mark.parametrize("base", BASES)
async def test_tasks_of_each_state_are_listed(target: Target, worker: Worker, base: str) -> None:
    ids = await in_every_state(target, worker)
    name = f"{target.id}.default"
    for state, id in ids.items():
        (task,) = (await ask(target, "GET", f"{base}/{name}/tasks", state=state))["tasks"]
        assert (task["id"], task["state"], task["queue"], task["type"]) == (id, state, name, name)
        assert (task["max_retry"], task["timeout"]) == (3, "168h0m0s")
        assert task["payload"] in (f'{{"for":"{state}"}}', "")
        shown = await ask(target, "GET", f"{base}/{name}/tasks/{id}")
        assert shown == task | ({"result": '"done"'} if state == "completed" else {})
        assert ("next_process_at" in shown) == (state in ("scheduled", "retry"))
        assert ("completed_at" in shown) == (state in ("completed", "archived"))
        assert shown.get("last_err") == {"archived": "it broke", "retry": "not now"}.get(state)
    assert [task["id"] for task in (await ask(target, "GET", f"{base}/{name}/tasks"))["tasks"]] == [ids["pending"]]


async def test_tasks_are_listed_page_by_page(target: Target) -> None:
    ids = await add_many(target, 25)
    first = await ask(target, "GET", "/api/queues/{q}/tasks")
    assert [task["id"] for task in first["tasks"]] == ids[:10]
    second = await ask(target, "GET", "/api/queues/{q}/tasks", cursor=first["next"], limit=12)
    assert [task["id"] for task in second["tasks"]] == ids[10:22]
    third = await ask(target, "GET", "/api/queues/{q}/tasks", cursor=second["next"], limit=12)
    assert ([task["id"] for task in third["tasks"]], third["next"]) == (ids[22:], None)


@pytest.mark.parametrize("limit", ["many", "", "0", "-5", "1e3", "٣"])
async def test_a_limit_that_is_none_is_ten(target: Target, limit: str) -> None:
    await add_many(target, 12)
    assert len((await ask(target, "GET", "/api/queues/{q}/tasks", limit=limit))["tasks"]) == 10


async def test_a_list_that_cannot_be(target: Target) -> None:
    assert await error(target, "GET", "/api/queues/{q}/tasks", 400, state="x") == "invalid state: x"
    for cursor in ("x", "-1", "", "99999999999999999999", "10001"):
        assert "cursor" in await error(target, "GET", "/api/queues/{q}/tasks", 400, cursor=cursor)


async def test_a_task_is_found_in_its_queue_alone(target: Target) -> None:
    id = await add(target, "high")
    for name in ("{q}", "{q}.high", "{q}_high"):
        assert (await ask(target, "GET", f"/api/queues/{name}/tasks/{id}"))["id"] == id
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/run")):
        assert await error(target, method, f"/api/queues/{{q}}.default/tasks/{id}{path}", 404) == "task not found"
        assert await error(target, method, f"/api/queues/{{q}}/tasks/a:b{path}", 404) == "task not found"


@pytest.mark.parametrize("base", BASES)
async def test_a_task_is_deleted_unless_it_runs(target: Target, worker: Worker, base: str) -> None:
    ids = await in_every_state(target, worker)
    active = ids.pop("active")
    for id in ids.values():
        found = await ask(target, "DELETE", f"{base}/{{q}}/tasks/{id}")
        assert found == {"message": "task deleted", "task_id": id}
        assert (await target.http.get(f"/queue/{id}")).status_code == 404
        assert await error(target, "DELETE", f"{base}/{{q}}/tasks/{id}", 404) == "task not found"
    assert active in await error(target, "DELETE", f"{base}/{{q}}/tasks/{active}", 409)
    assert await counts(target) == EMPTY | {"active": 1}


async def test_tasks_are_run_again(target: Target, worker: Worker) -> None:
    ids = await in_every_state(target, worker)
    worker.take()  # the one that waits
    for state in ("scheduled", "retry", "archived"):
        found = await ask(target, "POST", f"/api/cli/queues/{{q}}/tasks/{ids[state]}/run")
        assert found == {"message": "task queued", "task_id": ids[state]}
        taken = await worker.next()
        assert (taken.id, taken.input) == (ids[state], b'{"for":"%b"}' % state.encode())
        worker.finish(taken)
    for state in ("active", "pending", "completed"):
        await error(target, "POST", f"/api/cli/queues/{{q}}/tasks/{ids[state]}/run", 409)


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/api/cli/tasks/{}"), ("POST", "/api/tasks/{}/cancel")])
async def test_a_task_is_cancelled(target: Target, worker: Worker, method: str, path: str) -> None:
    ids = await in_every_state(target, worker)
    for state in ("pending", "active", "scheduled", "retry"):
        found = await ask(target, method, path.format(ids[state]))
        assert found == {"message": "task cancelled", "task_id": ids[state]}
        assert await ask(target, method, path.format(ids[state])) == found
    for state in ("completed", "archived"):
        assert state in await error(target, method, path.format(ids[state]), 409)
    assert await counts(target) == EMPTY | {"archived": 5, "completed": 1}
    for id in ("00000000-0000-4000-a000-000000000000", "x"):
        assert await error(target, method, path.format(id), 404) == "task not found"


async def test_a_task_that_runs_is_told_to_stop(target: Target, worker: Worker) -> None:
    id = await add(target)
    taken = await worker.next()
    assert worker.stopped(taken) == []
    await ask(target, "DELETE", f"/api/cli/tasks/{id}")
    assert worker.stopped(taken) == [(id, taken.attempt, "CANCELLED")]


# pausing


@pytest.fixture(scope="module")
def other_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(
        tmp_path_factory.mktemp("other"), backing.url, api_keys=API_KEY, admin_keys=ADMIN_KEY, rate_limits="off",
        failed_logins="0",
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.fixture
async def other(other_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """Another gateway over the same store."""
    async with client_of(other_gateway) as client:
        yield client


@pytest.mark.parametrize("base", BASES)
async def test_a_paused_queue_begins_no_task_wherever_it_was_added(
    target: Target, worker: Worker, other: httpx.AsyncClient, base: str
) -> None:
    name = f"{target.id}.default"
    paused = await ask(target, "POST", f"{base}/{name}/pause")
    assert paused == {"message": "queue paused", "queue": name, "changed": True}
    first = await add(target)
    second = (await other.post("/queue/add", json={"queue": name, "data": 1})).json()["info"]["id"]
    high = await add(target, "high")
    assert [job.id for job in worker.take(5)] == [high]
    assert (await ask(target, "GET", f"{base}/{name}"))["paused"] is True
    assert (await other.get(f"{base}/{name}")).json()["pending"] == 2
    went_on = (await other.post(f"{base}/{name}/unpause")).json()
    assert went_on == {"message": "queue unpaused", "queue": name, "changed": True}
    assert [job.id for job in worker.take(5)] == [first, second]


async def test_a_worker_that_waits_gets_nothing_of_a_paused_queue(target: Target, other: httpx.AsyncClient) -> None:
    path = f"/v2/{target.id}/job-take/w9"
    headers = bearer(target.worker_key)
    await ask(target, "POST", "/api/queues/{q}/pause")
    waiting = asyncio.create_task(other.get(path, params={"wait": "20000"}, headers=headers))
    id = await add(target)
    assert await still_waits(waiting)
    await ask(target, "POST", "/api/queues/{q}/unpause")
    assert (await waiting).json()["id"] == id


async def test_pausing_twice_changes_nothing(target: Target) -> None:
    for path, changes in (("pause", [True, False]), ("unpause", [True, False])):
        for changed in changes:
            assert (await ask(target, "POST", f"/api/queues/{{q}}/{path}"))["changed"] is changed


async def test_an_endpoint_is_paused_with_all_of_its_queues(target: Target, worker: Worker) -> None:
    assert (await ask(target, "POST", "/api/queues/{q}/pause"))["queue"] == target.id
    await add(target, "high")
    await add(target)
    await target.run(1, policy={"lowPriority": True})
    assert worker.take(5) == []
    for name in ("{q}", "{q}.high", "{q}.default"):
        assert (await ask(target, "GET", f"/api/queues/{name}"))["paused"] is True
    await ask(target, "POST", "/api/queues/{q}.high/unpause")
    assert (await ask(target, "GET", "/api/queues/{q}"))["paused"] is False
    assert len(worker.take(5)) == 1


# deleting


async def test_a_queue_that_is_not_empty_is_deleted_by_force(target: Target) -> None:
    await add_many(target, 3)
    await add(target, delay=60)
    await add(target, "high")
    assert "force" in await error(target, "DELETE", "/api/queues/{q}.default", 400)
    found = await ask(target, "DELETE", "/api/queues/{q}.default", force="true")
    assert found == {"message": "queue deleted", "queue": f"{target.id}.default", "deleted": 4}
    assert await counts(target) == EMPTY | {"pending": 1}
    again = await ask(target, "DELETE", "/api/queues/{q}.default")
    assert again["deleted"] == 0


async def test_a_queue_with_a_task_that_runs_is_not_deleted(target: Target, worker: Worker) -> None:
    await add(target)
    await add(target)
    worker.take()
    assert "active" in await error(target, "DELETE", "/api/queues/{q}", 409, force="true")
    assert await counts(target) == EMPTY | {"pending": 1, "active": 1}


# order


async def test_high_priority_is_served_first_with_a_thousand_low_ones_waiting(make_target: Make) -> None:
    sub_queues = [
        {"name": "batch", "priority": 1},
        {"name": "high", "priority": 10},
        {"name": "default", "priority": 5},
    ]
    target = await make_target(queue={"sub_queues": sub_queues})
    worker = await target.register()
    low = await add_many(target, 1000, "batch")
    middle = await add_many(target, 3)
    assert worker.take()[0].id == middle[0]
    high = await add_many(target, 2, "high")
    order = [worker.take()[0].id for _ in range(5)]
    assert order == [*high, *middle[1:], low[0]]
    last = await add(target, "high")
    assert worker.take()[0].id == last
    await ask(target, "DELETE", "/api/queues/{q}.batch", 409, force="true")


async def test_a_task_with_a_high_priority_is_handed_over_first_when_a_worker_is_free(target: Target) -> None:
    worker = await target.register()
    low, high = await add(target), await add(target, "high")

    async def order() -> list[str]:
        return [job.id for job in worker.take(2)]

    assert await eventually(order) == [high, low]


# keys


@contextlib.asynccontextmanager
async def with_key(other: httpx.AsyncClient, **terms: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a key of its own."""
    made = (await other.post("/v1/keys", json=terms, headers=bearer(ADMIN_KEY))).json()
    async with httpx.AsyncClient(base_url=other.base_url, headers=bearer(made["key"])) as client:
        yield client
    await other.delete(f"/v1/keys/{made['id']}", headers=bearer(ADMIN_KEY))


async def test_a_key_for_some_endpoints_sees_no_others(
    target: Target, make_target: Make, other: httpx.AsyncClient
) -> None:
    mine = await make_target()
    id = await add(target)
    async with with_key(other, endpoints=[mine.id], scopes=["submit", "read", "cancel", "manage"]) as limited:
        listed = (await limited.get("/api/queues")).json()["queues"]
        assert [each["queue"] for each in listed] == [f"{mine.id}.default"]
        assert (await limited.post("/queue/add", json={"queue": mine.id, "data": 1})).status_code == 200
        for method, path, body in (
            ("POST", "/queue/add", {"queue": target.id, "data": 1}),
            ("POST", "/queue/add-batch", {"queue": target.id, "jobs": [{"data": 1}]}),
            ("GET", f"/queue/{id}", None), ("GET", f"/api/queues/{target.id}", None),
            ("POST", f"/api/queues/{target.id}/pause", None), ("DELETE", f"/api/queues/{target.id}", None),
            ("GET", f"/api/queues/{target.id}/tasks", None), ("GET", f"/api/queues/{target.id}/tasks/{id}", None),
            ("DELETE", f"/api/queues/{target.id}/tasks/{id}", None), ("DELETE", f"/api/cli/tasks/{id}", None),
            ("POST", f"/api/queues/{target.id}/tasks/{id}/run", None),
        ):  # fmt: skip
            response = await limited.request(method, path, json=body)
            assert (response.status_code, response.json()) == (403, {"errors": ["insufficient permissions"]}), path
    assert await counts(target) == EMPTY | {"pending": 1}


async def test_management_takes_a_key_that_may_manage(target: Target, other: httpx.AsyncClient) -> None:
    id = await add(target)
    async with with_key(other, scopes=["submit", "read", "cancel"]) as client:
        for method, path in (
            ("GET", "/api/queues"), ("GET", f"/api/queues/{target.id}"), ("POST", f"/api/queues/{target.id}/pause"),
            ("GET", f"/api/cli/queues/{target.id}/tasks"), ("DELETE", f"/api/queues/{target.id}/tasks/{id}"),
        ):  # fmt: skip
            assert (await client.request(method, path)).status_code == 403
        assert (await client.delete(f"/api/cli/tasks/{id}")).status_code == 200
