"""A client of one endpoint, and a worker of it whose every step the test decides."""

from typing import Any, NamedTuple, cast

import httpx
import redis

from .waiting import eventually

API_KEY = "rl-test-key"
MINUTE_MS = 60_000


class Taken(NamedTuple):
    """A job as the store hands it to a worker; `timeout` in ms."""

    id: str
    attempt: int
    timeout: int
    input: bytes
    request: bytes


class Worker:
    """Calls the engine's functions as the SDK does, as the restricted user that its registration gave it."""

    def __init__(self, registered: dict[str, Any]) -> None:
        self.registered = registered
        self.id: str = registered["worker"]
        self.base: str = registered["base"]
        self.store = redis.Redis.from_url(registered["redis"]["url"])

    def close(self) -> None:
        self.store.close()

    def call(self, function: str, *arguments: Any) -> Any:
        return self.store.fcall(f"{self.registered['library']}_{function}", 1, self.base, *arguments)

    def ready(self, state: str = "ready") -> None:
        """Says that it has loaded its handler, or what else `state` says."""
        self.call("renew", self.id, MINUTE_MS, 1, state, "")

    def take(self, capacity: int = 1) -> list[Taken]:
        jobs = []
        for id, attempt, timeout, input, request in self.call("take", self.id, capacity):
            if input is None:  # it is large
                input, request = self.call("fetch", id, attempt)
            jobs.append(Taken(id.decode(), attempt, timeout, input, request))
        return jobs

    async def next(self) -> Taken:
        """The next job, when there is one."""

        async def look() -> list[Taken]:
            return self.take()

        return (await eventually(look))[0]

    def emit(self, job: Taken, first: int, *chunks: bytes) -> Any:
        return self.call("emit", job.id, job.attempt, first, *chunks)

    def progress(self, job: Taken, value: bytes) -> Any:
        return self.call("progress", job.id, job.attempt, value)

    def finish(self, job: Taken, output: bytes = b"1") -> Any:
        return self.call("finish", job.id, job.attempt, "COMPLETED", "output", output)

    def end(self, job: Taken) -> Any:
        """Completes it without an output of its own, as a generator does."""
        return self.call("finish", job.id, job.attempt, "COMPLETED", "", "")

    def fail(self, job: Taken, error: str = "it broke") -> Any:
        return self.call("finish", job.id, job.attempt, "FAILED", "error", error)

    def lose(self, job: Taken, reason: str = "the worker went") -> Any:
        return self.call("lose", job.id, job.attempt, reason)

    def stopped(self, *jobs: Taken) -> list[tuple[str, int, str]]:
        """Renews the leases of the jobs; returns (id, attempt, state) of those that it no longer holds."""
        pairs = [value for job in jobs for value in (job.id, job.attempt)]
        reply = self.call("renew", self.id, MINUTE_MS, 1, "ready", "", *pairs)
        found = zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        return [(id.decode(), int(attempt), state.decode()) for id, attempt, state in found]


class Target:
    """An endpoint as its clients reach it."""

    def __init__(self, http: httpx.AsyncClient, created: dict[str, Any]) -> None:
        self.http = http
        self.id: str = created["id"]
        self.worker_key: str = created["workerKey"]
        self.base = f"runlane:{{{self.id}}}"
        self.path = f"/v2/{self.id}"
        self._workers: list[Worker] = []

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.http.get(f"{self.path}{path}", **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Sends `body` as it is when it is bytes, else as JSON."""
        if body is not None:
            options["content" if isinstance(body, bytes) else "json"] = body
        return await self.http.post(f"{self.path}{path}", **options)

    async def run(self, input: Any = None, **fields: Any) -> str:
        """Submits a job and returns its id."""
        response = await self.post("/run", {"input": input, **fields})
        assert response.status_code == 200, response.text
        return cast(str, response.json()["id"])

    async def status(self, job: str) -> dict[str, Any]:
        response = await self.get(f"/status/{job}")
        assert response.status_code == 200, response.text
        return cast(dict[str, Any], response.json())

    async def poll(self, job: str) -> dict[str, Any]:
        """One poll of /stream."""
        response = await self.get(f"/stream/{job}")
        assert response.status_code == 200, response.text
        return cast(dict[str, Any], response.json())

    async def health(self) -> dict[str, dict[str, int]]:
        return cast(dict[str, dict[str, int]], (await self.get("/health")).json())

    async def listed(self, **query: Any) -> list[str]:
        """The ids of the endpoint's jobs."""
        return [job["id"] for job in (await self.get("/requests", params=query)).json()["requests"]]

    async def register(self, id: str | None = None, **description: Any) -> Worker:
        """A new worker of the endpoint."""
        body = {"description": description} | ({"id": id} if id else {})
        response = await self.http.post(f"{self.path}/workers", json=body, headers=bearer(self.worker_key))
        assert response.status_code == 200, response.text
        self._workers.append(Worker(response.json()))
        return self._workers[-1]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def bearer(key: str) -> dict[str, bytes]:
    return {"Authorization": f"Bearer {key}".strip().encode()}
