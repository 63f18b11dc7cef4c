"""The protocol of RunPod's workers, and what our own SDK says beyond it, step by step."""

import asyncio
import json
import signal
import socket
import struct
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.store import LIBRARY

from ...stores import Server
from ..clients import API_KEY, Target, bearer
from ..conftest import Make, client_of
from ..processes import Gateway
from ..waiting import eventually, still_waits

RAW = {"Accept": "application/x-runlane-jobs"}


class RunPodWorker:
    """What RunPod's SDK sends for a worker, call by call."""

    def __init__(self, target: Target, http: httpx.AsyncClient, id: str = "pod") -> None:
        self.target = target
        self.id = id
        self._http = http
        self._headers = {"Authorization": target.worker_key}

    async def get(self, name: str, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
        path = f"{self.target.path}/{name}/{self.id}"
        return await self._http.get(path, params=query, headers=self._headers | (headers or {}))

    async def post(self, name: str, job: str | None, body: Any, **query: Any) -> httpx.Response:
        path = f"{self.target.path}/{name}/{self.id}" + (f"/{job}" if job else "")
        content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        headers = self._headers | {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._http.post(path, params=query, content=content, headers=headers)

    async def take(self, wait: int = 10_000, job_in_progress: int = 0) -> dict[str, Any] | None:
        """A job, or None."""
        response = await self.get("job-take", gpu="x", wait=wait, job_in_progress=job_in_progress)
        if response.status_code == 204:
            return None
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/json"
        return dict(response.json())

    async def begin(self, input: Any = None, **fields: Any) -> str:
        """The id of a job that it has begun."""
        id = await self.target.run(input, **fields)
        taken = await self.take(job_in_progress=1)
        assert taken is not None
        assert taken["id"] == id
        return id

    async def say(self, name: str, job: str, body: Any, **query: Any) -> dict[str, Any]:
        """The answer to a post, which must be taken."""
        response = await self.post(name, job, body, gpu="x", **query)
        assert response.status_code == 200, response.text
        return dict(response.json())

    async def done(self, job: str, body: Any, is_stream: bool = False) -> dict[str, Any]:
        return await self.say("job-done", job, body, isStream="true" if is_stream else "false")


@pytest.fixture
async def direct(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key of its own."""
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30) as client:
        yield client


@pytest.fixture
def pod(target: Target, direct: httpx.AsyncClient) -> RunPodWorker:
    return RunPodWorker(target, direct)


def bare_request(target: Target, method: str, path: str, header: str = "", body: bytes = b"") -> bytes:
    """A request of a worker, for a socket."""
    head = f"{method} {target.path}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {target.worker_key}\r\n"
    return f"{head}{header}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def parked(target: Target, workers: int = 1) -> None:
    """Returns when so many workers wait for a job."""

    async def look() -> bool:
        return (await target.health())["workers"]["idle"] >= workers

    await eventually(look)


class TestTaking:
    async def test_a_job_has_what_the_request_had(self, pod: RunPodWorker) -> None:
        fields = {
            "webhook": "http://127.0.0.1:9/",
            "policy": {"ttl": 60_000},
            "s3Config": {"a": 1},
            "id": "mine",
            "attempt": 9,
        }
        id = await pod.target.run({"a": [1, "é"]}, **fields)
        assert await pod.take() == {**fields, "id": id, "attempt": 1, "retries": 0, "input": {"a": [1, "é"]}}

    async def test_waits_for_one(self, pod: RunPodWorker) -> None:
        taking = asyncio.create_task(pod.take())
        await parked(pod.target)
        assert await still_waits(taking)
        id = await pod.target.run(1)
        assert (await taking or {})["id"] == id
        assert (await pod.target.status(id))["workerId"] == "pod"

    async def test_goes_on_waiting_when_the_gateway_has_lost_its_subscription(
        self, pod: RunPodWorker, admin: "redis.Redis"
    ) -> None:
        polls = [asyncio.create_task(pod.take()), asyncio.create_task(pod.get("job-stop"))]
        await parked(pod.target)
        assert admin.client_kill_filter(_type="pubsub") > 0
        id = await pod.target.run(1)
        assert (await polls[0] or {})["id"] == id
        await pod.target.post(f"/cancel/{id}")
        assert (await polls[1]).json()["jobsToStop"] == [id]

    async def test_goes_on_waiting_when_the_store_has_forgotten_the_worker(
        self, pod: RunPodWorker, admin: "redis.Redis"
    ) -> None:
        taking = asyncio.create_task(pod.take())
        await parked(pod.target)
        admin.fcall(f"{LIBRARY}_leave", 1, pod.target.base, "pod")
        id = await pod.target.run(1)
        assert (await taking or {})["id"] == id

    async def test_says_that_there_is_none(self, pod: RunPodWorker) -> None:
        response = await pod.get("job-take", wait=1)
        assert (response.status_code, response.content) == (204, b"")

    async def test_a_large_job_comes_whole(self, pod: RunPodWorker) -> None:
        waiting = asyncio.create_task(pod.take())
        await parked(pod.target)
        text = "x" * 200_000
        for taking in (waiting, pod.take(job_in_progress=1)):
            await pod.target.run(text)
            assert (await taking or {})["input"] == text

    async def test_several_at_a_time(self, pod: RunPodWorker) -> None:
        ids = [await pod.target.run(number) for number in range(3)]
        jobs = (await pod.get("job-take-batch", batch_size=2, job_in_progress=0)).json()
        assert [job["id"] for job in jobs] == ids[:2]
        jobs = (await pod.get("job-take-batch", batch_size=2, job_in_progress=1)).json()
        assert [job["id"] for job in jobs] == ids[2:]
        assert (await pod.get("job-take-batch", batch_size=2, job_in_progress=1, wait=1)).status_code == 204

    async def test_of_some_queues_alone(self, pod: RunPodWorker) -> None:
        await pod.target.run(1)
        low = await pod.target.run(2, policy={"lowPriority": True})
        jobs = (await pod.get("job-take-batch", batch_size=2, job_in_progress=0, queues="low .other")).json()
        assert [job["id"] for job in jobs] == [low]

    async def test_for_our_sdk_gives_the_bytes_as_they_came(self, pod: RunPodWorker) -> None:
        body = '{"input": {"a" : 1.50, "b":"é"},  "mine":"x"}'.encode()
        id = (await pod.target.post("/run", body)).json()["id"]
        response = await pod.get("job-take-batch", RAW, batch_size=4, wait=1000)
        assert response.headers["content-type"] == "application/x-runlane-jobs"
        request, given = b'{"mine":"x"}', '{"a" : 1.50, "b":"é"}'.encode()
        assert response.content == f"{id} 1 {len(request)} {len(given)}\n".encode() + request + given

    @pytest.mark.parametrize(
        "query",
        [
            {"batch_size": 0},
            {"batch_size": "x"},
            {"batch_size": 1001},
            {"wait": -1},
            {"wait": 80_001},
            {"queues": "a{b"},
        ],
    )
    async def test_what_makes_no_sense(self, pod: RunPodWorker, query: dict[str, Any]) -> None:
        response = await pod.get("job-take-batch", **query)
        assert response.status_code == 400
        assert next(iter(query)) in response.json()["error"]

    async def test_the_worker_is_initializing_idle_and_running(self, pod: RunPodWorker) -> None:
        await pod.get("ping", runpod_version="1.12.0")
        assert (await pod.target.health())["workers"]["initializing"] == 1
        await pod.take(wait=1)
        assert (await pod.target.health())["workers"]["idle"] == 1
        await pod.begin()
        assert (await pod.target.health())["workers"]["running"] == 1


class TestWorkersThatGo:
    async def test_one_that_hangs_up_gets_nothing(
        self, target: Target, direct: httpx.AsyncClient, admin: "redis.Redis"
    ) -> None:
        taking = asyncio.create_task(RunPodWorker(target, direct, "a").take())
        await parked(target)
        taking.cancel()

        async def withdrawn() -> bool:
            return not admin.exists(f"{target.base}:waiting")

        await eventually(withdrawn)
        id = await target.run(1)
        assert (await target.status(id))["status"] == "IN_QUEUE"
        assert (await RunPodWorker(target, direct, "b").take() or {})["id"] == id

    async def test_one_that_hangs_up_while_it_is_handed_a_job_loses_nothing(
        self, make_target: Make, direct: httpx.AsyncClient, gateway: Gateway
    ) -> None:
        target = await make_target(attempts=1)  # so that a lost attempt would be the end of the job
        other = RunPodWorker(target, direct, "other")
        for number in range(20):
            with socket.create_connection(("127.0.0.1", gateway.port)) as worker:
                worker.sendall(bare_request(target, "GET", "job-take/gone"))
                await parked(target)
                submission = asyncio.create_task(target.run(number))
                await asyncio.sleep(number % 5 * 0.0005)  # before, while and after the job comes in
            id = await submission
            taken = await other.take()
            assert taken is not None
            assert (taken["id"], taken["input"]) == (id, number)
            assert await other.done(id, {"output": number}) == {"status": "OK"}
            assert (await target.status(id))["status"] == "COMPLETED"

    @pytest.mark.parametrize(("header", "is_lost"), [("", True), ("Via: 1.1 proxy\r\n", False)])
    async def test_a_reset_says_that_the_answer_was_not_read_but_for_proxies(
        self, target: Target, direct: httpx.AsyncClient, gateway: Gateway, header: str, is_lost: bool
    ) -> None:
        id = await target.run(1)
        with socket.create_connection(("127.0.0.1", gateway.port)) as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at the end
            worker.sendall(bare_request(target, "GET", "job-take/a", header))
            await asyncio.get_running_loop().run_in_executor(None, _until_readable, worker)
        taken = await RunPodWorker(target, direct, "b").take(wait=1000)
        assert (taken is not None) is is_lost
        assert (await target.status(id))["workerId"] == ("b" if is_lost else "a")

    async def test_one_that_comes_back_without_its_job_has_lost_it(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        again = await pod.take(job_in_progress=0)
        assert again is not None
        assert (again["id"], again["attempt"], again["retries"]) == (id, 2, 1)

    async def test_one_with_a_job_keeps_it(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        assert await pod.take(wait=1, job_in_progress=1) is None
        assert (await pod.target.status(id))["status"] == "IN_PROGRESS"

    async def test_one_that_is_to_be_replaced_gets_no_other_job(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        polls = [asyncio.create_task(pod.get(name, job_in_progress=1)) for name in ("job-take", "job-stop")]
        assert all([await still_waits(poll) for poll in polls])
        await pod.done(id, {"output": 1, "stopPod": True})
        assert [(await poll).status_code for poll in polls] == [204, 204]
        assert (await pod.target.status(id))["output"] == 1
        next_id = await pod.target.run(2)
        assert await pod.take() is None
        assert (await pod.take() or {})["id"] == next_id


class TestStops:
    async def test_come_at_once(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        stopping = asyncio.create_task(pod.get("job-stop", gpu="x"))
        assert await still_waits(stopping)
        await pod.target.post(f"/cancel/{id}")
        assert (await stopping).json() == {"jobsToStop": [id], "stops": [[id, 1, "CANCELLED"]]}

    async def test_come_at_once_also_when_an_older_poll_ends_at_another_gateway(
        self, pod: RunPodWorker, small_gateway: Gateway
    ) -> None:
        id = await pod.begin()
        async with httpx.AsyncClient(base_url=small_gateway.url, timeout=30) as other:
            older = asyncio.create_task(RunPodWorker(pod.target, other).get("job-stop", wait=500))
            assert await still_waits(older)
            newer = asyncio.create_task(pod.get("job-stop", wait=20_000))
            assert (await older).status_code == 204
            await pod.target.post(f"/cancel/{id}")
            async with asyncio.timeout(5):
                assert (await newer).json()["jobsToStop"] == [id]

    async def test_that_come_between_two_polls_are_not_lost(self, pod: RunPodWorker) -> None:
        ids = [await pod.begin(number) for number in range(2)]
        for id in ids:
            await pod.target.post(f"/cancel/{id}")
        assert sorted((await pod.get("job-stop")).json()["jobsToStop"]) == sorted(ids)
        assert (await pod.get("job-stop", wait=1)).status_code == 204

    async def test_a_ping_with_a_job_that_is_another_s(self, target: Target, direct: httpx.AsyncClient) -> None:
        pod, other = RunPodWorker(target, direct, "a"), RunPodWorker(target, direct, "b")
        id = await other.begin()
        assert (await pod.get("ping", job_id=f"{id},no-such-job")).status_code == 200
        assert sorted((await pod.get("job-stop")).json()["jobsToStop"]) == sorted([id, "no-such-job"])
        assert (await target.status(id))["status"] == "IN_PROGRESS"


class TestResults:
    @pytest.mark.parametrize(
        "value",
        [b"null", b"0", b"false", b'""', b"[]", b"{}", b'"12345"', b"12345678901234567890123", b"1.50", b"[1, 2]",
         '{"é": ["ü", "\\ud83d\\ude00"]}'.encode(), b"[" * 200 + b"]" * 200],
        ids=lambda value: value[:20].decode(),
    )  # fmt: skip
    async def test_are_the_bytes_that_came(self, pod: RunPodWorker, value: bytes) -> None:
        id = await pod.begin()
        assert await pod.done(id, b'{"output": %b}' % value) == {"status": "OK"}
        text = (await pod.target.get(f"/status/{id}")).content
        assert b'"output":' + value + b"}" in text

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            (b'{"output": [NaN, {"a": -Infinity, "b": 1}]}', [None, {"a": None, "b": 1}]),
            (b'{"output": {"big": 123456789012345678901234567890, "n": NaN}}',
             {"big": 123456789012345678901234567890, "n": None}),
        ],
    )  # fmt: skip
    async def test_what_python_writes_and_json_has_not_becomes_null(
        self, pod: RunPodWorker, body: bytes, expected: Any
    ) -> None:
        id = await pod.begin()
        await pod.done(id, body)
        assert (await pod.target.status(id))["output"] == expected

    @pytest.mark.parametrize(
        ("body", "is_stream", "shown"),
        [
            ({}, False, {"status": "COMPLETED", "output": {}}),
            ({"output": []}, False, {"status": "COMPLETED", "output": []}),
            ({"output": []}, True, {"status": "COMPLETED"}),
            ({"output": [1]}, True, {"status": "COMPLETED", "output": [1]}),
            ({"error": "broke"}, False, {"status": "FAILED", "error": "broke"}),
            ({"error": "broke", "output": {"a": 1}}, False, {"status": "FAILED", "error": "broke"}),
            ({"error": {"code": "é"}}, False, {"status": "FAILED", "error": '{"code": "é"}'}),
            (b'{"error": "half a pair: \\ud800"}', False, {"status": "FAILED", "error": "half a pair: ?"}),
            ({"error": "", "output": 1}, False, {"status": "COMPLETED", "output": 1}),
            ({"error": None, "output": 1}, False, {"status": "COMPLETED", "output": 1}),
        ],
    )
    async def test_by_what_the_sdk_sends(
        self, pod: RunPodWorker, body: Any, is_stream: bool, shown: dict[str, Any]
    ) -> None:
        id = await pod.begin()
        await pod.done(id, body, is_stream)
        found = await pod.target.status(id)
        assert {name: found.get(name) for name in ("status", "output", "error") if name in found} == shown

    @pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"1", b"\xff", b'{"output": \xff}'])
    async def test_that_cannot_be_read_fail_the_job(self, pod: RunPodWorker, body: bytes) -> None:
        id = await pod.begin()
        assert await pod.done(id, body) == {"status": "OK"}  # the SDK would repeat it three times and give it up
        found = await pod.target.status(id)
        assert found["status"] == "FAILED"
        assert found["error"].startswith("what the worker sent cannot be taken: it is not")

    async def test_that_break_off_on_their_way_are_no_result(self, pod: RunPodWorker, gateway: Gateway) -> None:
        id = await pod.begin()
        for path in (f"job-done/pod/{id}", f"job-stream/pod/{id}"):
            with socket.create_connection(("127.0.0.1", gateway.port)) as worker:
                worker.sendall(bare_request(pod.target, "POST", path, body=b'{"output": "abcdef"}')[:-5])
        assert await pod.done(id, {"output": 1}) == {"status": "OK"}
        assert (await pod.target.status(id))["output"] == 1

    async def test_that_are_too_large_fail_the_job(self, make_target: Make, direct: httpx.AsyncClient) -> None:
        pod = RunPodWorker(await make_target(), direct)
        id = await pod.begin()
        await pod.done(id, b'{"output": "%b"}' % (b"x" * 20_100_000))
        found = await pod.target.status(id)
        assert found["status"] == "FAILED"
        assert "over the limit of" in found["error"]

    async def test_repeated_or_late_change_nothing(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        for output in (1, 2):
            assert await pod.done(id, {"output": output}) == {"status": "OK"}
        assert (await pod.target.status(id))["output"] == 1
        cancelled = await pod.begin()
        await pod.target.post(f"/cancel/{cancelled}")
        assert await pod.done(cancelled, {"output": 1}) == {"status": "STALE", "state": "CANCELLED"}
        assert await pod.done("no-such-job", {"output": 1}) == {"status": "STALE", "state": "GONE"}

    async def test_of_a_job_that_is_another_s_change_nothing(self, target: Target, direct: httpx.AsyncClient) -> None:
        pod, other = RunPodWorker(target, direct, "a"), RunPodWorker(target, direct, "b")
        id = await pod.begin()
        for body in ({"output": 1}, {"error": "x"}, {"status": "IN_PROGRESS", "output": 1}):
            assert await other.done(id, body) == {"status": "STALE", "state": "IN_PROGRESS"}
        assert await other.say("job-stream", id, {"output": 1}) == {"status": "STALE", "state": "IN_PROGRESS"}
        assert "output" not in await target.status(id)

    async def test_progress_is_shown_and_is_no_end(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.done(id, {"status": "IN_PROGRESS", "output": {"percent": 5}})
        found = await pod.target.status(id)
        assert (found["status"], found["output"]) == ("IN_PROGRESS", {"percent": 5})
        await pod.done(id, {"output": 1})
        assert await pod.done(id, {"status": "IN_PROGRESS", "output": 6}) == {"status": "STALE", "state": "COMPLETED"}
        assert (await pod.target.status(id))["output"] == 1


class TestChunks:
    async def test_come_in_order_as_they_were_written(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        for value in (b'"a"', b"1.50", b'{"b" : []}'):
            await pod.say("job-stream", id, b'{"output": %b}' % value, isStream="false")
        await pod.done(id, {"output": []}, is_stream=True)
        text = (await pod.target.get(f"/stream/{id}")).content
        assert b'[{"output":"a"},{"output":1.50},{"output":{"b" : []}}]' in text

    async def test_a_large_string_comes_in_pieces(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        text = "aé" * 700_000
        await pod.say("job-stream", id, {"output": text})
        chunks = [item["output"] for item in (await pod.target.poll(id))["stream"]]
        assert len(chunks) > 1
        assert "".join(chunks) == text

    async def test_a_large_string_with_half_a_surrogate_pair(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.say("job-stream", id, b'{"output": "\\ud800%b"}' % (b"x" * 1_100_000))
        assert len((await pod.target.poll(id))["stream"]) == 2

    async def test_another_large_value_fails_the_job(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.say("job-stream", id, {"output": ["x" * 1_000_000]})
        found = await pod.target.status(id)
        assert found["status"] == "FAILED"
        assert "a chunk has 1000004 bytes; the limit is 1000000 bytes" in found["error"]

    async def test_one_whose_answer_the_worker_did_not_read_counts_once(
        self, pod: RunPodWorker, gateway: Gateway
    ) -> None:
        id = await pod.begin()
        with socket.create_connection(("127.0.0.1", gateway.port)) as worker:
            worker.sendall(bare_request(pod.target, "POST", f"job-stream/pod/{id}", body=b'{"output":"a"}'))
            worker.setblocking(False)
            await asyncio.get_running_loop().run_in_executor(None, _until_readable, worker)
        await asyncio.sleep(0.1)  # the reset has to arrive; RunPod's SDK waits for a second
        for _ in range(2):
            await pod.say("job-stream", id, b'{"output":"a"}')
        assert [item["output"] for item in (await pod.target.poll(id))["stream"]] == ["a", "a"]


def _until_readable(worker: socket.socket) -> None:
    worker.setblocking(True)
    assert worker.recv(1, socket.MSG_PEEK)


class TestOurSdk:
    async def test_numbers_its_chunks(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        for first, body in ((1, b'["a", 1.50]'), (1, b'["a", 1.50]'), (2, b'[1.50,{"b" : 1}]')):
            assert await pod.say("job-stream", id, body, attempt=1, first=first) == {"status": "OK"}
        text = (await pod.target.get(f"/stream/{id}")).content
        assert b'[{"output":"a"},{"output":1.50},{"output":{"b" : 1}}]' in text

    @pytest.mark.parametrize(
        ("body", "first", "status"),
        [(b"[1]", 5, 409), (b"[1]", 0, 400), (b"[1]", "x", 400)],
    )
    async def test_chunks_that_cannot_be_next(self, pod: RunPodWorker, body: bytes, first: Any, status: int) -> None:
        id = await pod.begin()
        response = await pod.post("job-stream", id, body, attempt=1, first=first)
        assert (response.status_code, (await pod.target.status(id))["status"]) == (status, "IN_PROGRESS")

    @pytest.mark.parametrize("body", [b"{}", b"[", b"[%b]" % b",".join([b"1"] * 1001), b'["%b"]' % (b"x" * 1_000_001)])
    async def test_chunks_that_cannot_be_taken_fail_the_job(self, pod: RunPodWorker, body: bytes) -> None:
        id = await pod.begin()
        assert await pod.say("job-stream", id, body, attempt=1, first=1) == {"status": "OK"}
        assert (await pod.target.status(id))["status"] == "FAILED"

    async def test_names_the_attempt(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.take(job_in_progress=0)
        stale = {"status": "STALE", "state": "IN_PROGRESS"}
        assert await pod.say("job-stream", id, b"[1]", attempt=1, first=1) == stale
        assert await pod.say("job-done", id, {"output": 1}, attempt=1) == stale
        assert await pod.say("job-lost", id, {"error": "x"}, attempt=1) == stale
        assert await pod.say("job-done", id, {"output": 2}, attempt=2) == {"status": "OK"}
        assert await pod.say("job-done", id, {"output": 3}, attempt=2) == {"status": "OK"}
        assert (await pod.target.status(id))["output"] == 2

    async def test_ends_a_job_without_an_output(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.say("job-done", id, {}, attempt=1)
        assert "output" not in await pod.target.status(id)

    async def test_asks_for_another_try(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        for _ in range(2):  # it may repeat what it says
            assert await pod.say("job-done", id, {"error": "not yet", "retry": True}, attempt=1) == {"status": "OK"}
        assert (await pod.take(job_in_progress=1) or {})["attempt"] == 2
        await pod.done(id, {"error": "for good", "retry": True})  # RunPod's own knows no such field
        assert (await pod.target.status(id))["error"] == "for good"

    async def test_gives_up_an_attempt(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        await pod.say("job-lost", id, {"error": "it crashed"}, attempt=1)
        assert (await pod.take(job_in_progress=1) or {})["attempt"] == 2

    async def test_gives_back_what_it_does_not_have(self, make_target: Make, direct: httpx.AsyncClient) -> None:
        pod = RunPodWorker(await make_target(attempts=1), direct)
        kept, lost = await pod.begin(1), await pod.begin(2)
        response = await pod.post("job-return", None, {"attempts": [[kept, 1]]})
        assert response.status_code == 200
        assert (await pod.target.status(kept))["status"] == "IN_PROGRESS"
        assert (await pod.target.status(lost))["status"] == "IN_QUEUE"

    async def test_gives_signs_of_life(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        other = await pod.begin()
        await pod.target.post(f"/cancel/{other}")
        said = {"gone_ms": 60_000, "concurrency": 4, "state": "ready", "description": {"gpu": "H100", "sdk": "runlane"}}
        response = await pod.post("ping", None, {**said, "attempts": [[id, 1], [other, 1]]})
        assert response.json() == {"lapsed": [[other, 1, "CANCELLED"]]}
        (worker,) = (await pod.target.get("/workers")).json()["workers"]
        assert worker.pop("lastSeen") >= worker.pop("startedAt") > 1_600_000_000_000
        assert worker == {
            "id": "pod", "state": "running", "crashLoop": False, "trouble": None, "jobsInHand": 1, "concurrency": 4,
            "currentJobs": [id], "metrics": None, "gpu": "H100", "sdk": "runlane", "link": "http", "description": {},
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("name", "body"),
        [("ping", b"{"), ("ping", b"{}"), ("ping", b'{"gone_ms":5,"concurrency":1,"state":"ready"}'),
         ("ping", b'{"gone_ms":5000,"concurrency":1,"state":"a b"}'),
         ("ping", b'{"gone_ms":5000,"concurrency":1,"state":"ready","description":{"a":"%b"}}' % (b"x" * 16_000)),
         ("tell", b"[]"), ("tell", b"{}"), ("tell", b'{"run":""}'), ("tell", b'{"run":"a","first":0}'),
         ("tell", b'{"run":"a","lines":[["0","stdout","x"]]}'), ("tell", b'{"run":"a","lines":[[0,"file","x"]]}'),
         ("tell", b'{"run":"a","lines":[[0,"stdout","%b"]]}' % (b"x" * 10_001)),
         ("tell", b'{"run":"a","lines":[%b[0,"stdout",""]]}' % (b'[0,"stdout",""],' * 500)),
         ("tell", b'{"run":"a","metrics":{"cpu_percent":1}}'),
         ("tell", b'{"run":"a","metrics":{"cpu_percent":1,"memory_used_bytes":1,"memory_total_bytes":2,"gpus":[%b'
                  b'{"index":0,"name":""}]}}' % (b'{"index":0,"name":""},' * 64)),
         ("job-return", b"[]"),
         ("job-return", b'{"attempts":[["x"]]}'), ("job-return", b'{"attempts":[["x",0]]}')],
    )  # fmt: skip
    async def test_what_makes_no_sense(self, pod: RunPodWorker, name: str, body: bytes) -> None:
        assert (await pod.post(name, None, body)).status_code == 400

    async def test_registers_for_http(self, target: Target) -> None:
        headers = bearer(target.worker_key)
        response = await target.post("/workers", {"id": "w", "link": "http"}, headers=headers)
        assert (response.status_code, response.json()["redis"]) == (200, None)
        assert (await target.health())["workers"]["initializing"] == 1

    async def test_that_starts_again_has_lost_what_it_had(self, pod: RunPodWorker) -> None:
        id = await pod.begin()
        body = {"id": "pod", "link": "http", "restarted": True}
        response = await pod.target.post("/workers", body, headers=bearer(pod.target.worker_key))
        assert response.status_code == 200
        assert (await pod.take(job_in_progress=1) or {}) | {"input": 0} == {
            "id": id, "attempt": 2, "retries": 1, "input": 0,
        }  # fmt: skip


class TestTrouble:
    async def test_a_failed_check_is_shown(self, pod: RunPodWorker) -> None:
        await pod.get("ping", status="unhealthy", check="gpu", reason="no CUDA device")
        found = await pod.target.status(await pod.target.run(1))
        assert (found["reason"], found["workers"]["unhealthy"]) == ("workers_unhealthy", 1)
        (worker,) = (await pod.target.get("/workers")).json()["workers"]
        assert (worker["state"], worker["trouble"]) == ("unhealthy", "gpu: no CUDA device")

    async def test_a_crash_loop_is_named(self, make_target: Make, direct: httpx.AsyncClient) -> None:
        pod = RunPodWorker(await make_target(attempts=9), direct)
        await pod.begin()
        for _ in range(3):
            await pod.take()
        found = await pod.target.status(await pod.target.run(1))
        assert (found["reason"], found["workers"]["crashing"]) == ("workers_crashing", 1)
        (worker,) = (await pod.target.get("/workers")).json()["workers"]
        assert (worker["state"], worker["crashLoop"]) == ("unhealthy", True)


CALLS: list[tuple[str, str]] = [
    ("GET", "job-take/pod"),
    ("GET", "job-take-batch/pod"),
    ("GET", "job-stop/pod"),
    ("GET", "ping/pod"),
    ("POST", "ping/pod"),
    ("POST", "job-stream/pod/j"),
    ("POST", "job-done/pod/j"),
    ("POST", "job-lost/pod/j"),
    ("POST", "job-return/pod"),
    ("GET", "worker-env"),
]


class TestKeys:
    @pytest.mark.parametrize(("method", "path"), CALLS)
    async def test_only_the_endpoint_s_own_worker_key_is_good(
        self, target: Target, make_target: Make, direct: httpx.AsyncClient, method: str, path: str
    ) -> None:
        other = await make_target()
        keys = ("", "wrong", other.worker_key, f"Bearer {other.worker_key}")
        calls = [direct.request(method, f"{target.path}/{path}", headers={"Authorization": key}) for key in keys]
        assert [response.status_code for response in await asyncio.gather(*calls)] == [401, 401, 403, 403]

    @pytest.mark.parametrize(("method", "path"), CALLS)
    async def test_an_endpoint_that_does_not_exist(
        self, direct: httpx.AsyncClient, target: Target, method: str, path: str
    ) -> None:
        response = await direct.request(method, f"/v2/no-such-endpoint/{path}", headers=bearer(API_KEY))
        assert response.status_code == 404

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "run"), ("GET", "health"), ("GET", "workers"), ("GET", "requests"), ("POST", "purge-queue")],
    )
    async def test_a_worker_key_is_no_client_s(
        self, direct: httpx.AsyncClient, target: Target, method: str, path: str
    ) -> None:
        response = await direct.request(method, f"{target.path}/{path}", headers=bearer(target.worker_key))
        assert response.status_code == 403

    async def test_a_new_key_is_good_soon(self, make_target: Make, direct: httpx.AsyncClient) -> None:
        target = await make_target()
        pod = RunPodWorker(target, direct)
        assert (await pod.get("ping")).status_code == 200
        await target.http.delete(f"/v1/endpoints/{target.id}")
        created = (await target.http.post("/v1/endpoints", json={"id": target.id})).json()

        async def is_good() -> bool:
            headers = bearer(created["workerKey"])
            return (await direct.get(f"{target.path}/ping/pod", headers=headers)).status_code == 200

        await eventually(is_good)

    @pytest.mark.parametrize("worker", ["a b", "é", "-a", "a" * 64])
    async def test_ids_that_no_worker_can_have(self, target: Target, direct: httpx.AsyncClient, worker: str) -> None:
        response = await direct.get(f"{target.path}/ping/{worker}", headers=bearer(target.worker_key))
        assert response.status_code == 404


class TestListing:
    async def test_goes_on_from_page_to_page(self, target: Target, direct: httpx.AsyncClient) -> None:
        for number in range(3):
            await RunPodWorker(target, direct, f"w{number}").get("ping")
        first = (await target.get("/workers", params={"limit": 2})).json()
        second = (await target.get("/workers", params={"limit": 2, "cursor": first["next"]})).json()
        assert {worker["id"] for worker in first["workers"] + second["workers"]} == {"w0", "w1", "w2"}
        assert second["next"] is None

    @pytest.mark.parametrize("query", [{"limit": "x"}, {"limit": 1001}, {"cursor": "-1"}, {"cursor": "a"}])
    async def test_what_makes_no_sense(self, target: Target, query: dict[str, Any]) -> None:
        assert (await target.get("/workers", params=query)).status_code == 400

    async def test_a_description_may_be_anything(self, target: Target) -> None:
        body = b'{"id": "w", "description": {"gpu": 123456789012345678901234567890, "a": 1.50}}'
        await target.post("/workers", body, headers=bearer(target.worker_key))
        assert b'"gpu":123456789012345678901234567890' in (await target.get("/workers")).content

    async def test_of_no_endpoint(self, target: Target) -> None:
        assert (await target.http.get("/v2/no-such-endpoint/workers")).status_code == 404


async def test_polls_end_with_the_gateway(backing: Server, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY)
    async with client_of(gateway) as http, httpx.AsyncClient(base_url=gateway.url, timeout=30) as direct:
        created = (await http.post("/v1/endpoints", json={"id": f"end-{gateway.port}"})).json()
        target = Target(http, created)
        pod = RunPodWorker(target, direct)
        polls: list[Awaitable[httpx.Response]] = [
            asyncio.create_task(pod.get(name)) for name in ("job-take", "job-stop")
        ]
        await parked(target)
        gateway.send(signal.SIGTERM)
        assert [(await poll).status_code for poll in polls] == [204, 204]
        gateway.wait()


async def test_while_the_store_is_away_workers_pause_and_results_wait(tmp_path: Path, own_server: Server) -> None:
    gateway = Gateway(tmp_path / "gateway", own_server.url, api_keys=API_KEY, worker_keys="e:any", endpoints="e")
    async with client_of(gateway) as http, httpx.AsyncClient(base_url=gateway.url, timeout=30) as direct:
        pod = RunPodWorker(Target(http, {"id": "e", "workerKey": "any"}), direct)
        id = await pod.begin()
        parked_poll = asyncio.create_task(pod.get("job-take", job_in_progress=1))
        assert await still_waits(parked_poll)
        own_server.kill()
        posted = asyncio.create_task(pod.done(id, {"output": 1}))
        assert (await parked_poll).status_code == 429
        ours, *theirs = await asyncio.gather(  # the endpoint was looked up long ago
            pod.get("job-take", wait=1000), pod.get("job-take"), pod.get("job-stop")
        )
        assert [(answer.status_code, answer.headers["retry-after"]) for answer in theirs] == [(429, "5")] * 2
        assert (ours.status_code, (await pod.get("ping")).status_code) == (503, 503)
        own_server.start()
        assert await posted == {"status": "OK"}
        assert (await pod.target.status(id))["output"] == 1
    gateway.stop()
