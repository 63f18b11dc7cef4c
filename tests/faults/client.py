"""A client that does what a good client does: it tries the next gateway when one is away or says 503, repeats a
submission under its idempotency key, and resumes streams. What it sees goes into the history."""

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from ..gateway.clients import API_KEY
from .history import Acknowledged, Chunk, Delivered, Failed, History, Seen, Submitted
from .http import Answer, CutOffError, Http, NotConnectedError
from .record import parse_chunk

SECONDS_TO_SUCCEED = 30.0
SECONDS_TO_END = 60.0
CALLS_AT_ONCE = 20
SECONDS_BETWEEN_TRIES = 0.05


class Client:
    """A client of one endpoint behind several gateways.

    counts_cut_off: whether it is a failure that a gateway took a request and went away without an answer.
    """

    counts_cut_off = False

    def __init__(self, urls: Sequence[str], endpoint: str, history: History, keep_alive: bool = True) -> None:
        headers = {"Authorization": f"Bearer {API_KEY}"}
        self._gateways = [Http(url, headers, keep_alive) for url in urls]
        self.path = f"/v2/{endpoint}"
        self._history = history
        self._turn = 0

    def close(self) -> None:
        for gateway in self._gateways:
            gateway.close()

    async def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The answer of the first gateway that is up. What no client should get goes into the history as a failure."""
        deadline = time.monotonic() + SECONDS_TO_SUCCEED
        while True:
            try:
                answer = await self.once(method, path, body, headers)
            except (NotConnectedError, CutOffError) as error:
                what = str(error)
                if self.counts_cut_off and isinstance(error, CutOffError):
                    self._history.add(Failed(f"no answer to {method} {path}: {what}"))
            else:
                if answer.status != 503:
                    if answer.status >= 500:
                        self._history.add(Failed(f"{answer.status} for {method} {path}: {answer.text}"))
                    return answer
                what = answer.text
                if "retry-after" not in answer.headers:
                    self._history.add(Failed(f"503 without Retry-After for {method} {path}"))
            assert time.monotonic() < deadline, f"{method} {path}: {what}"
            await asyncio.sleep(SECONDS_BETWEEN_TRIES)

    async def once(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The answer of one gateway, whatever it is."""
        return await self._next().request(method, self.path + path, body, headers)

    async def run(self, *, key: str | None = None, policy: dict[str, Any] | None = None, **input: Any) -> str:
        """Submits a job, as often as it takes, and returns its id."""
        body = {"input": input} | ({"policy": policy} if policy else {})
        return str((await self._submit("/run", key, body))["id"])

    async def runsync(self, *, key: str | None = None, **input: Any) -> str:
        """The same, and waits for its end, or as long as the gateway does."""
        asked = time.monotonic()
        reply = await self._submit("/runsync", key, {"input": input})
        self._see(reply, asked)
        return str(reply["id"])

    async def status(self, job: str) -> dict[str, Any]:
        asked = time.monotonic()
        answer = await self.request("GET", f"/status/{job}")
        if answer.status != 200:
            self._history.add(Failed(f"{answer.status} for the status of job {job}"))
            return {"id": job, "status": "GONE"}
        return self._see(answer.json(), asked)

    async def final(self, job: str) -> dict[str, Any]:
        """The job, once it is final."""
        deadline = time.monotonic() + SECONDS_TO_END
        while True:
            asked = time.monotonic()
            answer = await self.request("GET", f"/status-sync/{job}?wait=5000")
            assert answer.status == 200, f"{answer.status} for {job}: {answer.text}"
            reply = self._see(answer.json(), asked)
            if reply["status"] not in ("IN_QUEUE", "IN_PROGRESS"):
                return reply
            assert asked < deadline, f"not final: {reply}"

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
        answer = await self.request("POST", f"/cancel/{job}")
        assert answer.status == 200, answer.text
        reply = answer.json()
        if reply["status"] == "CANCELLED":  # the others are without their output here
            self._see(reply, asked)
        return str(reply["status"])

    async def health(self) -> dict[str, dict[str, int]]:
        answer = await self.request("GET", "/health")
        assert answer.status == 200, answer.text
        found: dict[str, dict[str, int]] = answer.json()
        return found

    async def follow(self, job: str, reader: "Reader | None" = None) -> list[Chunk]:
        """Reads the job's events to their end, resuming where a connection was lost, or where `reader` has come to;
        returns the newest attempt's chunks."""
        reader = reader or Reader()
        deadline = time.monotonic() + SECONDS_TO_END
        while not reader.ended:
            asked = time.monotonic()
            assert asked < deadline, f"the stream of {job} has not ended after {len(reader.chunks)} chunks"
            try:
                async with self.stream(job, reader.position) as (status, lines):
                    if status == 200:
                        async for line in lines:
                            reader.feed(line)
                    assert status in (200, 503), f"{status} for the stream of {job}"
            except (NotConnectedError, CutOffError):
                pass
            if not reader.ended:
                await asyncio.sleep(SECONDS_BETWEEN_TRIES)
        assert reader.done is not None, f"the stream of {job} ended with an error"
        self._see(reader.done, asked)
        self._history.add(Delivered(job, tuple(reader.chunks), whole=True))
        return reader.chunks

    def stream(self, job: str, position: int) -> AbstractAsyncContextManager[tuple[int, AsyncIterator[str]]]:
        """The status and the lines of a stream of the job's events, from behind a position on."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(position)}
        return self._next().lines(f"{self.path}/stream/{job}", headers)

    async def _submit(self, path: str, key: str | None, body: dict[str, Any]) -> dict[str, Any]:
        key = key or uuid.uuid4().hex
        self._history.add(Submitted(key))
        answer = await self.request("POST", path, body, {"Idempotency-Key": key})
        assert answer.status == 200, answer.text
        reply: dict[str, Any] = answer.json()
        self._history.add(Acknowledged(key, reply["id"]))
        return reply

    async def _for_each_job(self, look: Callable[[str], Awaitable[Any]]) -> None:
        room = asyncio.Semaphore(CALLS_AT_ONCE)

        async def one(job: str) -> None:
            async with room:
                await look(job)

        await asyncio.gather(*map(one, self._history.jobs))

    def _see(self, reply: dict[str, Any], asked: float) -> dict[str, Any]:
        self._history.add(Seen(reply["id"], reply["status"], reply.get("output", reply.get("error")), asked))
        return reply

    def _next(self) -> Http:
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
