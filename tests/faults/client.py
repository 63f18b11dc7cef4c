"""A client that does what a good client does: it tries the next gateway when one is away or says 503, repeats a
submission under its idempotency key, and resumes streams. What it sees goes into the history."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from ..gateway.clients import API_KEY
from .history import Acknowledged, Chunk, Delivered, Failed, History, Seen, Submitted
from .record import parse_chunk

SECONDS_TO_SUCCEED = 30.0
SECONDS_BETWEEN_TRIES = 0.05


class Client:
    """A client of one endpoint behind several gateways."""

    def __init__(self, urls: Sequence[str], endpoint: str, history: History, keep_alive: bool = True) -> None:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200 if keep_alive else 0)
        self._gateways = [
            httpx.AsyncClient(
                base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=SECONDS_TO_SUCCEED, limits=limits
            )
            for url in urls
        ]
        self._path = f"/v2/{endpoint}"
        self._history = history
        self._turn = 0
        self.seconds_to_succeed = SECONDS_TO_SUCCEED
        self.retried_when_lost = True

    async def close(self) -> None:
        for gateway in self._gateways:
            await gateway.aclose()

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer of the first gateway that is up. What no client should get goes into the history as a failure."""
        deadline = time.monotonic() + self.seconds_to_succeed
        while True:
            what = ""
            try:
                response = await self.once(method, path, **options)
            except httpx.ConnectError as error:
                what = repr(error)
            except httpx.TransportError as error:
                what = repr(error)
                if not self.retried_when_lost:
                    self._history.add(Failed(f"no answer to {method} {path}: {what}"))
            else:
                if response.status_code != 503:
                    if response.status_code >= 500:
                        self._history.add(Failed(f"{response.status_code} for {method} {path}: {response.text}"))
                    return response
                what = response.text
                if "retry-after" not in response.headers:
                    self._history.add(Failed(f"503 without Retry-After for {method} {path}"))
            assert time.monotonic() < deadline, f"{method} {path}: {what}"
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)

    async def once(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer of one gateway, whatever it is."""
        return await self._next().request(method, self._path + path, **options)

    async def run(self, *, query: str = "", key: str | None = None, **input: Any) -> str:
        """Submits a job, as often as it takes, and returns its id."""
        return str((await self._submit(f"/run{query}", key, input))["id"])

    async def runsync(self, *, key: str | None = None, **input: Any) -> str:
        """The same, and waits for its end, or as long as the gateway does."""
        asked = time.monotonic()
        reply = await self._submit("/runsync", key, input)
        self._see(reply, asked)
        return str(reply["id"])

    async def status(self, job: str) -> dict[str, Any]:
        asked = time.monotonic()
        response = await self.request("GET", f"/status/{job}")
        if response.status_code != 200:
            self._history.add(Failed(f"{response.status_code} for the status of job {job}"))
            return {"id": job, "status": "GONE"}
        return self._see(response.json(), asked)

    async def final(self, job: str) -> dict[str, Any]:
        """The job, once it is final."""
        while True:
            asked = time.monotonic()
            response = await self.request("GET", f"/status-sync/{job}?wait=5000")
            assert response.status_code == 200, f"{response.status_code} for {job}: {response.text}"
            reply = self._see(response.json(), asked)
            if reply["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                return reply

    async def all_final(self) -> None:
        """Waits for the end of every acknowledged job, and looks at each once more."""
        await self._for_each_job(self.final)
        await self.look_again()

    async def look_again(self) -> None:
        """Has every acknowledged job's state once more in the history."""
        await self._for_each_job(self.status)

    async def cancel(self, job: str) -> str:
        """Cancels the job; returns the state that it has then."""
        asked = time.monotonic()
        response = await self.request("POST", f"/cancel/{job}")
        assert response.status_code == 200, response.text
        reply = response.json()
        if reply["status"] == "CANCELLED":  # the others are without their output here
            self._see(reply, asked)
        return str(reply["status"])

    async def health(self) -> dict[str, dict[str, int]]:
        response = await self.request("GET", "/health")
        assert response.status_code == 200, response.text
        found: dict[str, dict[str, int]] = response.json()
        return found

    async def follow(self, job: str) -> list[Chunk]:
        """Reads the job's events to their end, resuming where a connection was lost; returns the newest attempt's
        chunks."""
        reader = Reader()
        deadline = time.monotonic() + 2 * self.seconds_to_succeed
        while not reader.ended:
            asked = time.monotonic()
            assert asked < deadline, f"the stream of {job} has not ended after {len(reader.chunks)} chunks"
            try:
                async with self.stream(job, reader.position) as response:
                    if response.status_code == 503:
                        await asyncio.sleep(SECONDS_BETWEEN_TRIES)
                        continue
                    assert response.status_code == 200, response.status_code
                    async for line in response.aiter_lines():
                        reader.feed(line)
            except httpx.TransportError:
                await asyncio.sleep(SECONDS_BETWEEN_TRIES)
        assert reader.done is not None, f"the stream of {job} ended with an error"
        self._see(reader.done, asked)
        self._history.add(Delivered(job, tuple(reader.chunks), whole=True))
        return reader.chunks

    @asynccontextmanager
    async def stream(self, job: str, position: int) -> AsyncIterator[httpx.Response]:
        """A stream of the job's events, from behind a position on."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(position)}
        path = f"{self._path}/stream/{job}"
        async with self._next().stream("GET", path, headers=headers, timeout=SECONDS_TO_SUCCEED) as response:
            yield response

    async def _submit(self, path: str, key: str | None, input: dict[str, Any]) -> dict[str, Any]:
        key = key or uuid.uuid4().hex
        self._history.add(Submitted(key))
        response = await self.request("POST", path, json={"input": input}, headers={"Idempotency-Key": key})
        assert response.status_code == 200, response.text
        reply: dict[str, Any] = response.json()
        self._history.add(Acknowledged(key, reply["id"]))
        return reply

    async def _for_each_job(self, look: Any) -> None:
        room = asyncio.Semaphore(50)

        async def one(job: str) -> None:
            async with room:
                await look(job)

        await asyncio.gather(*map(one, self._history.jobs))

    def _see(self, reply: dict[str, Any], asked: float) -> dict[str, Any]:
        self._history.add(Seen(reply["id"], reply["status"], reply.get("output", reply.get("error")), asked))
        return reply

    def _next(self) -> httpx.AsyncClient:
        self._turn += 1
        return self._gateways[self._turn % len(self._gateways)]


class Reader:
    """What comes of a stream of server-sent events, over several connections."""

    def __init__(self) -> None:
        self.position = 0
        self.chunks: list[Chunk] = []
        self.ended = False
        self.done: dict[str, Any] | None = None
        self._kind = ""
        self._id = 0

    def feed(self, line: str) -> None:
        """Takes one line in."""
        name, _, value = line.partition(": ")
        if not line:
            self._kind = ""
        elif name == "event":
            self._kind = value
        elif name == "id":
            self._id = int(value)
        elif name == "data":
            self._take(json.loads(value))

    def _take(self, data: Any) -> None:
        if self._kind == "done":
            self.ended, self.done = True, data
        elif self._kind == "error":
            self.ended = True
        elif self._kind == "restart":
            self.chunks.clear()
        else:
            self.position = self._id
            self.chunks.append(parse_chunk(data["output"]))
