"""The OpenAI routes with a scripted worker: requests that become jobs, and whole answers."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis

from ...stores import Server
from ..clients import API_KEY, Taken, Target, Worker, bearer
from ..conftest import Make, client_of
from ..processes import Gateway
from ..test_http import connected, head, response_on
from ..waiting import eventually, still_waits

CHAT = "/openai/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "zażółć"}]}
RUNSYNC_LIMIT = 20_000_000


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error, which has OpenAI's fields and no others."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


async def ask(target: Target, worker: Worker, body: Any = BODY) -> tuple["asyncio.Task[httpx.Response]", Taken]:
    """A request under way, and its job, begun by the worker."""
    answer = asyncio.create_task(target.post(CHAT, body))
    return answer, await worker.next()


async def is_cancelled(target: Target, job: str) -> bool:
    async def look() -> bool:
        return (await target.status(job))["status"] == "CANCELLED"

    return await eventually(look)


# what becomes the job


async def test_the_body_reaches_the_worker_as_it_is(target: Target, worker: Worker) -> None:
    body = b'{ "model":"m",\n "big": 123456789012345678901234567890, "f": 1.10, "s": "\\u00e9\xc3\xa9" }'
    answer, job = await ask(target, worker, body)
    assert job.input == b'{"openai_route":"/v1/chat/completions","openai_input":' + body + b"}"
    assert (job.request, job.id[:5]) == (b"", "sync-")
    worker.finish(job, b"{}")
    assert (await answer).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "route", "extra"),
    [("GET", "models", "/v1/models", {}),
     ("GET", "models/org%2Fname?a=%20b&a=c", "/v1/models/org%2Fname?a=%20b&a=c", {}),
     ("GET", "a/b/c/d/e", "/v1/a/b/c/d/e", {}),
     ("DELETE", "responses/r1", "/v1/responses/r1", {"openai_method": "DELETE"}),
     ("POST", "responses/r1/cancel", "/v1/responses/r1/cancel", {"openai_method": "POST"})],
)  # fmt: skip
async def test_a_request_without_a_body(
    target: Target, worker: Worker, method: str, path: str, route: str, extra: dict[str, str]
) -> None:
    answer = asyncio.create_task(target.http.request(method, f"{target.path}/openai/v1/{path}"))
    job = await worker.next()
    assert json.loads(job.input) == {"openai_route": route} | extra
    worker.finish(job, b'{"ok":true}')
    assert (await answer).json() == {"ok": True}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "GET"])
async def test_a_body_with_another_method(target: Target, worker: Worker, method: str) -> None:
    answer = asyncio.create_task(target.http.request(method, f"{target.path}/openai/v1/x", json={"a": 1}))
    job = await worker.next()
    assert json.loads(job.input) == {"openai_route": "/v1/x", "openai_input": {"a": 1}, "openai_method": method}
    worker.finish(job, b"{}")
    assert (await answer).status_code == 200


async def test_the_answer_names_its_job(target: Target, worker: Worker) -> None:
    answer, job = await ask(target, worker)
    worker.finish(job, b"{}")
    assert (await answer).headers["x-request-id"] == job.id
    answer, job = await ask(target, worker)
    worker.fail(job)
    assert (await answer).headers["x-request-id"] == job.id


async def test_the_result_is_kept_as_long_as_that_of_runsync(
    target: Target, worker: Worker, admin: "redis.Redis"
) -> None:
    answer, job = await ask(target, worker)
    worker.finish(job, b"{}")
    await answer
    left = admin.pttl(f"{target.base}:job:{job.id}")
    assert 60_000 < left <= 120_000  # the retention, and what a job outlives it for upkeep


# whole answers


@pytest.mark.parametrize("raw", ['{"id":"x", "n":1.10,"s":"\\u00e9é"}', "[1, 2]", "17", "null", "{}"])
async def test_an_answer_is_the_output_byte_for_byte(target: Target, worker: Worker, raw: str) -> None:
    answer, job = await ask(target, worker)
    assert await still_waits(answer)
    worker.finish(job, raw.encode())
    response = await answer
    assert (response.status_code, response.content) == (200, raw.encode())
    assert response.headers["content-type"] == "application/json"


async def test_an_answer_that_no_wake_up_can_carry(target: Target, worker: Worker) -> None:
    big = json.dumps({"data": "x" * 300_000}).encode()
    answer, job = await ask(target, worker)
    worker.finish(job, big)
    assert (await answer).content == big


@pytest.mark.parametrize("aggregate", [False, True])
async def test_a_single_object_that_was_yielded(target: Target, worker: Worker, aggregate: bool) -> None:
    answer, job = await ask(target, worker)
    worker.emit(job, 1, b'{"id": 1}')
    assert await still_waits(answer)
    if aggregate:
        worker.finish(job, b'[{"id": 1}]')
    else:
        worker.end(job)
    assert (await answer).content == b'{"id": 1}'


async def test_strings_that_were_yielded_are_the_body(target: Target, worker: Worker) -> None:
    answer, job = await ask(target, worker)
    worker.emit(job, 1, json.dumps('{"a": "ż').encode())
    worker.emit(job, 2, json.dumps("x" * 200_000).encode(), json.dumps('"}', ensure_ascii=False).encode())
    worker.end(job)
    response = await answer
    assert response.content == ('{"a": "ż' + "x" * 200_000 + '"}').encode()
    assert response.headers["content-type"] == "application/json"


async def test_text_that_is_not_json(target: Target, worker: Worker) -> None:
    answer, job = await ask(target, worker)
    worker.finish(job, b'"just a transcript"')
    response = await answer
    assert (response.text, response.headers["content-type"]) == ("just a transcript", "text/plain; charset=utf-8")


@pytest.mark.parametrize("chunks", [[], [b'{"a":1}', b'{"b":2}'], [b'"x"', b"{}"], [b'"broken']])
async def test_no_single_answer(target: Target, worker: Worker, chunks: list[bytes]) -> None:
    answer, job = await ask(target, worker)
    if chunks:
        worker.emit(job, 1, *chunks)
    worker.end(job)
    response = await answer
    assert (response.status_code, error_of(response)["type"]) == (500, "server_error")


async def test_what_a_lost_worker_had_yielded_does_not_count(target: Target, worker: Worker) -> None:
    answer, old = await ask(target, worker)
    worker.emit(old, 1, b'{"old":1}')
    worker.lose(old)
    new = await worker.next()
    worker.emit(new, 1, b'{"new":2}')
    worker.end(new)
    assert (await answer).content == b'{"new":2}'


async def test_a_failed_response_of_the_responses_api_is_an_answer(target: Target, worker: Worker) -> None:
    raw = b'{"id":"resp_1","status":"failed","error":{"code":"server_error","message":"no"}}'
    answer, job = await ask(target, worker)
    worker.finish(job, raw)
    assert ((await answer).status_code, (await answer).content) == (200, raw)


async def test_many_at_once(target: Target, worker: Worker) -> None:
    answers = [asyncio.create_task(target.post(CHAT, {"n": number})) for number in range(50)]
    for _ in range(50):
        job = await worker.next()
        worker.finish(job, b'{"n":%d}' % json.loads(job.input)["openai_input"]["n"])
    assert [(await answer).json()["n"] for answer in answers] == list(range(50))


# errors of the worker


ERRORS: list[tuple[dict[str, Any], int]] = [
    ({"message": "m", "type": "invalid_request_error"}, 400),
    ({"message": "m", "type": "authentication_error"}, 401),
    ({"message": "m", "type": "permission_error"}, 403),
    ({"message": "m", "type": "not_found_error", "code": "model_not_found"}, 404),
    ({"message": "m", "type": "rate_limit_error"}, 429),
    ({"message": "m", "type": "server_error"}, 500),
    ({"message": "m", "type": "timeout"}, 504),
    ({"message": "m", "type": "BadRequestError", "code": 400, "param": "messages"}, 400),
    ({"message": "m", "type": "invalid_request_error", "code": "422"}, 422),
    ({"message": "m", "type": "rate_limit_error", "code": 200}, 429),
    ({"message": "m", "type": ["strange"], "code": True}, 500),
    ({"message": "m", "status": 503}, 503),
    ({"message": "m", "status_code": 413, "code": 400}, 413),
    ({"message": "m"}, 500),
]


@pytest.mark.parametrize(("given", "status"), ERRORS)
async def test_an_error_gets_its_status_however_it_was_given(
    target: Target, worker: Worker, given: dict[str, Any], status: int
) -> None:
    inner, wrapped = json.dumps(given), json.dumps({"error": given})
    ways = {
        "returned": lambda job: worker.finish(job, wrapped.encode()),
        "yielded": lambda job: (worker.emit(job, 1, wrapped.encode()), worker.end(job)),
        "failed, as our SDK says it": lambda job: worker.fail(job, inner),
        "failed, with all that was returned": lambda job: worker.fail(job, wrapped),
    }
    for stream in (False, True):
        for name, end in ways.items():
            answer, job = await ask(target, worker, BODY | {"stream": stream})
            end(job)
            response = await answer
            assert response.status_code == status, name
            error = error_of(response)
            assert error["message"] == "m"
            assert isinstance(error["type"], str)
            assert given.get("type") in (error["type"], None, ["strange"])
            assert (error["code"], error["param"]) == (given.get("code"), given.get("param"))


async def test_the_error_of_an_exception_is_without_its_traceback(target: Target, worker: Worker) -> None:
    answer, job = await ask(target, worker)
    raised = {"error_type": "<class 'ValueError'>", "error_message": "no such adapter", "error_traceback": "File …"}
    worker.fail(job, json.dumps(raised))
    response = await answer
    assert response.status_code == 500
    assert error_of(response) == {"message": "no such adapter", "type": "server_error", "param": None, "code": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [("out of memory", "out of memory"), ("", "the worker failed and did not say why"), ("[1]", "[1]"),
     ('{"error": "model not found"}', "model not found"), ('{"error_type": "E", "error_message": ""}', "E"),
     ('{"error": {"x": 1}}', '{"x": 1}'), ('{"detail": "no tokens"}', '{"detail": "no tokens"}')],
)  # fmt: skip
async def test_other_errors_of_a_worker(target: Target, worker: Worker, text: str, message: str) -> None:
    answer, job = await ask(target, worker)
    worker.fail(job, text)
    response = await answer
    assert (response.status_code, error_of(response)["message"]) == (500, message)


async def test_a_job_that_was_cancelled_by_someone_else_is_not_tried_again(target: Target, worker: Worker) -> None:
    for body in (BODY, BODY | {"stream": True}):
        answer, job = await ask(target, worker, body)
        await target.post(f"/cancel/{job.id}")
        response = await answer
        assert (response.status_code, error_of(response)["type"]) == (503, "server_error")
        assert response.headers["x-should-retry"] == "false"


async def test_a_job_that_ran_too_long(target: Target, worker: Worker, admin: "redis.Redis") -> None:
    answer, job = await ask(target, worker)
    admin.zadd(f"{target.base}:timeouts", {job.id: 1})
    response = await answer
    assert (response.status_code, error_of(response)["type"]) == (504, "timeout")


# errors of the gateway


async def test_a_wrong_key(gateway: Gateway, target: Target) -> None:
    async with client_of(gateway, "wrong") as http:
        response = await http.post(f"{target.path}{CHAT}", json=BODY)
    assert (response.status_code, error_of(response)["type"]) == (401, "authentication_error")
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/v2/nothing-here/openai/v1/models", "/v2/-/openai/v1/models"])
async def test_an_endpoint_that_is_not_there(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert (response.status_code, error_of(response)["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("path", ["models", "v2/models", "v1", "", "x/v1/models"])
async def test_a_path_that_is_not_openai_s(target: Target, path: str) -> None:
    response = await target.get(f"/openai/{path}")
    assert (response.status_code, error_of(response)["type"]) == (404, "invalid_request_error")
    assert await target.listed() == []


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE"])
async def test_a_method_that_openai_does_not_have(target: Target, method: str) -> None:
    response = await target.http.request(method, f"{target.path}{CHAT}")
    assert (response.status_code, error_of(response)["type"]) == (405, "invalid_request_error")
    assert "POST" in response.headers["allow"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"null", b"\xff", b'{"a": NaN}', b" ", b"[" * 100_000])
async def test_a_body_that_is_no_json_object(target: Target, body: bytes) -> None:
    response = await target.post(CHAT, body)
    assert (response.status_code, error_of(response)["type"]) == (400, "invalid_request_error")
    assert await target.listed() == []


async def test_a_body_that_is_too_large(gateway: Gateway, target: Target) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, CHAT, f"Content-Length: {RUNSYNC_LIMIT + 1}"))
        status, headers, body = response_on(connection)
    assert (status, headers["connection"]) == (413, "close")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


# the end of the client's patience, of the client and of the gateway


@pytest.fixture(scope="module")
def impatient(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway over the same store that waits half a second for an answer."""
    gateway = Gateway(
        tmp_path_factory.mktemp("impatient"), backing.url, api_keys=API_KEY, openai_wait_seconds="0.5",
        openai_keep_alive_seconds="0.1",
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_does_not_come_in_time(
    impatient: Gateway, target: Target, worker: Worker, stream: bool
) -> None:
    async with client_of(impatient) as http:
        asking = asyncio.create_task(http.post(f"{target.path}{CHAT}", json=BODY | {"stream": stream}))
        job = await worker.next()
        response = await asking
    if stream:
        *comments, last = response.text.removesuffix("\n\n").split("\n\n")
        assert set(comments) == {": keep-alive"}
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert response.status_code == 504
        error = error_of(response)
    assert error["type"] == "timeout"
    assert await is_cancelled(target, job.id)
    assert worker.stopped(job) == [(job.id, 1, "CANCELLED")]


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_hangs_up_cancels_its_job(
    gateway: Gateway, target: Target, worker: Worker, begun: bool
) -> None:
    body = json.dumps(BODY).encode()
    with connected(gateway) as connection:
        connection.sendall(head(target, CHAT, f"Content-Length: {len(body)}") + body)
        if begun:
            id = (await worker.next()).id
        else:
            (id,) = await eventually(target.listed)
    async with asyncio.timeout(1):
        assert await is_cancelled(target, id)


async def test_a_client_that_stops_sending_cancels_nothing_that_is_not_there(gateway: Gateway, target: Target) -> None:
    with connected(gateway) as connection:
        connection.sendall(head(target, CHAT, "Content-Length: 100") + b"{")
        connection.shutdown(socket.SHUT_WR)
        assert not connection.recv(1000).startswith(b"HTTP/1.1 2")
    assert await target.listed() == []


async def test_a_client_that_has_its_answer_cancels_nothing(target: Target, worker: Worker) -> None:
    answer, job = await ask(target, worker)
    worker.finish(job, b"{}")
    await answer
    assert (await target.status(job.id))["status"] == "COMPLETED"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_gateway_that_ends_tells_its_clients_to_try_again(
    backing: Server, target: Target, worker: Worker, tmp_path: Any, stream: bool
) -> None:
    ending = Gateway(tmp_path / "ending", backing.url, api_keys=API_KEY)
    async with client_of(ending) as http:
        asking = asyncio.create_task(http.post(f"{target.path}{CHAT}", json=BODY | {"stream": stream}))
        job = await worker.next()
        ending.stop()
        response = await asking
    assert (response.status_code, error_of(response)["type"]) == (503, "server_error")
    assert int(response.headers["retry-after"]) > 0
    assert await is_cancelled(target, job.id)


async def test_a_worker_s_key_is_no_client_s(make_target: Make) -> None:
    one = await make_target()
    headers = bearer(one.worker_key)
    response = await one.get("/openai/v1/models", headers=headers)
    assert (response.status_code, error_of(response)["type"]) == (403, "permission_error")
