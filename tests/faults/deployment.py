"""runlane as it is deployed: a store, gateways and workers as processes, and lines between them that can be broken."""

import functools
import json
import math
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.access import limits

from ..gateway.clients import API_KEY
from ..gateway.processes import Process, listens
from ..gateway.waiting import eventually, eventually_true
from ..handler_sdk.conftest import WorkerProcess
from ..stores import Server, free_port, valkey
from .handler import CONCURRENCY_VARIABLE, KIND_VARIABLE
from .history import History
from .proxy import Proxy
from .record import LOG_VARIABLE

HANDLER = Path(__file__).with_name("handler.py")
SECONDS_TO_LOAD = 30.0

LIMITS = ",".join(f"{operation}=1000000/100000/0" for operation in limits.LIMITS)
"""They are counted, and never reached."""


class Node:
    """A gateway with two lines of its own to the store: one that it uses itself, one for the workers it registers."""

    def __init__(self, folder: Path, store: Server, **settings: str) -> None:
        self.store_line = Proxy(store.port)
        self.worker_line = Proxy(store.port)
        self._folder = folder
        self._settings = settings
        self._starts = 0
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: Process | None = None

    def start(self) -> None:
        """Starts the gateway; see `is_up`."""
        self._starts += 1
        self.process = Process(
            self._folder / str(self._starts), "serve", "--port", str(self.port), api_keys=API_KEY, rate_limits=LIMITS,
            redis_url=self.store_line.url, worker_redis_url=self.worker_line.url, **self._settings,
        )  # fmt: skip

    async def is_up(self) -> bool:
        """Whether it takes requests."""
        return listens(self.port)

    async def restart(self) -> None:
        """Ends it in good order and starts it again."""
        assert self.process is not None
        process = self.process
        process.send(signal.SIGTERM)
        await ended(process)
        self.start()
        await eventually(self.is_up, SECONDS_TO_LOAD)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def reset(self) -> None:
        self.store_line.reset()
        self.worker_line.reset()

    def close(self) -> None:
        self.kill()
        self.store_line.close()
        self.worker_line.close()


class Deployment:
    """A store and gateways over it."""

    def __init__(self, folder: Path, gateways: int, fsync: str = "everysec", **settings: str) -> None:
        """`fsync`: when the store's file is on the disk; `settings`: of the gateways."""
        self.store = Server(folder / "store", valkey(), appendfsync=fsync)
        self.store.start()
        self.nodes = [Node(folder / f"gateway-{number}", self.store, **settings) for number in range(gateways)]

    def start(self) -> None:
        """Starts the gateways, and returns when they take requests."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            eventually_true(functools.partial(listens, node.port), SECONDS_TO_LOAD)

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.nodes]

    def make_endpoint(self, id: str, **fields: Any) -> "Endpoint":
        """Makes an endpoint; its leases last a second unless `fields` say otherwise."""
        body = json.dumps({"id": id, "leaseSeconds": 1, **fields}).encode()
        headers = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.urls[0]}/v1/endpoints", body, headers)
        with urllib.request.urlopen(request, timeout=15) as response:
            return Endpoint(id, json.load(response)["workerKey"])

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.store.stop()


class Endpoint:
    """An endpoint and the key for its workers."""

    def __init__(self, id: str, worker_key: str) -> None:
        self.id = id
        self.base = f"runlane:{{{id}}}"
        self.worker_key = worker_key


class Worker(WorkerProcess):
    """A worker of an endpoint with the tests' handler, of one kind."""

    def __init__(
        self, node: Node, endpoint: Endpoint, history: History, kind: str, concurrency: int, more: Mapping[str, str]
    ) -> None:
        variables = {
            "RUNLANE_URL": node.url,
            "RUNLANE_ENDPOINT": endpoint.id,
            "RUNLANE_WORKER_KEY": endpoint.worker_key,
            "RUNLANE_LINK": "redis",  # also when the line is broken while it starts
            "RUNLANE_STOP_GRACE_SECONDS": "1",
            LOG_VARIABLE: str(history.log),
            KIND_VARIABLE: kind,
            CONCURRENCY_VARIABLE: str(concurrency),
        }
        command = [sys.executable, "-m", "handler_sdk", str(HANDLER)]
        super().__init__(command, variables | dict(more), history.log.parent)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    async def has_ended(self) -> None:
        """Returns when its process has, however long it takes."""
        await eventually(self._is_gone, math.inf)

    async def _is_gone(self) -> bool:
        return not self.runs

    async def is_loaded(self) -> bool:
        assert self.runs, self.log
        return "is loaded" in self.log

    async def said(self, *texts: str) -> None:
        """Returns when it has printed one of the texts."""

        async def look() -> bool:
            return any(text in self.log for text in texts)

        await eventually(look)

    async def stop(self) -> None:
        """Ends it in good order."""
        self.process.send_signal(signal.SIGTERM)
        await eventually(self._is_gone)
        assert self.wait() == 0, self.log

    def kill(self) -> None:
        """Kills it, frozen or not; nothing happens when it has ended already."""
        self.end(signal.SIGKILL)


async def ended(process: Process) -> None:
    """Returns when the process is gone."""

    async def look() -> bool:
        try:
            process.wait(0)
        except subprocess.TimeoutExpired:
            return False
        return True

    await eventually(look, SECONDS_TO_LOAD)


def open_files(pid: int) -> int:
    """How many file descriptors a process has."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
