from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..gateway.processes import Gateway, Process
from ..gateway.waiting import eventually_true
from ..stores import Server, valkey
from .running import KEY
from .standin import StandIn

ENDPOINT = "hello"
WORKER_KEY = "rl-load-worker-key"
HANDLER = Path(__file__).with_name("handler.py")


@pytest.fixture(scope="package")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint of a real gateway, with a worker that is ready."""
    folder = tmp_path_factory.mktemp("load")
    store = Server(folder / "store", valkey())
    store.start()
    gateway = Gateway(
        folder / "gateway", store.url, "--endpoint", ENDPOINT, api_keys=KEY, worker_keys=f"{ENDPOINT}:{WORKER_KEY}",
        rate_limits="off", failed_logins="0", audit_log="off",
    )  # fmt: skip
    worker = Process(
        folder / "worker", "worker", str(HANDLER), url=gateway.url, endpoint=ENDPOINT, worker_key=WORKER_KEY
    )
    found = f"{gateway.url}/v2/{ENDPOINT}"
    headers = {"Authorization": f"Bearer {KEY}"}
    eventually_true(lambda: httpx.get(f"{found}/health", headers=headers).json()["workers"]["ready"])
    yield found
    for process in (worker, gateway, store):
        process.stop()


@pytest.fixture
def standin() -> Iterator[StandIn]:
    """A server that answers as a test wants."""
    server = StandIn()
    yield server
    server.stop()
