"""One fault test: an endpoint of its own, its clients and workers, and the history that is checked at the end."""

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
        self.attempts: int = fields.get("attempts", 3)
        self.endpoint = deployment.make_endpoint(endpoint, **fields)
        self.client = self.make_client(*deployment.nodes)
        self._workers: list[Worker] = []

    def make_client(self, *nodes: Node, keep_alive: bool = True) -> Client:
        """A client that goes to the gateways of these nodes in turn; `client` goes to all."""
        return Client([node.url for node in nodes], self.endpoint.id, self.history, keep_alive)

    async def start_worker(self, node: Node, kind: str = "plain", concurrency: int = 1, **environment: str) -> Worker:
        """A worker that registers at this node, once its handler is loaded."""
        worker = self.begin_worker(node, kind, concurrency, **environment)
        await eventually(worker.is_loaded, SECONDS_TO_LOAD)
        return worker

    def begin_worker(self, node: Node, kind: str = "plain", concurrency: int = 1, **environment: str) -> Worker:
        """The same without waiting for it."""
        worker = Worker(node, self.endpoint, self.history, kind, concurrency, **environment)
        self._workers.append(worker)
        return worker

    async def started(self, job: str, times: int = 1, seconds: float = 15.0) -> None:
        """Returns when handlers have begun so many attempts of the job."""

        async def look() -> bool:
            return len(self.history.starts(job)) >= times

        await eventually(look, seconds)

    async def settle(self) -> None:
        """Waits for the end of every job, and checks the history."""
        await self.client.all_final()
        self.check()

    def check(self) -> None:
        with self.deployment.store.client as store:
            check(self.history, store, self.endpoint.id, self.attempts)

    async def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        await self.client.close()
