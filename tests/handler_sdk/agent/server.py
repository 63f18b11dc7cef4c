"""A real gateway as agents reach it, and what a client of an endpoint does."""

import json
from collections.abc import Callable
from typing import Any

import httpx

from handler_sdk.agent.assignment import Assignment

from ...gateway.clients import API_KEY
from ...gateway.waiting import eventually_true
from ..proxy import Forward, Message, Proxy, reply

FINAL = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


class Front(Proxy):
    """In front of a gateway: notes how agents register, and can have them find nobody there.

    failures: so many registrations fail.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.failures = 0
        self.registrations: list[dict[str, Any]] = []

    async def answer(self, request: Message, forward: Forward) -> Message:
        if request.path == "/worker/register":
            self.registrations.append(json.loads(request.body))
            if self.failures:
                self.failures -= 1
                return reply(503, b'{"errors":["not now"]}')
        return await forward(request)


class Queue:
    """What its owner and a client do at one endpoint of a gateway."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._path = f"/v2/{name}"
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}, timeout=30)
        self.worker_key: str = self._post("/v1/endpoints", 201, id=name, leaseSeconds=1)["workerKey"]

    def deploy(self, name: str = "", **deployment: Any) -> None:
        """Sets the deployment of this queue, or of another one."""
        fields = {"startup_cmd": "python main.py", **deployment}
        self._post("/workers/queues?force=true", 201, name=name or self.name, priority=1, deployment=fields)

    def keep_secrets(self, values: dict[str, str]) -> str:
        """Puts values into a vault, and returns its name."""
        vault = f"{self.name}-vault"
        if self._http.get(f"/api/vaults/{vault}").status_code == 404:
            self._post("/api/vaults", 201, name=vault)
        for key, value in values.items():
            self._post(f"/api/vaults/{vault}/entries", 200, key=key, value=value)
        return vault

    def _post(self, path: str, status: int, **body: Any) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def submit(self, given: Any = None, **request: Any) -> str:
        return self.submit_raw(json.dumps({"input": given, **request}))

    def submit_raw(self, body: str) -> str:
        answer = self._http.post(f"{self._path}/run", content=body)
        assert answer.status_code == 200, answer.text
        id: str = answer.json()["id"]
        return id

    def add(self, sub_queue: str, data: Any) -> str:
        """Adds a task to a sub-queue, as Runqy's clients do."""
        id: str = self._post("/queue/add", 200, queue=f"{self.name}.{sub_queue}", data=data)["info"]["id"]
        return id

    def look(self, job: str) -> dict[str, Any]:
        found: dict[str, Any] = self._http.get(f"{self._path}/status/{job}").json()
        return found

    def wait(
        self, job: str, until: Callable[[dict[str, Any]], Any] | None = None, seconds: float = 15.0
    ) -> dict[str, Any]:
        """The job once it is final, or as `until` wants it."""
        fits = until or (lambda found: found["status"] in FINAL)

        def look() -> dict[str, Any] | None:
            found = self.look(job)
            return found if fits(found) else None

        try:
            found = eventually_true(look, seconds)
        except AssertionError:
            raise AssertionError(f"the job is {self.look(job)}") from None
        assert found is not None
        return found

    def run(self, given: Any = None) -> Any:
        """The output of a job that must be COMPLETED."""
        found = self.wait(self.submit(given))
        assert found["status"] == "COMPLETED", found
        return found.get("output")

    def error(self, given: Any = None) -> str:
        """The error of a job that must be FAILED."""
        found = self.wait(self.submit(given))
        assert found["status"] == "FAILED", found
        error: str = found["error"]
        return error

    def stream(self, job: str) -> list[Any]:
        """The chunks that no call has had."""
        answer = self._http.get(f"{self._path}/stream/{job}").json()
        return [each["output"] for each in answer["stream"]]

    def cancel(self, job: str) -> None:
        assert self._http.post(f"{self._path}/cancel/{job}").json()["status"] == "CANCELLED"

    def log(self) -> list[str]:
        """What the only worker has printed."""
        (worker,) = self.workers()
        lines: list[dict[str, Any]] = self._http.get(f"{self._path}/workers/{worker['id']}/logs?n=500").json()["lines"]
        return [line["text"] for line in lines]

    def workers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._http.get(f"{self._path}/workers").json()["workers"]
        return found

    def queues_of_workers(self) -> list[str]:
        """As Runqy's list of workers has them."""
        found = self._http.get("/api/cli/workers?limit=1000").json()["workers"]
        return [each["queues"] for each in found if each["endpoint"] == self.name]

    def close(self) -> None:
        self._http.close()


def assignment(url: str, **more: Any) -> Assignment:
    """For tests without a server."""
    fields: dict[str, Any] = {"queue": "q", "endpoint": "q", "git_url": url, "branch": "main"}
    return Assignment(**{**fields, "startup_command": "python main.py", **more})
