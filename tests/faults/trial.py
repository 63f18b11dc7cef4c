"""One fault test: an endpoint of its own, its clients and workers, and the history that is checked at the end."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..gateway.waiting import eventually
from .client import Client
from .deployment import SECONDS_TO_LOAD, Deployment, Node, Worker
from .history import History, check


class Trial:
    """Everything that it starts ends with `close`."""

    def __init__(self, deployment: Deployment, folder: Path, endpoint: str, **fields: Any) -> None:
        """`fields`: of the endpoint, as the API names them."""
        self.deployment = deployment
        self.history = History(folder / "handlers.jsonl")
        self._gate = folder / "gate"
        self.attempts: int = fields.get("attempts", 3)
        self.endpoint = deployment.make_endpoint(endpoint, **fields)
        self._clients: list[Client] = []
        self.client = self.make_client(*deployment.nodes)
        self._workers: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []

    @property
    def gate(self) -> str:
        """A file that is there after `open_gate`; for the input `until` of the handler."""
        return str(self._gate)

    def open_gate(self, attempt: int | None = None) -> None:
        """Lets jobs go on that wait for it: all, or just this attempt."""
        Path(f"{self.gate}{attempt or ''}").touch()

    def make_client(self, *nodes: Node, keep_alive: bool = True) -> Client:
        """A client that goes to the gateways of these nodes in turn; `client` goes to all."""
        self._clients.append(Client([node.url for node in nodes], self.endpoint.id, self.history, keep_alive))
        return self._clients[-1]

    async def start_worker(
        self, node: Node, kind: str = "plain", concurrency: int = 1, environment: Mapping[str, str] | None = None
    ) -> Worker:
        """A worker that registers at this node, once its handler is loaded."""
        worker = self.begin_worker(node, kind, concurrency, environment)
        await eventually(worker.is_loaded, SECONDS_TO_LOAD)
        return worker

    def begin_worker(
        self, node: Node, kind: str = "plain", concurrency: int = 1, environment: Mapping[str, str] | None = None
    ) -> Worker:
        """The same without waiting for it."""
        worker = Worker(node, self.endpoint, self.history, kind, concurrency, environment or {})
        self._workers.append(worker)
        return worker

    def keep_worker(
        self, node: Node, kind: str = "plain", concurrency: int = 1, environment: Mapping[str, str] | None = None
    ) -> "asyncio.Task[None]":
        """Has a worker run from now on, as a service manager does: when it has ended, another one takes its place."""

        async def keep() -> None:
            while True:
                worker = self.begin_worker(node, kind, concurrency, environment)
                await worker.has_ended()

        self._keepers.append(asyncio.create_task(keep()))
        return self._keepers[-1]

    def running_workers(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.runs]

    def pids(self) -> list[int]:
        """The processes of gateways and workers that run now."""
        gateways = [node.process.pid for node in self.deployment.nodes if node.process is not None]
        return gateways + [worker.process.pid for worker in self.running_workers()]

    async def started(self, job: str, times: int = 1, seconds: float = 15.0) -> None:
        """Returns when handlers have begun so many attempts of the job."""

        async def look() -> bool:
            return len(self.history.starts(job)) >= times

        await eventually(look, seconds)

    async def starts(self, attempts: int) -> None:
        """Returns when handlers have begun so many attempts of any jobs."""

        async def look() -> bool:
            return len(self.history.started()) >= attempts

        await eventually(look)

    async def written(self, job: str, chunks: int) -> None:
        """Returns when handlers have made so many chunks for the job, in all its attempts."""

        async def look() -> bool:
            return self.history.written(job) >= chunks

        await eventually(look)

    async def returned(self, job: str, attempt: int) -> None:
        """Returns when the handler of this attempt has given its result."""

        async def look() -> bool:
            return self.history.returned(job, attempt)

        await eventually(look)

    async def settle(self) -> None:
        """Waits for the end of every job, and checks the history."""
        await self.client.all_final()
        self.check()

    def check(self) -> None:
        with self.deployment.store.client as store:
            check(self.history, store, self.endpoint.id, self.attempts)

    async def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        for worker in self._workers:
            worker.kill()
        for client in self._clients:
            client.close()
