"""The store stops, is full, or comes back, under a gateway that goes on."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..stores import Cluster, Running, Server, valkey
from .clients import API_KEY, Target, Worker, bearer
from .conftest import client_of
from .dialects.test_runpod import METHODS
from .processes import Gateway
from .waiting import eventually, still_waits


@contextmanager
def over(store: Running, folder: Path) -> Iterator[Gateway]:
    gateway = Gateway(folder, store.url, api_keys=API_KEY)
    try:
        yield gateway
    finally:
        gateway.stop()


@pytest.fixture
def own_gateway(own_server: Server, tmp_path: Path) -> Iterator[Gateway]:
    with over(own_server, tmp_path / "gateway") as gateway:
        yield gateway


async def make(http: httpx.AsyncClient) -> Target:
    return Target(http, (await http.post("/v1/endpoints", json={"id": "e"})).json())


async def every_operation(target: Target, job: str) -> dict[str, httpx.Response]:
    """Tries each one, all at once."""
    http = target.http
    calls: dict[str, Any] = {}
    for path, methods in METHODS.items():
        path = path.replace("/x", f"/{job}")
        for method in methods:
            calls[f"{method} {path}"] = http.request(method, f"{target.path}/{path}", json={"input": 1})
    for name, options in {"openai": {}, "openai stream": {"json": {"stream": True}}}.items():
        calls[name] = http.post(f"{target.path}/openai/v1/x", **options)
    calls["events"] = http.get(f"{target.path}/stream/{job}", headers={"Accept": "text/event-stream"})
    for method, path in (("GET", ""), ("POST", ""), ("GET", "/e"), ("PATCH", "/e"), ("DELETE", "/e")):
        calls[f"{method} endpoints{path}"] = http.request(method, f"/v1/endpoints{path}", json={})
    key = bearer(target.worker_key)
    calls["register"] = http.post(f"{target.path}/workers", headers=key)
    calls["leave"] = http.delete(f"{target.path}/workers/w", headers=key)
    return dict(zip(calls, await asyncio.gather(*calls.values()), strict=True))


def check_unavailable(answers: dict[str, httpx.Response]) -> None:
    wrong = {name: answer.status_code for name, answer in answers.items() if answer.status_code != 503}
    assert wrong == {}
    for answer in answers.values():
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json().keys() == {"error"}


async def registered_again(target: Target) -> Worker:
    """The worker once more: its user was gone with the store. It tries until it is let in, as the SDK does."""

    async def look() -> bool:
        path = f"{target.path}/workers"
        response = await target.http.post(path, json={"id": "w1"}, headers=bearer(target.worker_key))
        assert response.status_code in (200, 503)
        return response.status_code == 200

    assert await eventually(look)
    return await target.register("w1")


async def comes_back(target: Target) -> None:
    async def look() -> bool:
        return (await target.get("/health")).status_code == 200

    assert await eventually(look)


async def test_every_operation_while_the_store_is_down_and_after(own_server: Server, own_gateway: Gateway) -> None:
    async with client_of(own_gateway) as http:
        target = await make(http)
        id = await target.run("before")
        own_server.stop()
        check_unavailable(await every_operation(target, id))
        assert (await http.get("/v2/e/health", headers={"Authorization": "new"})).status_code == 503
        own_server.start()
        await comes_back(target)
        assert (await target.status(id))["status"] == "IN_QUEUE"
        worker = await registered_again(target)
        (job,) = worker.take()
        worker.finish(job)
        assert (job.id, job.input) == (id, b'"before"')
        assert (await target.post("/runsync?wait=1000", {"input": 1})).status_code == 200
        target.close()


async def test_whoever_waits_is_answered_though_the_store_was_away(own_server: Server, own_gateway: Gateway) -> None:
    async with client_of(own_gateway) as http:
        target = await make(http)
        sync = asyncio.create_task(target.post("/runsync", {"input": 1}))
        first = await target.register("w1")
        job = await first.next()
        own_server.stop()
        assert await still_waits(sync)
        own_server.start()
        await comes_back(target)
        again = await registered_again(target)
        again.emit(job, 1, b'"chunk"')
        again.finish(job, b'"done"')
        assert (await sync).json()["output"] == "done"
        target.close()


async def test_events_go_on_after_the_store_was_away(own_server: Server, own_gateway: Gateway) -> None:
    async with client_of(own_gateway) as http:
        target = await make(http)
        id = await target.run(1)
        worker = await target.register("w1")
        (job,) = worker.take()
        worker.emit(job, 1, b'"one"')
        path, headers = f"{target.path}/stream/{id}", {"Accept": "text/event-stream"}
        async with http.stream("GET", path, headers=headers) as response:
            lines = response.aiter_lines()
            while "one" not in await anext(lines):
                pass
            own_server.stop()
            own_server.start()
            await comes_back(target)
            again = await registered_again(target)
            again.emit(job, 2, b'"two"')
            again.end(job)
            rest = [line async for line in lines if line and not line.startswith(":")]
        assert rest[:2] == ["id: 2", 'data: {"output":"two"}']
        assert rest[2] == "event: done"
        target.close()


async def test_an_openai_stream_goes_on_after_the_store_was_away(own_server: Server, own_gateway: Gateway) -> None:
    async with client_of(own_gateway) as http:
        target = await make(http)
        worker = await target.register("w1")
        request = http.build_request("POST", f"{target.path}/openai/v1/chat/completions", json={"stream": True})
        asking = asyncio.create_task(http.send(request, stream=True))
        job = await worker.next()
        worker.emit(job, 1, b'"data: one\\n\\n"')
        response = await asking
        lines = response.aiter_lines()
        assert await anext(lines) == "data: one"
        own_server.stop()
        own_server.start()
        await comes_back(target)
        again = await registered_again(target)
        again.emit(job, 2, b'"data: two\\n\\n"')
        again.end(job)
        assert [line async for line in lines if line and not line.startswith(":")] == ["data: two"]
        await response.aclose()
        target.close()


async def test_a_store_that_is_full(own_server: Server, own_gateway: Gateway) -> None:
    async with client_of(own_gateway) as http:
        target = await make(http)
        id = await target.run(1)
        worker = await target.register()
        (job,) = worker.take()
        with own_server.client as client:
            client.config_set("maxmemory", 1)
            for path in ("/run", "/runsync"):
                response = await target.post(path, {"input": 1})
                assert response.status_code == 503
                assert int(response.headers["retry-after"]) > 0
                assert "memory" in response.json()["error"]
            worker.finish(job, b'"done"')  # what frees memory goes on
            assert (await target.status(id))["output"] == "done"
            client.config_set("maxmemory", 0)
        await target.run(2)
        target.close()


async def test_every_operation_while_a_cluster_is_down_and_after(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", valkey())
    cluster.start()
    try:
        with over(cluster, tmp_path / "gateway") as gateway:
            async with client_of(gateway) as http:
                target = await make(http)
                id = await target.run(1)
                cluster.stop()
                check_unavailable(await every_operation(target, id))
                cluster.start()
                await comes_back(target)
                assert (await target.status(id))["status"] == "IN_QUEUE"
    finally:
        cluster.stop()
