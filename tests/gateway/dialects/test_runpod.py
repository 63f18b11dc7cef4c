import asyncio
import itertools
import json
import time
import uuid
from typing import Any

import pytest
import redis

from gateway.store import LIBRARY

from ..clients import MINUTE_MS, Target, Worker
from ..conftest import Make
from ..waiting import eventually, still_waits

DAY_MS = 86_400_000
WEEK_MS = 7 * DAY_MS
SLACK_MS = 5_000

RAW = [
    "null", "0", "-0", "false", '""', "[]", "{}", '"12345"', "1.50", "1E+2", "1234567890123456789",
    "123456789012345678901234567890", "0.1000000000000000055511151231257827",
    '"zażółć 日本 🦙"', r'"\u00e9\ud83e\udd99\/\n"',
    '{"b": 1,  "a":\t[ 2 ]}', '{"k": 1, "k": 2}', "[" * 400 + "]" * 400,
]  # fmt: skip
"""JSON that a decoder followed by an encoder would change, or that a careless test for truth would drop."""

NAMES = {raw: raw[:12] for raw in RAW}


@pytest.fixture(params=RAW, ids=NAMES.get)
def raw(request: pytest.FixtureRequest) -> bytes:
    return str(request.param).encode()


def now_ms() -> float:
    return time.time() * 1000


def forgotten_at(admin: "redis.Redis", target: Target, job: str) -> float:
    """The time at which upkeep will forget the job, in ms since the epoch."""
    score = admin.zscore(f"{target.base}:lifetimes", job)
    assert isinstance(score, float)
    return score


# /run


async def test_run_answers_with_a_uuid(target: Target) -> None:
    response = await target.post("/run", {"input": {"prompt": "x"}})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"id", "status"}
    assert response.json()["status"] == "IN_QUEUE"
    assert str(uuid.UUID(response.json()["id"])) == response.json()["id"]


async def test_the_worker_gets_the_input_byte_for_byte(target: Target, worker: Worker, raw: bytes) -> None:
    response = await target.post("/run", b' {"policy":{}, "input" : ' + raw + b' ,"x":1}')
    assert response.status_code == 200, response.text
    (job,) = worker.take()
    assert job.input == raw


async def test_the_worker_gets_the_other_fields(target: Target, worker: Worker) -> None:
    fields = {"webhook": "http://127.0.0.1:9/é", "webhookV2": None, "policy": {"lowPriority": False},
              "s3Config": {"accessId": "a", "n": 1.5}, "mine": [None]}  # fmt: skip
    await target.run(1, **fields)
    (job,) = worker.take()
    assert json.loads(job.request) == fields


async def test_without_other_fields_the_worker_gets_none(target: Target, worker: Worker) -> None:
    await target.run(1)
    assert worker.take()[0].request == b""


async def test_a_body_with_a_byte_less_than_the_limit_is_taken(target: Target, worker: Worker) -> None:
    text = b'"' + b"x" * (10_000_000 - 12 - 2) + b'"'
    response = await target.post("/run", b'{"input": ' + text + b" }")
    assert response.status_code == 200, response.text
    assert worker.take()[0].input == text


# /runsync


async def test_runsync_answers_when_the_job_is_final(target: Target, worker: Worker) -> None:
    answer = asyncio.create_task(target.post("/runsync", {"input": 1}))
    job = await worker.next()
    assert await still_waits(answer)
    worker.finish(job, b'{"text":"hi"}')
    response = await answer
    assert response.status_code == 200
    prefix, _, rest = job.id.partition("-")
    assert (prefix, str(uuid.UUID(rest))) == ("sync", rest)
    assert response.json()["output"] == {"text": "hi"}
    assert response.json() == await target.status(job.id)


async def test_runsync_answers_with_a_failure(target: Target, worker: Worker) -> None:
    answer = asyncio.create_task(target.post("/runsync", {"input": 1}))
    job = await worker.next()
    worker.fail(job, 'broke: "é"')
    response = await answer
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["error"]) == ("FAILED", 'broke: "é"')
    assert response.json() == await target.status(job.id)


async def test_runsync_answers_when_the_job_is_cancelled(target: Target, worker: Worker) -> None:
    answer = asyncio.create_task(target.post("/runsync", {"input": 1}))
    job = await worker.next()
    await target.post(f"/cancel/{job.id}")
    assert (await answer).json() == await target.status(job.id)


async def test_runsync_not_in_time_answers_with_the_queued_job(target: Target) -> None:
    response = await target.post("/runsync?wait=1000", {"input": 1})
    assert response.status_code == 200
    assert response.json()["status"] == "IN_QUEUE"
    assert response.json() == await target.status(response.json()["id"])


async def test_runsync_not_in_time_answers_with_the_running_job(target: Target, worker: Worker) -> None:
    answer = asyncio.create_task(target.post("/runsync?wait=1000", {"input": 1}))
    job = await worker.next()
    worker.progress(job, b'"half"')
    response = await answer
    assert (response.json()["status"], response.json()["output"]) == ("IN_PROGRESS", "half")
    assert response.json() == await target.status(job.id)


async def test_a_job_goes_on_after_runsync_has_answered(target: Target, worker: Worker) -> None:
    response = await target.post("/runsync?wait=1000", {"input": 1})
    job = await worker.next()
    worker.finish(job, b"2")
    assert job.id == response.json()["id"]
    assert (await target.status(job.id))["output"] == 2


@pytest.mark.parametrize("wait", ["999", "300001", "-1", "1.5", "abc", "", "1e3", "²", "9" * 30])
async def test_wait_out_of_its_range(target: Target, wait: str) -> None:
    job = await target.run(1)
    for response in (
        await target.post("/runsync", {"input": 1}, params={"wait": wait}),
        await target.get(f"/status-sync/{job}", params={"wait": wait}),
    ):
        assert response.status_code == 400
        assert "wait must be 1000 to 300000 ms" in response.json()["error"]
    assert (await target.health())["jobs"]["inQueue"] == 1


# /status


async def test_status_of_each_state_has_its_fields(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    queued = await target.status(id)
    (job,) = worker.take()
    running = await target.status(id)
    worker.finish(job)
    done = await target.status(id)
    assert queued.keys() == {"id", "status", "position", "reason", "workers"}
    assert running.keys() == {"id", "status", "delayTime", "workerId"}
    assert done.keys() == {"id", "status", "delayTime", "executionTime", "workerId", "output"}
    assert [found["status"] for found in (queued, running, done)] == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
    assert done["workerId"] == "w1"
    assert done["delayTime"] == running["delayTime"] >= 0
    assert 0 <= done["executionTime"] < 60_000


async def test_status_by_post(target: Target) -> None:
    id = await target.run(1)
    assert (await target.post(f"/status/{id}")).json() == await target.status(id)


async def test_a_failed_job_has_an_error_and_no_output(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    worker.fail(worker.take()[0], "no luck")
    found = await target.status(id)
    assert (found["status"], found["error"]) == ("FAILED", "no luck")
    assert "output" not in found


async def test_a_generator_s_job_has_no_output(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    worker.end(worker.take()[0])
    assert "output" not in await target.status(id)


async def test_output_comes_back_byte_for_byte(target: Target, worker: Worker, raw: bytes) -> None:
    answer = asyncio.create_task(target.post("/runsync", {"input": 1}))
    job = await worker.next()
    worker.finish(job, raw)
    status = await target.get(f"/status/{job.id}")
    assert status.content.endswith(b'"output":' + raw + b"}")
    assert (await answer).content == status.content
    assert (await target.get(f"/status-sync/{job.id}")).content == status.content


async def test_a_large_output_comes_back_byte_for_byte(target: Target, worker: Worker) -> None:
    raw = b'["' + "ł".encode() * 100_000 + b'" ]'  # more than a wake-up carries
    answer = asyncio.create_task(target.post("/runsync", {"input": 1}))
    job = await worker.next()
    worker.finish(job, raw)
    assert (await answer).content.endswith(b'"output":' + raw + b"}")


async def test_progress_is_the_output_while_the_job_runs(target: Target, worker: Worker, raw: bytes) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    worker.progress(job, b'"earlier"')
    worker.progress(job, raw)
    assert (await target.get(f"/status/{id}")).content.endswith(b'"output":' + raw + b"}")


async def test_ttl_of_status_sets_the_time_to_live_anew(target: Target, admin: "redis.Redis") -> None:
    id = await target.run(1)
    before = now_ms()
    assert (await target.get(f"/status/{id}?ttl=20000")).status_code == 200
    assert before + 20_000 - SLACK_MS < forgotten_at(admin, target, id) < now_ms() + 20_000 + SLACK_MS


@pytest.mark.parametrize("ttl", ["9999", "604800001", "x"])
async def test_ttl_out_of_its_range(target: Target, ttl: str) -> None:
    id = await target.run(1)
    for response in (
        await target.get(f"/status/{id}?ttl={ttl}"),
        await target.post(f"/run?ttl={ttl}", {"input": 1}),
        await target.post(f"/runsync?ttl={ttl}", {"input": 1}),
    ):
        assert response.status_code == 400
        assert "ttl must be 10000 to 604800000 ms" in response.json()["error"]
    assert await target.listed() == [id]


# /status-sync


async def test_status_sync_is_held_until_the_job_is_final(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    answer = asyncio.create_task(target.get(f"/status-sync/{id}"))
    (job,) = worker.take()
    assert await still_waits(answer)
    worker.finish(job, b'"done"')
    assert (await answer).json() == await target.status(id)
    assert (await answer).json()["output"] == "done"


async def test_status_sync_not_in_time(target: Target) -> None:
    id = await target.run(1)
    response = await target.get(f"/status-sync/{id}?wait=1000")
    assert response.status_code == 200
    assert response.json() == await target.status(id)


async def test_many_may_wait_for_one_job(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    answers = [asyncio.create_task(target.get(f"/status-sync/{id}")) for _ in range(50)]
    assert await still_waits(answers[-1])
    worker.finish(worker.take()[0], b'"for all"')
    assert {(await answer).content for answer in answers} == {(await target.get(f"/status/{id}")).content}


# final is final


async def test_nothing_changes_a_completed_job(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    worker.finish(job, b'"first"')
    before = await target.status(id)
    assert worker.progress(job, b'"late"') == [b"STALE", b"COMPLETED"]
    assert worker.emit(job, 1, b'"late"') == [b"STALE", b"COMPLETED"]
    worker.finish(job, b'"second"')
    worker.fail(job)
    assert (await target.post(f"/cancel/{id}")).json()["status"] == "COMPLETED"
    assert await target.status(id) == before


async def test_a_result_after_cancel_changes_nothing(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    await target.post(f"/cancel/{id}")
    before = await target.status(id)
    assert worker.finish(job, b'"late"') == [b"STALE", b"CANCELLED"]
    assert await target.status(id) == before
    assert before["status"] == "CANCELLED"


async def test_a_result_of_an_old_attempt_is_refused(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (old,) = worker.take()
    worker.lose(old)
    (new,) = worker.take()
    assert (new.id, new.attempt) == (id, 2)
    assert worker.finish(old, b'"old"') == [b"STALE", b"IN_PROGRESS"]
    worker.finish(new, b'"new"')
    assert (await target.status(id))["output"] == "new"


async def test_a_job_fails_after_its_last_attempt(make_target: Make) -> None:
    target = await make_target(attempts=2)
    worker = await target.register()
    id = await target.run(1)
    for _ in range(2):
        worker.lose(worker.take()[0], "the worker died")
    found = await target.status(id)
    assert found["status"] == "FAILED"
    assert "the worker died" in found["error"]
    assert "2" in found["error"]


# /cancel


async def test_cancel_of_a_queued_job(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    response = await target.post(f"/cancel/{id}")
    assert response.status_code == 200
    assert response.json() == {"id": id, "status": "CANCELLED"}
    assert worker.take() == []
    assert (await target.status(id))["status"] == "CANCELLED"


async def test_cancel_of_a_running_job_tells_the_worker(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    (job,) = worker.take()
    with worker.store.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.ssubscribe(f"{target.base}:stops:w1")
        await eventually(lambda: subscribed(worker))
        response = await target.post(f"/cancel/{id}")
        message = await eventually(lambda: received(subscription))
    assert response.json().keys() == {"id", "status", "delayTime", "executionTime"}
    assert response.json()["status"] == "CANCELLED"
    assert message == f"{id} 1 CANCELLED"
    assert worker.stopped(job) == [(id, 1, "CANCELLED")]


async def subscribed(worker: Worker) -> bool:
    return bool(worker.call("renew", worker.id, 60_000, 1, "ready", "") == [])


async def received(subscription: Any) -> str:
    message = subscription.get_message(timeout=0.01)
    return message["data"].decode() if message and message["type"] == "smessage" else ""


async def test_cancel_twice(target: Target) -> None:
    id = await target.run(1)
    answers = [await target.post(f"/cancel/{id}") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()


async def test_cancel_needs_no_body_and_ignores_one(target: Target) -> None:
    id = await target.run(1)
    response = await target.post(f"/cancel/{id}", b"not JSON")
    assert response.json() == {"id": id, "status": "CANCELLED"}


# /retry


async def test_retry_of_a_failed_job(target: Target, worker: Worker) -> None:
    id = await target.run({"n": 1}, webhook="http://127.0.0.1:9/")
    (first,) = worker.take()
    worker.emit(first, 1, b'"old chunk"')
    worker.fail(first)
    response = await target.post(f"/retry/{id}")
    assert (response.status_code, response.json()) == (200, {"id": id, "status": "IN_QUEUE"})
    assert (await target.status(id)).keys() == {"id", "status", "position", "reason", "workers"}
    (second,) = worker.take()
    assert (second.id, second.input, second.request) == (id, first.input, first.request)
    assert second.attempt > first.attempt
    worker.emit(second, 1, b'"new chunk"')
    worker.finish(second, b'"good"')
    assert (await target.poll(id))["stream"] == [{"output": "new chunk"}]
    assert (await target.status(id))["output"] == "good"


async def test_retry_of_a_timed_out_job(target: Target, worker: Worker, admin: "redis.Redis") -> None:
    id = await target.run(1)
    worker.take()
    await time_out(target, admin, id)
    assert (await target.post(f"/retry/{id}")).status_code == 200
    assert worker.take()[0].id == id


async def test_a_retried_job_has_all_its_attempts_again(make_target: Make) -> None:
    target = await make_target(attempts=1)
    worker = await target.register()
    id = await target.run(1)
    for _ in range(2):
        worker.lose(worker.take()[0])
        assert (await target.status(id))["status"] == "FAILED"
        assert (await target.post(f"/retry/{id}")).status_code == 200
    assert len(worker.take()) == 1


@pytest.mark.parametrize("state", ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "CANCELLED"])
async def test_retry_in_any_other_state_is_a_conflict(target: Target, worker: Worker, state: str) -> None:
    id = await target.run(1)
    if state in ("IN_PROGRESS", "COMPLETED"):
        (job,) = worker.take()
    if state == "COMPLETED":
        worker.finish(job)
    if state == "CANCELLED":
        await target.post(f"/cancel/{id}")
    before = await target.status(id)
    response = await target.post(f"/retry/{id}")
    assert response.status_code == 409
    assert state in response.json()["error"]
    assert await target.status(id) == before


# /purge-queue


async def test_purge_removes_what_waits_and_nothing_else(target: Target, worker: Worker) -> None:
    running = await target.run(1)
    (job,) = worker.take()
    waiting = [await target.run(1, policy={"lowPriority": low}) for low in (False, True, False)]
    response = await target.post("/purge-queue")
    assert (response.status_code, response.json()) == (200, {"removed": 3, "status": "completed"})
    assert {(await target.status(id))["status"] for id in waiting} == {"CANCELLED"}
    assert (await target.status(running))["status"] == "IN_PROGRESS"
    worker.finish(job)
    assert (await target.status(running))["status"] == "COMPLETED"
    assert worker.take() == []


async def test_purge_of_an_empty_queue(target: Target) -> None:
    assert (await target.post("/purge-queue")).json() == {"removed": 0, "status": "completed"}


async def test_purge_of_more_than_a_step(target: Target, admin: "redis.Redis") -> None:
    jobs = [(f"job-{i}", "1", "normal", 0, DAY_MS, MINUTE_MS, "", "", "", "", "", 1, "", "", "") for i in range(1200)]
    admin.fcall(f"{LIBRARY}_submit", 1, target.base, *itertools.chain(*jobs))
    assert (await target.post("/purge-queue")).json()["removed"] == 1200
    assert (await target.health())["jobs"]["inQueue"] == 0


async def test_purge_takes_what_waits_for_a_later_retry(make_target: Make) -> None:
    target = await make_target(retryDelaySeconds=600)
    worker = await target.register()
    id = await target.run(1)
    worker.lose(worker.take()[0])
    assert (await target.post("/purge-queue")).json()["removed"] == 1
    assert (await target.status(id))["status"] == "CANCELLED"


# /health


async def test_health_of_a_new_endpoint(target: Target) -> None:
    assert await target.health() == {
        "jobs": {"completed": 0, "failed": 0, "inProgress": 0, "inQueue": 0, "retried": 0},
        "workers": {"idle": 0, "initializing": 0, "ready": 0, "running": 0, "throttled": 0, "unhealthy": 0},
    }


async def test_health_counts_jobs(target: Target, worker: Worker, admin: "redis.Redis") -> None:
    ids = [await target.run(1) for _ in range(6)]
    done, failed, late, again, running = worker.take(5)
    worker.finish(done)
    worker.fail(failed)
    await time_out(target, admin, late.id)
    worker.lose(again)
    await target.post(f"/cancel/{ids[5]}")
    assert (await target.health())["jobs"] == {
        "completed": 1, "failed": 2, "inProgress": 1, "inQueue": 1, "retried": 1,
    }  # fmt: skip
    assert (await target.status(running.id))["status"] == "IN_PROGRESS"


async def test_health_counts_workers(target: Target) -> None:
    workers = [await target.register(f"w{i}") for i in range(4)]
    assert (await target.health())["workers"]["initializing"] == 4
    for worker in workers[:2]:
        worker.ready()
    workers[2].ready("unhealthy")
    await target.run(1)
    workers[0].take()
    assert (await target.health())["workers"] == {
        "idle": 1, "initializing": 1, "ready": 2, "running": 1, "throttled": 0, "unhealthy": 1,
    }  # fmt: skip


# /requests


async def test_requests_lists_jobs_without_their_output(target: Target, worker: Worker) -> None:
    id = await target.run(1)
    worker.finish(worker.take()[0], b'"secret"')
    response = await target.get("/requests")
    status = await target.status(id)
    del status["output"]
    assert (response.status_code, response.json()) == (200, {"requests": [status], "next": None})


async def test_requests_page_by_page(target: Target) -> None:
    ids = await asyncio.gather(*(target.run(1) for _ in range(25)))
    found: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        query = {"limit": 10} | ({"cursor": cursor} if cursor else {})
        page = (await target.get("/requests", params=query)).json()
        assert len(page["requests"]) <= 10
        found += [job["id"] for job in page["requests"]]
        cursor, pages = page["next"], pages + 1
        assert pages < 10
    assert sorted(found) == sorted(ids)


async def test_requests_of_one_state(target: Target, worker: Worker) -> None:
    ids = [await target.run(1) for _ in range(3)]
    worker.finish(worker.take()[0])
    await target.post(f"/cancel/{ids[1]}")
    for state, id in zip(("COMPLETED", "CANCELLED", "IN_QUEUE"), ids, strict=True):
        assert await target.listed(status=state) == [id]
    assert await target.listed(status="FAILED") == []


async def test_requests_of_one_state_page_by_page(target: Target) -> None:
    ids = await asyncio.gather(*(target.run(1) for _ in range(60)))
    for id in ids[::20]:
        await target.post(f"/cancel/{id}")
    found: list[str] = []
    cursor = None
    for _ in range(70):
        query = {"limit": 1, "status": "CANCELLED"} | ({"cursor": cursor} if cursor else {})
        page = (await target.get("/requests", params=query)).json()
        found += [job["id"] for job in page["requests"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert cursor is None
    assert sorted(found) == sorted(ids[::20])


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=", "status=DONE", "status=", "cursor=x", "cursor=1",
     "cursor=1.02", "cursor=1.2.3", "cursor=(5.1", "cursor=", f"cursor={'9' * 99}.0"],
)  # fmt: skip
async def test_requests_refuses_what_it_cannot_understand(target: Target, query: str) -> None:
    response = await target.get(f"/requests?{query}")
    assert response.status_code == 400
    assert query.partition("=")[0] in response.json()["error"]


# policy, times, retention


@pytest.mark.parametrize("ms", [5_000, WEEK_MS])
async def test_an_execution_timeout_reaches_the_worker(target: Target, worker: Worker, ms: int) -> None:
    await target.run(1, policy={"executionTimeout": ms})
    assert worker.take()[0].timeout == ms


async def test_without_one_the_endpoint_s_execution_timeout_counts(make_target: Make) -> None:
    target = await make_target(executionTimeoutMs=7_000)
    await target.run(1, policy={"executionTimeout": None})
    assert (await target.register()).take()[0].timeout == 7_000


async def test_the_default_execution_timeout_is_ten_minutes(target: Target, worker: Worker) -> None:
    await target.run(1)
    assert worker.take()[0].timeout == 600_000


async def time_out(target: Target, admin: "redis.Redis", job: str) -> None:
    """Lets the job's execution timeout be over now."""
    assert admin.zadd(f"{target.base}:timeouts", {job: 1}, xx=True, ch=True) == 1

    async def look() -> bool:
        return (await target.status(job))["status"] == "TIMED_OUT"

    await eventually(look)


async def test_a_job_that_runs_too_long_is_timed_out(target: Target, worker: Worker, admin: "redis.Redis") -> None:
    id = await target.run(1, policy={"executionTimeout": 5_000})
    (job,) = worker.take()
    started = now_ms()
    ends = admin.zscore(f"{target.base}:timeouts", id)
    assert isinstance(ends, float)
    assert abs(ends - started - 5_000) < SLACK_MS
    await time_out(target, admin, id)
    assert worker.stopped(job) == [(id, 1, "TIMED_OUT")]
    assert worker.finish(job) == [b"STALE", b"TIMED_OUT"]


async def test_the_execution_timeout_counts_only_while_the_job_runs(target: Target, admin: "redis.Redis") -> None:
    await target.run(1, policy={"executionTimeout": 5_000})
    assert admin.zcard(f"{target.base}:timeouts") == 0


@pytest.mark.parametrize(
    ("query", "policy", "ttl"),
    [("", {}, DAY_MS), ("", {"ttl": 10_000}, 10_000), ("", {"ttl": WEEK_MS}, WEEK_MS), ("?ttl=15000", {}, 15_000),
     ("", {"ttl": None}, DAY_MS)],
)  # fmt: skip
async def test_the_time_to_live(
    target: Target, worker: Worker, admin: "redis.Redis", query: str, policy: dict[str, Any], ttl: int
) -> None:
    before = now_ms()
    id = (await target.post(f"/run{query}", {"input": 1, "policy": policy})).json()["id"]
    assert [job.id for job in worker.take()] == [id]
    assert before + ttl - SLACK_MS < forgotten_at(admin, target, id) < now_ms() + ttl + SLACK_MS


@pytest.mark.parametrize("taken", [False, True])
async def test_a_job_is_gone_when_its_time_to_live_ends(
    target: Target, worker: Worker, admin: "redis.Redis", taken: bool
) -> None:
    id = await target.run(1)
    jobs = worker.take() if taken else []
    admin.zadd(f"{target.base}:lifetimes", {id: 1})

    async def gone() -> bool:
        return (await target.get(f"/status/{id}")).status_code == 404

    await eventually(gone)
    assert worker.take() == []
    assert worker.stopped(*jobs) == [(job.id, 1, "GONE") for job in jobs]
    assert await target.listed() == []
    assert (await target.health())["jobs"]["inProgress"] == 0


@pytest.mark.parametrize(("path", "seconds"), [("/run", 1800), ("/runsync?wait=1000", 60)])
async def test_how_long_a_result_is_kept(
    target: Target, worker: Worker, admin: "redis.Redis", path: str, seconds: int
) -> None:
    id = (await target.post(path, {"input": 1})).json()["id"]
    (job,) = worker.take()
    worker.emit(job, 1, b"1")
    before = now_ms()
    worker.finish(job)
    assert before + seconds * 1000 - SLACK_MS < forgotten_at(admin, target, id) < now_ms() + seconds * 1000 + SLACK_MS
    for key in (f"{target.base}:job:{id}", f"{target.base}:chunks:{id}"):
        assert seconds <= admin.ttl(key) <= seconds + 120


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"executionTimeout": 4_999}, ("policy.executionTimeout", "5000", "604800000")),
        ({"executionTimeout": WEEK_MS + 1}, ("policy.executionTimeout", "5000", "604800000")),
        ({"executionTimeout": "10000"}, ("policy.executionTimeout", "5000", "604800000")),
        ({"executionTimeout": 10_000.5}, ("policy.executionTimeout", "5000", "604800000")),
        ({"executionTimeout": True}, ("policy.executionTimeout", "5000", "604800000")),
        ({"executionTimeout": 10**30}, ("policy.executionTimeout", "5000", "604800000")),
        ({"ttl": 9_999}, ("policy.ttl", "10000", "604800000")),
        ({"ttl": WEEK_MS + 1}, ("policy.ttl", "10000", "604800000")),
        ({"ttl": []}, ("policy.ttl", "10000", "604800000")),
        ({"lowPriority": "yes"}, ("policy.lowPriority",)),
        ({"lowPriority": 1}, ("policy.lowPriority",)),
        ([], ("policy", "object")),
        ("high", ("policy", "object")),
        (5, ("policy", "object")),
    ],
)  # fmt: skip
async def test_a_policy_that_cannot_be(target: Target, policy: Any, says: tuple[str, ...]) -> None:
    for path in ("/run", "/runsync"):
        response = await target.post(path, {"input": 1, "policy": policy})
        assert response.status_code == 400
        assert all(word in response.json()["error"] for word in says), response.text
    assert await target.listed() == []


async def test_low_priority_is_served_after_everything_else(target: Target, worker: Worker) -> None:
    low = [await target.run(1, policy={"lowPriority": True}) for _ in range(2)]
    normal = [await target.run(1) for _ in range(2)]
    assert [job.id for job in worker.take(4)] == [*normal, *low]


# why a job waits


async def test_a_queued_job_says_that_there_are_no_workers(target: Target) -> None:
    found = await target.status(await target.run(1))
    assert (found["position"], found["reason"]) == (1, "no_workers")
    assert found["workers"] == {"initializing": 0, "idle": 0, "running": 0, "unhealthy": 0, "crashing": 0}


async def test_a_queued_job_says_that_workers_load(target: Target, worker: Worker) -> None:
    found = await target.status(await target.run(1))
    assert (found["reason"], found["workers"]["initializing"]) == ("workers_initializing", 1)


async def test_a_queued_job_says_that_all_are_busy(target: Target, worker: Worker) -> None:
    worker.ready()
    await target.run(1)
    worker.take()
    found = await target.status(await target.run(1))
    assert (found["position"], found["reason"], found["workers"]["running"]) == (1, "at_capacity", 1)


@pytest.mark.parametrize("state", ["unhealthy", "crashing"])
async def test_a_queued_job_says_that_its_workers_are_unhealthy(target: Target, worker: Worker, state: str) -> None:
    worker.ready(state)
    assert (await target.status(await target.run(1)))["reason"] == f"workers_{state}"
    assert (await target.health())["workers"]["unhealthy"] == 1


async def test_a_job_says_that_it_waits_for_its_retry(make_target: Make) -> None:
    target = await make_target(retryDelaySeconds=600)
    worker = await target.register()
    id = await target.run(1)
    worker.lose(worker.take()[0])
    found = await target.status(id)
    assert (found["status"], found["position"], found["reason"]) == ("IN_QUEUE", None, "retry_delayed")


async def test_positions_follow_the_order_of_service(target: Target, worker: Worker) -> None:
    low = await target.run(1, policy={"lowPriority": True})
    normal = [await target.run(1) for _ in range(3)]
    assert [(await target.status(id))["position"] for id in (*normal, low)] == [1, 2, 3, 4]
    worker.take()
    assert [(await target.status(id))["position"] for id in (*normal[1:], low)] == [1, 2, 3]


# Idempotency-Key


@pytest.mark.parametrize("path", ["/run", "/runsync?wait=1000"])
async def test_a_repeat_finds_the_same_job(target: Target, path: str) -> None:
    headers = {"Idempotency-Key": "order-1"}
    first, second = await asyncio.gather(*(target.post(path, {"input": 1}, headers=headers) for _ in range(2)))
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json()["id"] == second.json()["id"]
    assert await target.listed() == [first.json()["id"]]


async def test_a_repeat_of_run_tells_the_state_of_the_job(target: Target, worker: Worker) -> None:
    headers = {"Idempotency-Key": "k"}
    id = (await target.post("/run", {"input": 1}, headers=headers)).json()["id"]
    worker.finish(worker.take()[0])
    assert (await target.post("/run", {"input": 1}, headers=headers)).json() == {"id": id, "status": "COMPLETED"}


async def test_a_repeat_of_runsync_waits_for_the_same_job(target: Target, worker: Worker) -> None:
    request = {"body": {"input": 1}, "headers": {"Idempotency-Key": "k"}}
    answers = [asyncio.create_task(target.post("/runsync", **request)) for _ in range(5)]
    worker.finish(await worker.next(), b'"once"')
    assert {(await answer).json()["output"] for answer in answers} == {"once"}
    assert (await target.post("/runsync", **request)).content == (await answers[0]).content
    assert len(await target.listed()) == 1


async def test_another_body_under_the_same_key_is_a_conflict(target: Target) -> None:
    headers = {"Idempotency-Key": "k"}
    id = (await target.post("/run", {"input": 1}, headers=headers)).json()["id"]
    for path in ("/run", "/runsync"):
        response = await target.post(path, {"input": 2}, headers=headers)
        assert response.status_code == 409
        assert "Idempotency-Key" in response.json()["error"]
    assert await target.listed() == [id]


async def test_a_hundred_repeats_at_once_make_one_job(target: Target) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(target.post("/run", {"input": 1}, headers=headers) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    (id,) = {answer.json()["id"] for answer in answers}
    assert (await target.health())["jobs"]["inQueue"] == 1
    assert await target.listed() == [id]


async def test_a_hundred_bodies_at_once_under_one_key_make_one_job(target: Target) -> None:
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(target.post("/run", {"input": i}, headers=headers) for i in range(100)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 99
    assert (await target.health())["jobs"]["inQueue"] == 1


async def test_an_idempotency_key_is_good_for_its_endpoint(make_target: Make) -> None:
    targets = [await make_target(), await make_target()]
    answers = [await target.post("/run", {"input": 1}, headers={"Idempotency-Key": "k"}) for target in targets]
    assert len({answer.json()["id"] for answer in answers}) == 2


async def test_a_repeat_after_the_result_is_gone_runs_nothing(target: Target, admin: "redis.Redis") -> None:
    headers = {"Idempotency-Key": "k"}
    id = (await target.post("/run", {"input": 1}, headers=headers)).json()["id"]
    admin.zadd(f"{target.base}:lifetimes", {id: 1})

    async def gone() -> bool:
        return (await target.get(f"/status/{id}")).status_code == 404

    await eventually(gone)
    response = await target.post("/run", {"input": 1}, headers=headers)
    assert (response.status_code, await target.listed()) == (409, [])
    assert id in response.json()["error"]


async def test_an_idempotency_key_that_is_too_long(target: Target) -> None:
    for length, status in ((256, 200), (257, 400)):
        response = await target.post("/run", {"input": 1}, headers={"Idempotency-Key": "k" * length})
        assert response.status_code == status
    assert len(await target.listed()) == 1


# what is not there


@pytest.mark.parametrize(
    ("method", "operation"),
    [("GET", "status"), ("POST", "status"), ("GET", "status-sync"), ("GET", "stream"), ("POST", "stream"),
     ("POST", "cancel"), ("POST", "retry")],
)  # fmt: skip
async def test_a_job_that_is_not_there(make_target: Make, method: str, operation: str) -> None:
    target, other = await make_target(), await make_target()
    elsewhere = await other.run(1)
    for job in (elsewhere, str(uuid.uuid4()), "x", "{}", "*", "a*", "%7B%7D", "a%2Fb", "a/b", "%00", "é", "-" * 10_000):
        response = await target.http.request(method, f"{target.path}/{operation}/{job}")
        assert response.status_code == 404, job
        assert response.json().keys() == {"error"}
    assert (await other.status(elsewhere))["status"] == "IN_QUEUE"


@pytest.mark.parametrize(
    "id", ["", "missing", "{}", "*", "a%2Fb", "é", "%0a", "x" * 64, "x" * 10_000, "..%2f", "-a", "a%00"]
)
async def test_an_endpoint_that_is_not_there(target: Target, id: str) -> None:
    for method, path, body in (
        ("POST", "run", {"input": 1}), ("POST", "runsync", {"input": 1}), ("GET", "status/x", None),
        ("GET", "status-sync/x", None), ("GET", "stream/x", None), ("POST", "cancel/x", None),
        ("POST", "retry/x", None), ("POST", "purge-queue", None), ("GET", "health", None), ("GET", "requests", None),
    ):  # fmt: skip
        response = await target.http.request(method, f"/v2/{id}/{path}", json=body)
        assert response.status_code == 404, (path, response.text)
        assert response.json().keys() == {"error"}


@pytest.mark.parametrize("path", ["/", "/v2", "/v2/x", "/v2/x/nothing", "/v2/x/run/", "/v1", "//", "/v3/x/run"])
async def test_a_path_that_is_not_there(target: Target, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await target.http.request(method, path)
        assert response.status_code == 404
        assert response.json().keys() == {"error"}


METHODS = {
    "run": {"POST"}, "runsync": {"POST"}, "status/x": {"GET", "POST"}, "status-sync/x": {"GET", "POST"},
    "stream/x": {"GET", "POST"}, "cancel/x": {"POST"}, "retry/x": {"POST"}, "purge-queue": {"POST"},
    "health": {"GET"}, "requests": {"GET"},
}  # fmt: skip


@pytest.mark.parametrize("path", METHODS)
async def test_a_method_that_is_not_for_this_path(target: Target, path: str) -> None:
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"} - METHODS[path]:
        response = await target.http.request(method, f"{target.path}/{path}", json={"input": 1})
        assert response.status_code == 405
        assert {method.strip() for method in response.headers["allow"].split(",")} == METHODS[path]
        assert method == "HEAD" or response.json().keys() == {"error"}
    assert await target.listed() == []
