"""The logs of workers, read at the gateway."""

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from ...stores import Server
from ..clients import API_KEY, Target, Worker, bearer
from ..conftest import client_of
from ..processes import Gateway
from .test_runpod_stream import Event, Reader
from .test_worker_calls import RunPodWorker

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def pod(target: Target) -> RunPodWorker:
    return RunPodWorker(target, target.http)


def tell(worker: Worker, *texts: str, first: int = 1, stream: str = "stdout", figures: str = "") -> None:
    lines = [part for text in texts for part in (0, stream, text)]
    assert worker.call("tell", worker.id, figures, "run", first, *lines) == b"OK"


def path_of(target: Target, shape: str, worker: str = "w1") -> str:
    """Where a log is: as ours, as Runqy's documents have it, and as its code has."""
    return {
        "v2": f"{target.path}/workers/{worker}/logs",
        "docs": f"/api/cli/workers/{target.id}:{worker}/logs",
        "code": f"/workers/{target.id}:{worker}/logs",
    }[shape]


@asynccontextmanager
async def following(http: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Reader]:
    async with http.stream("GET", path, headers=EVENTS | headers) as response:
        assert (response.status_code, response.headers["content-type"][:17]) == (200, "text/event-stream"), path
        yield Reader(response)


def texts(events: list[Event]) -> list[str]:
    return [json.loads(event.data)["text"] for event in events]


class TestLines:
    async def test_have_their_streams_and_times(self, target: Target, worker: Worker) -> None:
        tell(worker, "one", "ü\0 \u2028")
        tell(worker, "oh", first=3, stream="stderr")
        found = (await target.get("/workers/w1/logs")).json()
        assert found["count"] == 3
        assert [(line["stream"], line["text"]) for line in found["lines"]] == [
            ("stdout", "one"), ("stdout", "ü\0 \u2028"), ("stderr", "oh"),
        ]  # fmt: skip
        assert all(line["at"] > 1_600_000_000_000 for line in found["lines"])

    @pytest.mark.parametrize("shape", ["docs", "code"])
    async def test_are_plain_for_runqy(self, target: Target, worker: Worker, shape: str) -> None:
        tell(worker, *map(str, range(300)))
        found = (await target.http.get(path_of(target, shape))).json()
        assert found == {"lines": [str(number) for number in range(100, 300)], "count": 200}

    @pytest.mark.parametrize("shape", ["v2", "docs", "code"])
    async def test_are_as_many_as_are_asked_for(self, target: Target, worker: Worker, shape: str) -> None:
        tell(worker, "one", "two", "three")
        for number in (1, 2, 500):
            found = (await target.http.get(path_of(target, shape), params={"n": number})).json()
            assert (found["count"], len(found["lines"])) == (min(3, number), min(3, number))
        for odd in ("0", "501", "-1", "x", "", "1e2", "9" * 30):
            assert (await target.http.get(path_of(target, shape), params={"n": odd})).status_code == 400

    async def test_of_a_worker_that_left_are_there(self, target: Target, worker: Worker) -> None:
        tell(worker, "bye")
        await target.http.delete(f"{target.path}/workers/w1", headers=bearer(target.worker_key))
        assert (await target.get("/workers/w1/logs")).json()["lines"][0]["text"] == "bye"

    async def test_of_one_that_tells_nothing_are_none(self, pod: RunPodWorker) -> None:
        await pod.get("ping")
        assert (await pod.target.get("/workers/pod/logs")).json() == {"lines": [], "count": 0}

    @pytest.mark.parametrize("more", ["", "/stream"])
    async def test_of_nobody(self, target: Target, worker: Worker, more: str) -> None:
        for headers in ({}, EVENTS):
            for id in ("w9", "-", "x" * 64):
                if not more:
                    answer = await target.http.get(path_of(target, "v2", id), headers=headers)
                    assert (answer.status_code, answer.json()) == (404, {"error": "no such worker"})
                for shape in ("docs", "code"):
                    answer = await target.http.get(path_of(target, shape, id) + more, headers=headers)
                    assert (answer.status_code, answer.json()) == (404, {"errors": ["Worker not found"]})

    async def test_take_a_key_that_may_manage(self, target: Target, worker: Worker) -> None:
        for shape in ("v2", "docs", "code"):
            for headers in (bearer(target.worker_key), bearer("wrong"), {"Authorization": b""}):
                answer = await target.http.get(path_of(target, shape), headers=headers)
                assert answer.status_code == (403 if headers == bearer(target.worker_key) else 401)


class TestOverHttp:
    async def test_a_worker_tells_as_one_at_the_store_does(self, pod: RunPodWorker) -> None:
        metrics = {"cpu_percent": 12.5, "memory_used_bytes": 1, "memory_total_bytes": 2**40,
                   "gpus": [{"index": 0, "name": "H100", "utilization_percent": None, "memory_used_mb": 5,
                             "memory_total_mb": 81_559, "temperature_c": 40}]}  # fmt: skip
        await pod.get("ping")
        said = {"run": "a", "first": 1, "lines": [[5000, "stdout", "one"], [0, "stderr", "two"]], "metrics": metrics}
        for _ in range(2):  # the answer to the first was lost
            response = await pod.post("tell", None, said)
            assert (response.status_code, response.json()) == (200, {"status": "OK"})
        lines = (await pod.target.get("/workers/pod/logs")).json()["lines"]
        assert [(line["stream"], line["text"]) for line in lines] == [("stdout", "one"), ("stderr", "two")]
        assert 4900 < lines[1]["at"] - lines[0]["at"] < 5100
        shown = (await pod.target.get("/workers/pod")).json()["metrics"]
        assert shown.pop("collected_at") > 1_600_000_000
        assert shown == metrics


class TestFollowing:
    async def test_gives_what_was_printed_and_what_is(self, target: Target, worker: Worker) -> None:
        tell(worker, "one", "two", "three")
        async with following(target.http, path_of(target, "v2") + "?n=2") as reader:
            assert texts(await reader.next(2)) == ["two", "three"]
            tell(worker, "four", first=4)
            (four,) = await reader.next(1)
        assert texts([four]) == ["four"]
        assert json.loads(four.data).keys() == {"at", "stream", "text"}

    @pytest.mark.parametrize("shape", ["docs", "code"])
    async def test_is_plain_for_runqy(self, target: Target, worker: Worker, shape: str) -> None:
        tell(worker, "one", "a\rb")
        async with following(target.http, path_of(target, shape) + "/stream") as reader:
            assert [event.data for event in await reader.next(2)] == ["one", "a b"]

    async def test_goes_on_where_it_was(self, target: Target, worker: Worker) -> None:
        tell(worker, "one", "two")
        async with following(target.http, path_of(target, "v2")) as reader:
            one, _ = await reader.next(2)
        tell(worker, "three", first=3)
        async with following(target.http, path_of(target, "v2"), **{"Last-Event-ID": one.id}) as reader:
            assert texts(await reader.next(2)) == ["two", "three"]

    @pytest.mark.parametrize("id", ["1", "1-", "x-1", "1-1-1", "9" * 16 + "-0", "-1-0"])
    async def test_behind_an_id_that_is_none(self, target: Target, worker: Worker, id: str) -> None:
        answer = await target.http.get(path_of(target, "v2"), headers=EVENTS | {"Last-Event-ID": id})
        assert answer.status_code == 400

    async def test_by_several_reads_the_log_once_for_all(self, target: Target, worker: Worker, admin: Any) -> None:
        tell(worker, "one")
        library, base = worker.registered["library"], target.base
        async with (
            following(target.http, path_of(target, "v2")) as first,
            following(target.http, path_of(target, "v2")) as second,
            following(target.http, path_of(target, "docs") + "/stream") as third,
        ):
            for reader in (first, second, third):
                await reader.next(1)
            with admin.monitor() as monitor:
                monitor.connection._sock.settimeout(10)
                commands = (each["command"] for each in monitor.listen())
                looks = 0
                tell(worker, "two", first=2)
                for command in commands:
                    if command.startswith(f"FCALL {library}_log 1 {base} w1"):
                        looks += 1
                    elif looks:  # what this one look does
                        break
            assert looks == 1
            for reader in (first, second, third):
                await reader.next(1)

    async def test_ends_when_the_gateway_does(
        self, target: Target, worker: Worker, backing: Server, tmp_path: Path
    ) -> None:
        tell(worker, "one")
        gateway = Gateway(tmp_path, backing.url, api_keys=API_KEY, audit_log="off")
        try:
            async with client_of(gateway) as http, following(http, path_of(target, "v2")) as reader:
                await reader.next(1)
                gateway.send(signal.SIGTERM)
                assert await reader.rest() == []
        finally:
            gateway.stop()
