import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import embedded
from gateway.embedded import EmbeddedStore
from gateway.errors import StartupError

from .processes import Dev, alive, descendants, run
from .receiver import Receiver
from .waiting import eventually_true

HANDLER = """
import os, time, handler_sdk

VERSION = 1

def handler(job):
    given = job["input"]
    if "wait_for" in given:
        while not os.path.exists(given["wait_for"]):
            time.sleep(0.01)
    return {"version": VERSION, "worker": os.getpid(), "given": given}

handler_sdk.start({"handler": handler})
"""

Start = Callable[..., Dev]


@pytest.fixture
def handler(tmp_path: Path) -> Path:
    file = tmp_path / "code" / "my_handler.py"
    file.parent.mkdir()
    file.write_text(HANDLER)
    return file


@pytest.fixture
def start(handler: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `runlane dev` for the handler; the data stays from one to the next."""
    started: list[Dev] = []

    def call(*arguments: str) -> Dev:
        data = ("--data", str(tmp_path / "data"))
        started.append(Dev(tmp_path / f"dev-{len(started)}", handler, *data, *arguments))
        return started[-1]

    yield call
    for dev in started:
        dev.kill()  # its processes end with it


def test_keys_are_in_the_environment_of_no_process(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNQY_API_KEY", "RUNQY_VAULT_MASTER_KEY", "RUNLANE_REDIS_URL"):
        monkeypatch.setenv(name, "a-secret")
    dev = start()
    dev.ready()
    for pid in (dev.pid, *descendants(dev.pid)):
        assert b"a-secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def post(url: str, body: Any = None) -> Any:
    # A job that is given to a worker in the moment in which it is killed waits for the lease of 30 s.
    response = httpx.post(url, json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def status(url: str, id: str) -> Any:
    return httpx.get(f"{url}/status/{id}").json()


def runs(url: str, id: str) -> bool:
    return bool(status(url, id)["status"] == "IN_PROGRESS")


def nothing_is_left(pids: set[int]) -> None:
    eventually_true(lambda: not any(alive(pid) for pid in pids), 10)


def test_it_takes_jobs_when_it_says_so(start: Start) -> None:
    dev = start()
    url = dev.ready()
    assert url.endswith("/v2/my-handler")
    assert post(f"{url}/runsync", {"input": {"a": "ż"}})["output"]["given"] == {"a": "ż"}
    assert httpx.get(f"{url}/health").json()["workers"]["idle"] == 1
    pids = descendants(dev.pid)
    dev.send(signal.SIGTERM)
    assert dev.wait() == 0
    nothing_is_left(pids)


async def test_webhooks_may_go_to_this_machine(start: Start, receiver: Receiver) -> None:
    url = await asyncio.to_thread(start().ready)
    id = (await asyncio.to_thread(post, f"{url}/run", {"input": 1, "webhook": receiver.url("/hook")}))["id"]
    (received,) = await receiver.wait_for(1)
    assert (received.path, json.loads(received.body)["id"]) == ("/hook", id)


def test_ctrl_c_drains_and_leaves_nothing(start: Start, tmp_path: Path) -> None:
    dev = start("--workers", "2", "--endpoint", "mine")
    url = dev.ready()
    release = tmp_path / "release"
    ids = [post(f"{url}/run", {"input": {"wait_for": str(release)}})["id"] for _ in range(3)]
    eventually_true(lambda: [runs(url, id) for id in ids] == [True, True, False])  # two workers
    pids = descendants(dev.pid)
    assert len(pids) >= 3
    dev.send(signal.SIGINT)
    dev.wait_for(r"^(stopping)$")
    assert alive(dev.pid)
    release.touch()
    assert dev.wait() == 0
    nothing_is_left(pids)
    assert "Traceback" not in dev.log

    again = start("--endpoint", "mine").ready()
    found = [status(again, id) for id in ids[:2]]
    assert [job["status"] for job in found] == ["COMPLETED"] * 2
    assert len({job["output"]["worker"] for job in found}) == 2
    assert httpx.get(f"{again}/status-sync/{ids[2]}", timeout=30).json()["status"] == "COMPLETED"


def test_nothing_stays_when_it_is_killed_and_nothing_is_lost(start: Start, tmp_path: Path) -> None:
    dev = start()
    url = dev.ready()
    release = tmp_path / "release"
    httpx.patch(f"{url.replace('/v2/', '/v1/endpoints/')}", json={"leaseSeconds": 1}).raise_for_status()
    done = post(f"{url}/run", {"input": {"n": 1}})["id"]
    eventually_true(lambda: status(url, done)["status"] == "COMPLETED")
    running, queued = [post(f"{url}/run", {"input": {"wait_for": str(release)}})["id"] for _ in range(2)]
    eventually_true(lambda: runs(url, running))
    pids = descendants(dev.pid)
    dev.kill()
    nothing_is_left(pids)

    url = start().ready()
    release.touch()
    assert status(url, done)["output"]["given"] == {"n": 1}
    for id in (queued, running):
        assert httpx.get(f"{url}/status-sync/{id}?wait=20000", timeout=30).json()["status"] == "COMPLETED"


def test_a_change_of_the_handler_is_picked_up(start: Start, handler: Path) -> None:
    url = start("--reload").ready()
    assert post(f"{url}/runsync", {"input": {}})["output"]["version"] == 1
    handler.write_text(HANDLER.replace("VERSION = 1", "VERSION = 2"))
    eventually_true(lambda: post(f"{url}/runsync", {"input": {}})["output"]["version"] == 2)


def test_a_worker_that_dies_is_replaced(start: Start) -> None:
    dev = start()
    url = dev.ready()
    first = post(f"{url}/runsync", {"input": {}})["output"]["worker"]
    for pid in workers_of(dev):
        os.kill(pid, signal.SIGKILL)
    assert post(f"{url}/runsync", {"input": {}})["output"]["worker"] != first
    assert not alive(first)


def workers_of(dev: Dev) -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in descendants(dev.pid)}
    found = [pid for pid, command in commands.items() if b"handler_sdk" in command]
    assert found
    return found


# what it refuses


def failed(tmp_path: Path, handler: Path, *arguments: str) -> str:
    """Runs it until it has ended with an error. Returns what it said."""
    result = run("dev", str(handler), "--port", "0", "--data", str(tmp_path / "data"), *arguments)
    assert result.returncode == 1, result.stderr
    assert "\nrunlane: " in f"\n{result.stderr}"
    assert "ready" not in result.stdout
    return result.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [("import nothing_like_this", "nothing_like_this"), ("x = 1", "start"), ("raise SystemExit(3)", "my_handler.py")],
)
def test_a_handler_that_cannot_be_loaded(tmp_path: Path, handler: Path, code: str, says: str) -> None:
    handler.write_text(code)
    said = failed(tmp_path, handler)
    assert says in said
    assert said.splitlines()[-1].startswith("runlane: ")


def test_a_handler_that_is_not_there(tmp_path: Path) -> None:
    said = failed(tmp_path, tmp_path / "none.py")
    assert said.count("\n") == 1
    assert "none.py" in said


def test_a_port_that_is_taken(tmp_path: Path, handler: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        said = failed(tmp_path, handler, "--port", port)
    assert said.count("\n") == 1
    assert port in said


def test_an_endpoint_s_id_that_cannot_be(tmp_path: Path, handler: Path) -> None:
    said = failed(tmp_path, handler, "--endpoint", "a b")
    assert said.count("\n") == 1
    assert "a b" in said


def test_data_that_another_one_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EmbeddedStore(tmp_path / "data")
    try:
        monkeypatch.setattr(embedded, "SECONDS_TO_START", 0.2)
        with pytest.raises(StartupError, match="in use by another runlane"):
            EmbeddedStore(tmp_path / "data")
    finally:
        store.stop()
    monkeypatch.undo()
    EmbeddedStore(tmp_path / "data").stop()


def test_data_in_a_folder_with_a_long_path(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / ("x" * 100) / "ż ü" / "data")
    store.stop()
    assert json.dumps(store.url).isascii()
