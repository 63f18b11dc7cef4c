"""POST /queue/add-batch."""

from typing import Any

import httpx
import orjson
import pytest

from ..clients import Target
from ..conftest import Make

PROMPT = {"name": "prompt", "type": ["string"]}
STEPS = {"name": "steps", "type": ["int"], "required": False, "default": 20}


async def add(target: Target, jobs: Any, **fields: Any) -> httpx.Response:
    return await target.http.post("/queue/add-batch", json={"queue": target.id, "jobs": jobs, **fields})


async def added(target: Target, jobs: Any, **fields: Any) -> dict[str, Any]:
    """The answer to a batch of which the request itself is good."""
    response = await add(target, jobs, **fields)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_batch_in_its_order(target: Target) -> None:
    worker = await target.register()
    answer = await added(target, [{"data": {"n": n}} for n in range(5)])
    assert answer | {"task_ids": []} == {"enqueued": 5, "failed": 0, "task_ids": [], "errors": [], "failures": []}
    taken = worker.take(5)
    assert [job.id for job in taken] == answer["task_ids"]
    assert [orjson.loads(job.input) for job in taken] == [{"n": n} for n in range(5)]


async def test_data_is_the_payload_as_the_bytes_that_were_sent(target: Target) -> None:
    worker = await target.register()
    payloads = [b'{ "a" : 1.50 }', b"null", b'"\\u00e9"', b"[ ]"]
    jobs = b",".join(b'{"timeout":5,"data": %b }' % payload for payload in payloads)
    body = b'{"jobs":[%b],"queue":"%b"}' % (jobs, target.id.encode())
    assert (await target.http.post("/queue/add-batch", content=body)).json()["enqueued"] == 4
    assert [job.input for job in worker.take(4)] == payloads


async def test_a_job_without_data_is_its_own_payload(target: Target) -> None:
    worker = await target.register()
    await added(target, [{"prompt": "a", "timeout": 5}, {"prompt": "b", "delay": "later"}])
    assert [orjson.loads(job.input) for job in worker.take(2)] == [{"prompt": "a"}, {"prompt": "b", "delay": "later"}]


async def test_each_job_may_have_its_timeout(target: Target) -> None:
    worker = await target.register()
    await added(target, [{"data": 1}, {"data": 1, "timeout": 5}, {"data": 1, "timeout": 0}], timeout=7)
    assert [job.timeout for job in worker.take(3)] == [7000, 5000, 604_800_000]


async def test_the_jobs_that_cannot_be_are_named_and_the_others_are_added(make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT, STEPS]})
    worker = await target.register()
    answer = await added(
        target,
        [{"data": {"prompt": "a"}}, {"data": {}}, 5, {"data": {"prompt": "b", "steps": "x"}}, {"data": [1]},
         {"data": {"prompt": "c"}, "timeout": "soon"}, {"data": {"prompt": "d", "steps": 3}}, None, {}],
    )  # fmt: skip
    faults = [
        (1, "prompt is required"),
        (2, "a job must be a JSON object"),
        (3, "field 'steps' has type string, expected one of: int"),
        (4, "invalid data payload: json: cannot unmarshal array into Go value of type map[string]interface {}"),
        (5, "invalid timeout field: must be a whole number of seconds"),
        (7, "a job must be a JSON object"),
        (8, "prompt is required"),
    ]
    assert answer["failures"] == [{"index": index, "error": error} for index, error in faults]
    assert answer["errors"] == [f"job {index}: {error}" for index, error in faults]
    assert (answer["enqueued"], answer["failed"]) == (2, 7)
    taken = worker.take(5)
    assert [job.id for job in taken] == answer["task_ids"]
    assert [job.input for job in taken] == [b'{"prompt":"a","steps":20}', b'{"prompt":"d","steps":3}']


async def test_all_jobs_may_be_wrong(make_target: Make) -> None:
    target = await make_target(queue={"input": [PROMPT]})
    answer = await added(target, [{"data": {}}, {"data": {}}])
    assert (answer["enqueued"], answer["failed"], answer["task_ids"]) == (0, 2, [])


async def test_unique_jobs_of_one_batch(target: Target) -> None:
    answer = await added(target, [{"data": n, "unique": key} for n, key in enumerate("aab")])
    assert (answer["enqueued"], [each["index"] for each in answer["failures"]]) == (2, [1])
    assert answer["task_ids"][0] in answer["errors"][0]
    again = await added(target, [{"data": 0, "unique": "b"}, {"data": 0, "unique": "c"}])
    assert [each["index"] for each in again["failures"]] == [0]


async def test_jobs_for_later(target: Target) -> None:
    answer = await added(target, [{"data": 1, "delay": 3600}, {"data": 2}])
    taken = (await target.register()).take(2)
    assert [job.id for job in taken] == answer["task_ids"][1:]


async def test_a_queue_that_is_full_takes_the_first_of_them(make_target: Make) -> None:
    target = await make_target(maxQueued=3)
    answer = await added(target, [{"data": n} for n in range(5)])
    assert (answer["enqueued"], [each["index"] for each in answer["failures"]]) == (3, [3, 4])
    assert "full" in answer["errors"][0]


@pytest.mark.parametrize("number", [999, 1001, 2500])
async def test_more_jobs_than_go_in_one_call(make_target: Make, number: int) -> None:
    target = await make_target(queue={"input": [PROMPT]})
    jobs: list[Any] = [{"data": {"prompt": str(n)}} for n in range(number)]
    jobs[number // 2] = {"data": {}}
    answer = await added(target, jobs)
    assert (answer["enqueued"], [each["index"] for each in answer["failures"]]) == (number - 1, [number // 2])
    assert len(set(answer["task_ids"])) == number - 1
    assert (await target.health())["jobs"]["inQueue"] == number - 1


async def test_a_schema_that_was_changed_meanwhile(make_target: Make) -> None:
    target = await make_target()
    assert (await added(target, [{"data": {}}]))["enqueued"] == 1
    await target.http.patch(f"/v1/endpoints/{target.id}", json={"queue": {"input": [PROMPT]}})
    answer = await added(target, [{"data": {}}, {"data": {"prompt": "a"}}])
    assert (answer["enqueued"], answer["errors"]) == (1, ["job 0: prompt is required"])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [({}, 400, "queue is required"), ({"queue": "Q"}, 400, "jobs is required"),
     ({"queue": "Q", "jobs": None}, 400, "jobs is required"),
     ({"queue": "Q", "jobs": []}, 400, "jobs array cannot be empty"),
     ({"queue": "Q", "jobs": {}}, 400, "invalid jobs field: "),
     ({"queue": 1, "jobs": [{}]}, 400, "invalid queue field: "),
     ({"queue": "Q", "jobs": [{}], "timeout": "x"}, 400, "invalid timeout field: "),
     ({"queue": "nowhere", "jobs": [{}]}, 404, "queue not found: nowhere.default"),
     ({"tasks": [{"queue": "Q", "data": {}}]}, 400, "queue is required"), ([], 400, "the body must be a JSON object")],
)  # fmt: skip
async def test_a_request_that_is_wrong(target: Target, body: Any, status: int, says: str) -> None:
    sent = orjson.dumps(body).replace(b'"Q"', b'"%b"' % target.id.encode())
    response = await target.http.post("/queue/add-batch", content=sent)
    assert response.status_code == status, response.text
    assert response.json()["errors"][0].startswith(says)
    assert (await target.health())["jobs"]["inQueue"] == 0
