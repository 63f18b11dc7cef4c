"""Limits of requests, through the gateway and by themselves."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access.limits import LIMITS, Limit, limits_of
from gateway.errors import StartupError

from ...stores import Server
from ..clients import API_KEY, Target, bearer
from ..conftest import client_of
from ..processes import Gateway
from ..waiting import eventually, still_waits
from .conftest import ADMIN_KEY
from .test_stored_keys import created, endpoint_of

Replicas = tuple[Gateway, Gateway]


def check_limited(response: httpx.Response, limit: int) -> None:
    assert response.status_code == 429, response.text
    assert str(limit) in response.json()["error"]
    headers = response.headers
    assert (headers["ratelimit-limit"], headers["ratelimit-remaining"]) == (str(limit), "0")
    assert 1 <= int(headers["retry-after"]) <= 10
    assert headers["ratelimit-reset"] == headers["retry-after"]


class TestRate:
    async def test_of_the_contract(self, one: httpx.AsyncClient, two: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        for http in (one, two):
            assert (await http.post(f"{target.path}/purge-queue")).status_code == 200
        check_limited(await two.post(f"{target.path}/purge-queue"), 2)
        answers = [await one.get(f"{target.path}/requests") for _ in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429]
        check_limited(answers[-1], 10)

    async def test_of_each_key_and_each_endpoint(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target, other = await endpoint_of(one, endpoint), await endpoint_of(one, f"{endpoint}-other")
        for _ in range(2):
            await target.post("/purge-queue")
        assert (await target.post("/purge-queue")).status_code == 429
        assert (await other.post("/purge-queue")).status_code == 200
        key = bearer((await created(one))["key"])
        assert (await target.post("/purge-queue", headers=key)).status_code == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", "/run"), ("POST", "/runsync?wait=1000"), ("POST", "/openai/v1/x"), ("POST", "/cancel/{job}"),
         ("GET", "/status/{job}"), ("GET", "/status-sync/{job}?wait=1000"), ("GET", "/stream/{job}"),
         ("GET", "/health"), ("GET", "/requests"), ("POST", "/purge-queue"), ("GET", "/workers"),
         ("GET", "/webhooks"), ("GET", "/webhooks/msg_x_1"), ("POST", "/webhooks/msg_x_1/retry")],
    )  # fmt: skip
    async def test_of_a_key_of_its_own(self, one: httpx.AsyncClient, endpoint: str, method: str, path: str) -> None:
        target = await endpoint_of(one, endpoint)
        id = await target.run(1)
        await target.post(f"/cancel/{id}")
        key = bearer((await created(one, rate=1))["key"])

        def ask() -> Any:
            return target.http.request(
                method, target.path + path.format(job=id), json={"input": 1}, headers=key, timeout=3
            )

        first = asyncio.create_task(ask())
        if path.startswith("/openai"):
            assert await still_waits(first)  # for its job
        else:
            assert (await first).status_code == (404 if "msg_x" in path else 200)
        second = await ask()
        assert second.status_code == 429
        assert second.headers["ratelimit-limit"] == "1"
        first.cancel()

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [("POST", "/queue/add", {"data": 1}), ("POST", "/api/cli/tasks", {"data": 1}),
         ("POST", "/queue/add-batch", {"jobs": [{"data": 1}] * 3}), ("GET", "/queue/{job}", None),
         ("GET", "/queue/{job}?wait=true", None), ("DELETE", "/api/cli/tasks/{job}", None),
         ("POST", "/api/tasks/{job}/cancel", None)],
    )  # fmt: skip
    async def test_of_a_key_of_its_own_with_runqy_s_operations(
        self, one: httpx.AsyncClient, endpoint: str, method: str, path: str, body: Any
    ) -> None:
        target = await endpoint_of(one, endpoint)
        id = await target.run(1)
        await target.post(f"/cancel/{id}")
        key = bearer((await created(one, rate=1))["key"])
        sent = body and {"queue": endpoint, **body}
        answers = [await one.request(method, path.format(job=id), json=sent, headers=key) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 429]
        assert answers[1].headers["ratelimit-limit"] == "1"
        assert answers[1].json().keys() == {"errors"}

    async def test_workers_add_nothing_to_a_key_s_own(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        worker = await target.register("w1")
        worker.ready()
        key = bearer((await created(one, rate=1))["key"])
        assert (await target.post("/run", {"input": 1}, headers=key)).status_code == 200
        check_limited(await target.post("/run", {"input": 1}, headers=key), 1)
        target.close()

    async def test_an_event_stream_counts_once(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        id = await target.run(1)
        await target.post(f"/cancel/{id}")
        key = bearer((await created(one, rate=1))["key"]) | {"Accept": "text/event-stream"}
        assert "event: done" in (await target.get(f"/stream/{id}", headers=key)).text
        assert (await target.get(f"/stream/{id}", headers=key)).status_code == 429

    async def test_a_refused_submission_can_be_sent_again(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        key = bearer((await created(one, rate=2))["key"]) | {"Idempotency-Key": "k"}
        body = {"input": 1}
        ids = [(await target.post("/run", body, headers=key)).json()["id"] for _ in range(2)]
        assert ids[0] == ids[1]
        check_limited(await target.post("/run", body, headers=key), 2)
        assert (await target.health())["jobs"]["inQueue"] == 1

    async def test_openai_s_clients_see_it_in_their_shape(self, one: httpx.AsyncClient, endpoint: str) -> None:
        target = await endpoint_of(one, endpoint)
        key = bearer((await created(one, rate=1))["key"])
        first = asyncio.create_task(target.post("/openai/v1/x", {}, headers=key))
        assert await still_waits(first)
        response = await target.post("/openai/v1/x", {}, headers=key)
        assert (response.status_code, response.json()["error"]["type"]) == (429, "rate_limit_error")
        first.cancel()


async def wait_for(target: Target, http: httpx.AsyncClient, key: dict[str, str]) -> "asyncio.Task[httpx.Response]":
    """A request that goes on."""
    task = asyncio.create_task(http.post(f"{target.path}/runsync", json={"input": 1}, headers=key))
    before = (await target.health())["jobs"]["inQueue"]

    async def is_there() -> bool:
        return (await target.health())["jobs"]["inQueue"] > before or task.done()

    await eventually(is_there)
    return task


class TestAtOnce:
    @pytest.fixture
    async def pair(self, backing: Server, tmp_path: Path) -> Any:
        """Two gateways, with a limit of two requests at once, of which one may be killed."""
        gateways = [
            Gateway(tmp_path / name, backing.url, admin_keys=f"acme:{ADMIN_KEY}", rate_limits="runsync=1000/2/0")
            for name in "ab"
        ]
        yield gateways
        for gateway in gateways:
            gateway.kill()

    async def test_counts_at_all_gateways_and_ends_with_the_request(self, pair: list[Gateway], endpoint: str) -> None:
        async with client_of(pair[0], ADMIN_KEY) as a, client_of(pair[1], ADMIN_KEY) as b:
            target = await endpoint_of(a, endpoint)
            first, second = [await wait_for(target, http, {}) for http in (a, b)]
            refused = await b.post(f"{target.path}/runsync", json={"input": 1})
            assert (refused.status_code, "at once" in refused.json()["error"]) == (429, True)
            first.cancel()

            async def is_free() -> bool:
                asking = asyncio.create_task(b.post(f"{target.path}/runsync", json={"input": 1}))
                waits = await still_waits(asking)
                asking.cancel()
                return waits

            assert await eventually(is_free)
            second.cancel()

    async def test_a_gateway_that_was_killed_holds_nothing(self, pair: list[Gateway], endpoint: str) -> None:
        async with client_of(pair[0], ADMIN_KEY) as a, client_of(pair[1], ADMIN_KEY) as b:
            target = await endpoint_of(b, endpoint)
            waiting = [await wait_for(target, a, {}) for _ in range(2)]
            assert (await b.post(f"{target.path}/runsync", json={"input": 1})).status_code == 429
            pair[0].send(signal.SIGKILL)
            for task in waiting:
                with pytest.raises(httpx.TransportError):
                    await task

            async def is_free() -> bool:
                asking = asyncio.create_task(b.post(f"{target.path}/runsync?wait=1000", json={"input": 1}))
                return await still_waits(asking) or asking.cancel()

            assert await eventually(is_free)

    async def test_a_body_is_not_read_for_nothing(self, pair: list[Gateway], endpoint: str) -> None:
        async with client_of(pair[0], ADMIN_KEY) as http:
            target = await endpoint_of(http, endpoint)
            waiting = [await wait_for(target, http, {}) for _ in range(2)]
            sent: list[int] = []

            async def body() -> Any:
                for number in range(10_000):
                    sent.append(number)
                    yield b" " * 1000

            response = await http.post(f"{target.path}/runsync", content=body())
            assert response.status_code == 429
            for task in waiting:
                task.cancel()


async def test_a_full_queue(one: httpx.AsyncClient, endpoint: str) -> None:
    target = await endpoint_of(one, endpoint, maxQueued=2)
    for _ in range(2):
        id = await target.run(1)
    for path in ("/run", "/runsync", "/openai/v1/x"):
        response = await target.post(path, {"input": 1})
        assert response.status_code == 429
        assert "the queue of endpoint" in response.text
        assert response.headers["retry-after"] == "1"
    await target.post(f"/cancel/{id}")
    assert await target.run(1)


async def test_without_limits_there_are_none(gateway: Gateway, target: Target) -> None:
    async with client_of(gateway, API_KEY):
        assert {(await target.post("/purge-queue")).status_code for _ in range(5)} == {200}


# by themselves


def test_the_usual_limits_are_the_contracts() -> None:
    found = {name: limit[:2] for name, limit in limits_of([]).items()}
    assert found == {
        "run": (1000, 200), "runsync": (2000, 400), "status": (2000, 400), "stream": (2000, 400), "openai": (2000, 400),
        "cancel": (100, 20), "purge-queue": (2, 0), "requests": (10, 2),
        "queue-add": (0, 0), "queue-add-batch": (0, 0), "queue-get": (0, 0),
    }  # fmt: skip


def test_limits_of_the_settings() -> None:
    found = limits_of(["run=5", "cancel=6/7", "requests=0/0/0"])
    assert (found["run"], found["cancel"]) == (Limit(5, 200, 50), Limit(6, 7, 5))
    assert (found["requests"], found["status"]) == (Limit(0, 0, 0), LIMITS["status"])
    assert limits_of(["off"]) == {}


@pytest.mark.parametrize("entry", ["run", "run=", "run=x", "walk=5", "run=1/2/3/4", "run=-1", "on"])
def test_limits_that_make_no_sense(entry: str) -> None:
    with pytest.raises(StartupError, match="RUNLANE_RATE_LIMITS"):
        limits_of([entry])
