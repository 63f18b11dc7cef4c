"""POST /queue/add and /api/cli/tasks."""

import base64
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
import redis

from ..clients import Target
from ..conftest import Make

PATHS = ("/queue/add", "/api/cli/tasks")
NEVER = "0001-01-01T00:00:00Z"
SUB_QUEUES = [
    {"name": "high", "priority": 10},
    {"name": "default", "priority": 5},
    {"name": "off", "priority": 1, "enabled": False},
]
PROMPT = {"name": "prompt", "type": ["string"]}
STEPS = {"name": "steps", "type": ["int"], "required": False, "default": 20}


@pytest.fixture
async def target(make_target: Make) -> Target:
    """An endpoint with two queues that take tasks."""
    return await make_target(queue={"sub_queues": SUB_QUEUES})


async def add(target: Target, sub_queue: str = "", **fields: Any) -> httpx.Response:
    """Adds a task to a queue of the endpoint."""
    name = f"{target.id}.{sub_queue}" if sub_queue else target.id
    return await target.http.post("/queue/add", json={"queue": name, **fields})


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    (message,) = response.json()["errors"]
    return str(message)


@pytest.mark.parametrize("path", PATHS)
async def test_a_task_is_added_and_shown_as_runqy_does(target: Target, path: str) -> None:
    before = datetime.now(UTC) - timedelta(minutes=1)
    response = await target.http.post(path, json={"queue": f"{target.id}.high", "data": {"prompt": "ż"}})
    assert response.status_code == 200
    answer = response.json()
    info = answer["info"]
    assert answer["data"] == {"prompt": "ż"}
    assert uuid.UUID(info.pop("id")).version == 4
    assert orjson.loads(base64.b64decode(info.pop("payload"))) == {"prompt": "ż"}
    assert datetime.fromisoformat(info.pop("NextProcessAt")) > before
    name = f"{target.id}.high"
    assert info == {
        "type": name, "queue": name, "state": "pending", "max_retry": 3, "retried": 0, "LastErr": "",
        "LastFailedAt": NEVER, "Deadline": NEVER, "Group": "", "IsOrphaned": False, "CompletedAt": NEVER,
        "Result": None,
    }  # fmt: skip


async def test_the_worker_gets_the_payload_as_the_bytes_that_were_sent(target: Target) -> None:
    worker = await target.register()
    for payload in (b'{ "a" :  1.50, "\\u00e9": [ ] }', b"null", b'"text"', b"[1, 2]", b"0.10"):
        body = b'{"data": %b ,"queue":"%b"}' % (payload, target.id.encode())
        assert (await target.http.post("/queue/add", content=body)).status_code == 200
        assert (await worker.next()).input == payload


async def test_without_data_all_other_fields_are_the_payload(target: Target) -> None:
    """Also those which mean something beside `data`: whoever sends no `data` does not know of them."""
    worker = await target.register()
    given = {"prompt": "a", "delay": "slowly", "unique": True, "run_at": None, "jobs": []}
    answer = (await add(target, timeout=7, **given)).json()
    taken = await worker.next()
    assert (orjson.loads(taken.input), taken.timeout) == (given, 7000)
    assert answer["data"] == given
    assert answer["info"]["state"] == "pending"


@pytest.mark.parametrize(
    ("name", "means"), [("{}", "default"), ("{}.default", "default"), ("{}.high", "high"), ("{}_high", "high")]
)
async def test_the_names_of_a_queue(target: Target, name: str, means: str) -> None:
    response = await target.http.post("/queue/add", json={"queue": name.format(target.id), "data": 1})
    assert response.json()["info"]["queue"] == f"{target.id}.{means}"


@pytest.mark.parametrize(
    "name", ["{}.none", "{}.off", "{}_off", "{}.", "{}.high.x", "{}_", "nowhere.high", ".", "ż.a", "a/b"]
)
async def test_a_queue_that_there_is_not(target: Target, name: str) -> None:
    name = name.format(target.id)
    response = await target.http.post("/queue/add", json={"queue": name, "data": 1})
    assert error(response, 404) == f"queue not found: {name if '.' in name else f'{name}.default'}"


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[]", "must be a JSON object"), (b"{}", "queue is required"),
     (b'{"queue":""}', "queue is required"), (b'{"queue":null}', "queue is required"),
     (b'{"queue":5}', "invalid queue field: "), (b'{"queue":"\xff"}', "not UTF-8"),
     (b'{"queue":"Q","timeout":"5"}', "invalid timeout field: "),
     (b'{"queue":"Q","timeout":1.5}', "invalid timeout field: "),
     (b'{"queue":"Q","data":1,"timeout":true}', "invalid timeout field: "),
     (b'{"queue":"Q","data":1,"delay":-1}', "invalid delay field: "),
     (b'{"queue":"Q","data":1,"delay":1e99}', "invalid delay field: "),
     (b'{"queue":"Q","data":1,"run_at":"soon"}', "invalid run_at field: "),
     (b'{"queue":"Q","data":1,"run_at":"2026-01-01T00:00:00"}', "invalid run_at field: "),
     (b'{"queue":"Q","data":1,"run_at":"9999-12-31T00:00:00Z"}', "invalid run_at field: "),
     (b'{"queue":"Q","data":1,"run_at":1,"delay":1}', "not both"),
     (b'{"queue":"Q","data":1,"unique":""}', "invalid unique field: "),
     (b'{"queue":"Q","data":1,"unique":5}', "invalid unique field: ")],
)  # fmt: skip
async def test_what_cannot_be_a_task(target: Target, body: bytes, says: str) -> None:
    response = await target.http.post("/queue/add", content=body.replace(b'"Q"', b'"%b"' % target.id.encode()))
    assert says in error(response, 400)


async def test_faults_are_told_in_runqy_s_order(make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT]})
    for body, status, says in (
        ({"timeout": "x", "data": {}}, 400, "queue is required"),
        ({"queue": "nowhere", "timeout": "x", "data": {}}, 404, "queue not found: nowhere.default"),
        ({"queue": target.id, "timeout": "x", "data": {}}, 400, "invalid timeout field: "),
        ({"queue": target.id, "timeout": 5, "data": {}}, 400, "prompt is required"),
    ):
        assert (error(await target.http.post("/queue/add", json=body), status)).startswith(says)


async def test_the_schema_of_a_queue(make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT, STEPS]})
    worker = await target.register()
    assert error(await add(target, data={}), 400) == "prompt is required"
    assert error(await add(target, data=[1]), 400) == (
        "invalid data payload: json: cannot unmarshal array into Go value of type map[string]interface {}"
    )
    assert error(await add(target, data={"prompt": 5}), 400) == (
        "field 'prompt' has type number, expected one of: string"
    )
    assert error(await add(target, steps=5), 400) == "prompt is required"
    answer = (await add(target, data={"prompt": "a", "other": 1.0})).json()
    assert answer["data"] == {"prompt": "a", "other": 1.0}
    assert base64.b64decode(answer["info"]["payload"]) == b'{"prompt":"a","other":1.0,"steps":20}'
    assert (await worker.next()).input == b'{"prompt":"a","other":1.0,"steps":20}'


async def test_a_schema_that_was_changed_counts_at_once(make_target: Make) -> None:
    """Another gateway, or this one, may have changed it: what was remembered is not good for the next task."""
    target = await make_target()
    assert (await add(target, data={})).status_code == 200
    await target.http.patch(f"/v1/endpoints/{target.id}", json={"queue": {"input": [PROMPT]}})
    assert error(await add(target, data={}), 400) == "prompt is required"
    await target.http.patch(
        f"/v1/endpoints/{target.id}", json={"queue": {"sub_queues": [{"name": "only", "priority": 1}]}}
    )
    assert error(await add(target, data={}), 404) == f"queue not found: {target.id}.default"
    assert (await add(target, "only", data={})).status_code == 200


async def test_an_endpoint_that_is_gone(make_target: Make) -> None:
    target = await make_target()
    assert (await add(target, data={})).status_code == 200
    await target.http.delete(f"/v1/endpoints/{target.id}")
    assert error(await add(target, data={}), 404) == f"queue not found: {target.id}.default"


async def test_the_timeout_of_a_task(make_target: Make) -> None:
    deployment = {
        "git_url": "https://git.example/code",
        "startup_cmd": "python main.py",
        "limits": {"active_timeout": "90s"},
    }
    limited, free = await make_target(queue={"deployment": deployment}), await make_target()
    for target, timeout, ms in (
        (free, {}, 604_800_000), (free, {"timeout": 0}, 604_800_000), (free, {"timeout": 300}, 300_000),
        (limited, {}, 90_000), (limited, {"timeout": -1}, 90_000), (limited, {"timeout": None}, 90_000),
        (limited, {"timeout": 5}, 5000),
    ):  # fmt: skip
        assert (await add(target, data=1, **timeout)).status_code == 200
        worker = await target.register()
        assert (await worker.next()).timeout == ms


async def test_what_is_frozen_when_a_task_is_queued(make_target: Make, admin: "redis.Redis") -> None:
    deployment = {
        "git_url": "https://git.example/code", "startup_cmd": "python main.py",
        "limits": {"max_retry": 5, "ttl_completed": "1h", "ttl_archived": "2h", "pending_timeout": "3m"},
    }  # fmt: skip
    target = await make_target(queue={"deployment": deployment})
    info = (await add(target, data=1)).json()["info"]
    assert info["max_retry"] == 5
    (job,) = (await target.register()).take()
    frozen = admin.hmget(f"{target.base}:job:{job.id}", "policy", "retention")
    assert frozen == [b"6 10000 180000 7200000 0", b"3600000"]


@pytest.mark.parametrize("when", ["delay", "text", "number"])
async def test_a_task_for_later(target: Target, when: str) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    given = {"delay": {"delay": 3600}, "text": {"run_at": at.isoformat()}, "number": {"run_at": at.timestamp()}}[when]
    info = (await add(target, data=1, **given)).json()["info"]
    assert info["state"] == "scheduled"
    assert abs(datetime.fromisoformat(info["NextProcessAt"]) - at) < timedelta(minutes=1)
    assert (await target.http.get(f"/queue/{info['id']}")).json()["info"]["state"] == "scheduled"
    assert not (await target.register()).take()


async def test_a_task_whose_time_has_come_already(target: Target) -> None:
    worker = await target.register()
    for at in ("2020-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", 0, -1e308):
        info = (await add(target, data=1, run_at=at)).json()["info"]
        assert info["state"] == "pending"
        assert (await worker.next()).id == info["id"]


async def test_a_task_runs_when_its_delay_is_over(target: Target) -> None:
    worker = await target.register()
    info = (await add(target, data=1, delay=0.2)).json()["info"]
    assert not worker.take()
    assert (await worker.next()).id == info["id"]


async def test_of_unique_tasks_there_is_one_at_a_time(target: Target) -> None:
    worker = await target.register()
    first = (await add(target, data=1, unique="nightly")).json()["info"]["id"]
    assert first in error(await add(target, "high", data=2, unique="nightly"), 409)
    assert (await add(target, data=1, unique="another")).status_code == 200
    worker.take(2)
    assert first in error(await add(target, data=2, unique="nightly"), 409)
    assert (await target.http.delete(f"/api/cli/tasks/{first}")).status_code == 200
    assert (await add(target, data=2, unique="nightly")).status_code == 200


async def test_a_task_may_be_unique_by_its_queue_and_payload(target: Target) -> None:
    assert (await add(target, data={"a": 1}, unique=True)).status_code == 200
    assert (await add(target, data={"a": 1}, unique=True)).status_code == 409
    assert (await add(target, data={"a": 2}, unique=True)).status_code == 200
    assert (await add(target, "high", data={"a": 1}, unique=True)).status_code == 200
    assert (await add(target, data={"a": 1}, unique=False)).status_code == 200
    assert (await add(target, data={"a": 1})).status_code == 200


async def test_an_idempotency_key(target: Target) -> None:
    async def send(data: Any, key: str) -> httpx.Response:
        body = {"queue": target.id, "data": data}
        return await target.http.post("/queue/add", json=body, headers={"Idempotency-Key": key})

    first, again = (await send(1, "k")).json(), (await send(1, "k")).json()
    assert first["info"]["id"] == again["info"]["id"]
    assert (await send(1, "other")).json()["info"]["id"] != first["info"]["id"]
    assert first["info"]["id"] in error(await send(2, "k"), 409)
    assert "Idempotency-Key" in error(await send(1, "k" * 257), 400)


async def test_a_body_over_the_limit(target: Target) -> None:
    body = b'{"queue":"%b","data":"%b"}' % (target.id.encode(), b"a" * 52_428_800)
    assert "52428800" in error(await target.http.post("/queue/add", content=body), 413)


async def test_a_queue_that_is_full(make_target: Make) -> None:
    target = await make_target(maxQueued=1)
    assert (await add(target, data=1)).status_code == 200
    response = await add(target, data=1)
    assert "full" in error(response, 429)
    assert response.headers["retry-after"]
