"""What the measurements run against: a store, gateways and workers of their own, on loopback."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from gateway.access import limits
from gateway.embedded import EmbeddedStore

KEY = "bench-key-of-no-worth"
ENDPOINT = "bench"
LIMITS = ",".join(f"{operation}=100000000/100000" for operation in limits.LIMITS)
"""They are checked, and never reached."""

ECHO_HANDLER = Path(__file__).with_name("handler.py")


def processors() -> tuple[set[int], set[int]]:
    """The processors of this machine in two parts: one, and the others."""
    first, *others = sorted(os.sched_getaffinity(0))
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


@contextlib.contextmanager
def store() -> Iterator[tuple[str, Path]]:
    """An embedded store of its own, and a folder."""
    with tempfile.TemporaryDirectory(prefix="runlane-bench-") as folder:
        running = EmbeddedStore(Path(folder) / "store")
        try:
            yield running.url, Path(folder)
        finally:
            running.stop()


@contextlib.contextmanager
def gateway(url: str, port: int = 8126, rate_limits: str = LIMITS) -> Iterator[str]:
    """One gateway process with a key: its URL."""
    with gateway_process(url, port, rate_limits) as (base, _):
        yield base


@contextlib.contextmanager
def gateway_process(url: str, port: int = 8126, rate_limits: str = LIMITS) -> Iterator[tuple[str, int]]:
    """The same: its URL and its process's id."""
    environment = {**os.environ, "RUNLANE_REDIS_URL": url, "RUNLANE_API_KEYS": KEY,
                   "RUNLANE_WORKER_KEYS": f"{ENDPOINT}:{KEY}", "RUNLANE_RATE_LIMITS": rate_limits,
                   "RUNLANE_AUDIT_LOG": "off"}  # fmt: skip
    command = [sys.executable, "-m", "gateway", "serve", "--port", str(port), "--endpoint", ENDPOINT]
    with process(command, environment) as pid:
        wait_for(f"http://127.0.0.1:{port}/v2/{ENDPOINT}/health")
        yield f"http://127.0.0.1:{port}", pid


@contextlib.contextmanager
def worker(base: str, handler: Path = ECHO_HANDLER, **settings: str) -> Iterator[None]:
    """One worker, and settings of its handler's own."""
    environment = {**os.environ, "RUNLANE_URL": base, "RUNLANE_ENDPOINT": ENDPOINT, "RUNLANE_WORKER_KEY": KEY,
                   "RUNLANE_LOG_LEVEL": "warning", **settings}  # fmt: skip
    with process([sys.executable, "-m", "handler_sdk", str(handler)], environment):
        yield


@contextlib.contextmanager
def process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process of ours for a while: its id."""
    started = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield started.pid
    finally:
        started.terminate()
        started.wait()


def wait_for(url: str) -> None:
    """Waits until something answers there."""
    for _ in range(200):
        with contextlib.suppress(httpx.HTTPError):
            httpx.get(url)
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers at {url}")


def wait_for_worker(base: str) -> None:
    """Waits until a worker is ready."""
    for _ in range(200):
        if httpx.get(f"{base}/v2/{ENDPOINT}/health", headers=headers()).json()["workers"]["ready"]:
            return
        time.sleep(0.1)
    raise SystemExit("no worker became ready")


def headers() -> dict[str, str]:
    """With the key."""
    return {"Authorization": f"Bearer {KEY}"}


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
