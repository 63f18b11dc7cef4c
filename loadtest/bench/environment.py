"""What the measurements run against: a store, a gateway and workers of their own, on loopback."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis

from gateway.access import limits
from gateway.embedded import EmbeddedStore

KEY = "bench-key-of-no-worth"
ENDPOINT = "bench"
LIMITS = ",".join(f"{operation}=100000000/100000" for operation in limits.LIMITS)
"""They are checked, and never reached."""

SECONDS_TO_START = 20.0
PAYLOAD = '{"prompt":"hello, this is a prompt","n":3}'
JOB = f'{{"input":{PAYLOAD}}}'
"""The body of a small job: 60 bytes."""

ALL_PROCESSORS = os.sched_getaffinity(0)

HERE = Path(__file__).parents[2]
"""The checkout that this belongs to."""


class NotMeasuredError(Exception):
    """A measurement cannot be taken, or what it measures did not do what it should. The text says why."""


@contextlib.contextmanager
def without_traceback() -> Iterator[None]:
    """A program whose only measurement is not taken ends with the reason alone."""
    try:
        yield
    except NotMeasuredError as error:
        raise SystemExit(str(error)) from None


@dataclass(frozen=True)
class Deployment:
    """A store and one gateway process: where they are, and their processes."""

    tree: Path
    url: str
    gateway: int
    store_url: str
    store: int

    def at(self, path: str) -> str:
        """The URL of an operation on jobs, such as `/run`."""
        return f"{self.url}/v2/{ENDPOINT}{path}"

    def client(self) -> httpx.Client:
        """A client with the key."""
        return client()

    def redis(self) -> "redis.Redis":
        """A client of the store."""
        return redis.Redis.from_url(self.store_url)

    def health(self) -> dict[str, Any]:
        """The counts of jobs and workers."""
        with self.client() as client:
            return dict(client.get(self.at("/health")).raise_for_status().json())

    def purge(self) -> None:
        """Removes the jobs that wait."""
        with self.client() as client:
            client.post(self.at("/purge-queue")).raise_for_status()

    def check_completed(self) -> None:
        """Raises NotMeasuredError unless jobs were COMPLETED, and none ended otherwise."""
        jobs = self.health()["jobs"]
        if not jobs["completed"] or jobs["failed"] or jobs["retried"]:
            raise NotMeasuredError(f"not all jobs were completed: {jobs}")

    def finished_job(self) -> str:
        """The id of a job that was run, by a worker that takes just this one."""
        with self.client() as client:
            job: str = client.post(self.at("/run"), content=JOB).raise_for_status().json()["id"]
            client.get(self.at("/job-take/by-hand")).raise_for_status()
            done = self.at(f"/job-done/by-hand/{job}")
            client.post(done, content=f'{{"output":{PAYLOAD}}}').raise_for_status()
            if (status := client.get(self.at(f"/status/{job}")).json()["status"]) != "COMPLETED":
                raise NotMeasuredError(f"the job that was to be COMPLETED is {status}")
        return job

    @contextlib.contextmanager
    def worker(self, handler: Path, **settings: str) -> Iterator[int]:
        """One worker, ready, with settings of its handler's own: its process."""
        with worker(self.tree, self.url, ENDPOINT, handler, **settings) as pid:
            wait_until(lambda: self.health()["workers"]["ready"] > 0, "no worker became ready")
            yield pid


@contextlib.contextmanager
def deployment(tree: Path, gateways: set[int] | None = None, **settings: str) -> Iterator[Deployment]:
    """A store, and a gateway process of a tree: keys are checked and requests are counted.

    gateways: the processors that the gateway's process has, if not the same as everything else.
    """
    before = os.sched_getaffinity(0)
    with (
        store() as running,
        started_on(gateways or before),
        gateway(tree, running.url, **settings) as (url, pid),
        started_on(before),
    ):
        yield Deployment(tree, url, pid, running.url, running.pid)


@contextlib.contextmanager
def gateway(tree: Path, store_url: str, **settings: str) -> Iterator[tuple[str, int]]:
    """A gateway process of a tree at this store: its URL, and its process."""
    chosen = {
        "RUNLANE_REDIS_URL": store_url, "RUNLANE_API_KEYS": KEY, "RUNLANE_WORKER_KEYS": f"{ENDPOINT}:{KEY}",
        "RUNLANE_RATE_LIMITS": LIMITS, "RUNLANE_AUDIT_LOG": "off", "RUNLANE_LOG_LEVEL": "warning", **settings,
    }  # fmt: skip
    port = free_port()
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--endpoint", ENDPOINT]
    with process(command, tree, chosen) as pid:
        wait_for(f"http://127.0.0.1:{port}/v2/{ENDPOINT}/health")
        yield f"http://127.0.0.1:{port}", pid


@contextlib.contextmanager
def worker(tree: Path, url: str, endpoint: str, handler: Path, **settings: str) -> Iterator[int]:
    """One worker of a tree, which may not be ready yet: its process."""
    environment = {"RUNLANE_URL": url, "RUNLANE_ENDPOINT": endpoint, "RUNLANE_WORKER_KEY": KEY,
                   "RUNLANE_LOG_LEVEL": "warning", **settings}  # fmt: skip
    with process([sys.executable, "-m", "handler_sdk", str(handler)], tree, environment) as pid:
        yield pid


def client(base: str = "") -> httpx.Client:
    """A client with the key; `base`: what its URLs begin with."""
    return httpx.Client(base_url=base, headers={"Authorization": f"Bearer {KEY}"}, timeout=120)


@contextlib.contextmanager
def store() -> Iterator[EmbeddedStore]:
    """An embedded store of its own: AOF, synced every second."""
    with tempfile.TemporaryDirectory(prefix="runlane-bench-") as folder:
        running = EmbeddedStore(Path(folder))
        try:
            yield running
        finally:
            running.stop()


@contextlib.contextmanager
def tcp_store() -> Iterator[str]:
    """The same, with a port on loopback, since not every library takes a Unix socket: its URL."""
    with store() as running:
        port = free_port()
        with redis.Redis.from_url(running.url) as client:
            client.config_set("bind", "127.0.0.1")
            client.config_set("port", port)
        yield f"redis://:{urlsplit(running.url).password}@127.0.0.1:{port}"


@contextlib.contextmanager
def server(module: str) -> Iterator[str]:
    """One of the bench's own servers, `python -m MODULE PORT`: its URL."""
    port = free_port()
    with process([sys.executable, "-m", module, str(port)], HERE):
        wait_for(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def process(command: list[str], tree: Path, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process of ours for a while, with the modules of a tree: its id."""
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": str(tree)}
    started = subprocess.Popen(command, cwd=tree, env=variables, stdout=subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait()


def processors() -> tuple[set[int], set[int]]:
    """The processors of this machine in two parts: one, and the others."""
    first, *others = sorted(ALL_PROCESSORS)
    return {first}, set(others) or {first}


@contextlib.contextmanager
def started_on(processors: set[int]) -> Iterator[None]:
    """What is started meanwhile runs there, and so do we."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def place_of(url: str) -> tuple[str, int]:
    """The host and the port of a URL that names both."""
    parts = urlsplit(url)
    return str(parts.hostname), int(parts.port or 0)


def free_port() -> int:
    """A port on loopback that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(url: str) -> None:
    """Waits until something answers there."""

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(url)
            return True
        return False

    wait_until(answers, f"nothing answers at {url}")


def wait_until(condition: Any, otherwise: str, seconds: float = SECONDS_TO_START) -> None:
    """Waits until the condition is true.

    Raises:
        NotMeasuredError: it was not, for so long.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise NotMeasuredError(otherwise)
        time.sleep(0.05)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
