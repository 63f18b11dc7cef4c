"""The commands about queues, tasks, settings and vaults, against a gateway and with a worker."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ...stores import Server
from ..clients import API_KEY
from ..processes import Gateway, Process
from ..waiting import eventually_true
from .invoking import Command, check_failed

MASTER_KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
NEW_MASTER_KEY = "YWJjZGVmZ2hpamtsbW5vcGFiY2RlZmdoaWprbG1ub3A="
HANDLER = """
import handler_sdk

def handler(job):
    if "error" in job["input"]:
        raise ValueError(job["input"]["error"])
    return {"doubled": 2 * job["input"]["n"]}

handler_sdk.start({"handler": handler})
"""


@pytest.fixture
def command(at_gateway: Command) -> Command:
    """Runs a command that is to succeed, and returns what it prints."""

    def call(*arguments: str, **given: str) -> str:
        result: Result = at_gateway(*arguments, **given)
        assert (result.exit_code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    return call


@pytest.fixture
def queue(command: Command, endpoint: str) -> Iterator[str]:
    """A sub-queue of an endpoint's, which goes with the test."""
    name = f"{endpoint}.high"
    made = command("config", "create", "--name", name, "--priority", "5")
    assert made == f"Queue created successfully: {name}\n"
    yield name
    command("endpoint", "delete", endpoint)


def rows_of(listing: str, name: str) -> list[list[str]]:
    """The cells of the lines that begin with a name."""
    return [cells for line in listing.splitlines() if (cells := line.split())[:1] == [name]]


def row_of(listing: str, name: str) -> list[str]:
    """Likewise, of the only one."""
    (cells,) = rows_of(listing, name)
    return cells


def enqueue(command: Command, queue: str, *arguments: str) -> str:
    """A task's id."""
    return str(json.loads(command("task", "enqueue", "-q", queue, "--json", *arguments))["info"]["id"])


def test_settings(command: Command, at_gateway: Command, queue: str) -> None:
    assert row_of(command("config", "list"), queue) == [queue, "5", "yes"]
    assert "priority: 5\n" in command("config", "show", queue)
    check_failed(at_gateway("config", "create", "--name", queue), "server error (409)", "--force")
    changed = command("config", "create", "--name", queue, "--priority", "7", "--force", "--git-url", "https://x/y.git",
                      "--startup-cmd", "python main.py", "--mode", "one_shot")  # fmt: skip
    assert changed == f"Queue updated successfully: {queue}\n"
    assert row_of(command("config", "list"), queue)[1] == "7"
    assert '"mode": "one_shot"' in command("config", "show", queue)
    command("config", "remove", queue)
    assert row_of(command("config", "list", "--deleted"), queue) == [queue, "7", "no"]
    command("config", "restore", queue)
    assert row_of(command("config", "list"), queue) == [queue, "7", "yes"]


def test_settings_from_a_file(command: Command, endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    deployment = "deployment: {git_url: https://x/y.git, startup_cmd: s, limits: {max_retry: 1}}"
    file.write_text(f"queues: {{{endpoint}: {{sub_queues: [{{name: a, priority: 2}}], mode: one_shot, {deployment}}}}}")
    assert command("config", "validate", "--dir", str(tmp_path)) == f"good {endpoint}\n"
    assert command("config", "create", "-f", str(file)) == f"Queue created successfully: {endpoint}.a\n"
    shown = json.loads(command("config", "show", f"{endpoint}.a", "--json"))
    assert (shown["deployment"]["mode"], shown["deployment"]["limits"]["max_retry"]) == ("one_shot", 1)
    command("endpoint", "delete", endpoint)


def test_queues(command: Command, at_gateway: Command, queue: str) -> None:
    enqueue(command, queue)
    assert row_of(command("queue", "list"), queue) == [queue, "1", "0", "0", "0", "0", "0", "no"]
    assert command("queue", "pause", queue) == f"queue paused: {queue}\n"
    assert command("queue", "pause", queue) == f"queue paused: {queue} (it was before)\n"
    assert "pending: 1\n" in command("queue", "inspect", queue)
    assert "paused: yes\n" in command("queue", "inspect", queue)
    assert command("queue", "unpause", queue) == f"queue unpaused: {queue}\n"
    check_failed(at_gateway("queue", "delete", queue), "server error (400)", "not empty")
    assert command("queue", "delete", queue, "--force") == f"queue deleted: {queue}\n"
    assert "pending: 0\n" in command("queue", "inspect", queue)
    check_failed(at_gateway("queue", "inspect", "no-such-queue"), "server error (404)")


def test_tasks(command: Command, at_gateway: Command, queue: str) -> None:
    id = enqueue(command, queue, "-p", '{"n": 1}', "--delay", "1h", "--unique", "k")
    check_failed(at_gateway("task", "enqueue", "-q", queue, "--unique", "k"), "server error (409)")
    assert row_of(command("task", "list", queue, "--state", "scheduled"), id)[-2:] == ['{"n":', "1}"]
    command("task", "run", queue, id)
    assert row_of(command("task", "list", queue), id)[2] == "pending"
    assert command("task", "cancel", id) == f"task cancelled: {id}\n"
    assert "state: archived\n" in command("task", "get", queue, id)
    assert command("task", "delete", queue, id) == f"task deleted: {id}\n"
    for arguments in (("get", queue, id), ("cancel", id), ("delete", queue, id), ("run", queue, id)):
        check_failed(at_gateway("task", *arguments), "server error (404): task not found\n")


def test_pages(command: Command, at_gateway: Command, queue: str) -> None:
    ids = [enqueue(command, queue) for _ in range(3)]
    first = at_gateway("task", "list", queue, "--limit", "2")
    cursor = first.stderr.rpartition(" ")[2].strip()
    listed = first.stdout + command("task", "list", queue, "--limit", "2", "--cursor", cursor)
    assert [line.split()[0] for line in listed.splitlines() if not line.startswith("ID ")] == ids


def test_a_queue_that_is_removed_takes_no_tasks(command: Command, at_gateway: Command, queue: str) -> None:
    command("config", "remove", queue)
    check_failed(at_gateway("task", "enqueue", "-q", queue), f"server error (404): queue not found: {queue}")
    command("config", "restore", queue)
    enqueue(command, queue)


@pytest.fixture
def worker(queue: str, endpoint: str, gateway: Gateway, tmp_path: Path) -> Iterator[str]:
    """The name under which the gateway lists a worker of the queue."""
    handler = tmp_path / "handler.py"
    handler.write_text(HANDLER)
    settings = {"url": gateway.url, "endpoint": endpoint, "worker_key": API_KEY, "worker_id": "w1"}
    process = Process(tmp_path / "worker", "worker", str(handler), **settings)
    yield f"{endpoint}:w1"
    process.stop()


def test_waiting_for_a_task(command: Command, at_gateway: Command, queue: str, worker: str) -> None:
    assert json.loads(command("task", "enqueue", "-q", queue, "-p", '{"n": 4}', "--wait")) == {"doubled": 8}
    failed = at_gateway("task", "enqueue", "-q", queue, "-p", '{"error": "no\\nway"}', "--wait")
    check_failed(failed, "is archived", "ValueError", "no\\nway")


def test_workers(command: Command, at_gateway: Command, queue: str, worker: str) -> None:
    def cells() -> list[str]:
        return next(iter(rows_of(command("worker", "list"), worker)), [])

    eventually_true(lambda: cells()[1:2] == ["running"])
    assert cells()[2].startswith("map[")
    assert cells()[-1] == "no"
    assert f"worker_id: {worker}\n" in command("worker", "info", worker)
    eventually_true(lambda: "handler.py is loaded" in at_gateway("worker", "logs", worker).stdout)
    check_failed(at_gateway("worker", "info", f"{worker}-none"), "server error (404): Worker not found")


@pytest.fixture
def with_vaults(backing: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    """A gateway that has vaults."""
    monkeypatch.setenv("RUNQY_VAULT_MASTER_KEY", MASTER_KEY)
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=f"vault-test:{API_KEY}", audit_log="off")
    monkeypatch.delenv("RUNQY_VAULT_MASTER_KEY")
    yield gateway
    gateway.stop()


def test_vaults(command: Command, at_gateway: Command, with_vaults: Gateway, backing: Server) -> None:
    def vault(*arguments: str, **given: Any) -> str:
        return command("vault", *arguments, url=with_vaults.url, **given)

    vault("create", "v", "-d", "of it")
    vault("set", "v", "TOKEN", "-", input="mysecret\n")
    vault("set", "v", "REGION", "eu", "--no-secret")
    assert row_of(vault("list"), "v") == ["v", "2", "of", "it"]
    assert row_of(vault("entries", "v"), "TOKEN")[3] == "my****et"
    assert row_of(vault("show", "v"), "REGION")[3] == "eu"
    assert vault("rotate") == "rotated: 0\nunchanged: 2\n"
    store = {"RUNLANE_REDIS_URL": backing.url, "RUNQY_VAULT_MASTER_KEY": f"{NEW_MASTER_KEY},{MASTER_KEY}"}
    assert vault("rotate", "--tenant", "vault-test", **store) == "rotated: 2\nunchanged: 0\n"
    at_store = {"RUNLANE_REDIS_URL": backing.url, "RUNQY_VAULT_MASTER_KEY": NEW_MASTER_KEY}
    assert vault("get", "v", "TOKEN", "--tenant", "vault-test", **at_store) == "mysecret\n"
    get = ("vault", "get", "--tenant", "vault-test", "v")
    check_failed(at_gateway(*get, "NONE", **at_store), "not found")
    check_failed(at_gateway(*get, "TOKEN", RUNLANE_REDIS_URL=backing.url), "RUNQY_VAULT_MASTER_KEY")
    check_failed(at_gateway(*get, "TOKEN", RUNLANE_REDIS_URL=backing.url, RUNQY_VAULT_MASTER_KEY=MASTER_KEY), "decrypt")
    vault("unset", "v", "REGION")
    vault("delete", "v", "--force")
    check_failed(at_gateway("vault", "show", "v", url=with_vaults.url), "server error (404): vault")


def test_queue_files_are_loaded_at_the_store(
    command: Command, at_gateway: Command, backing: Server, tmp_path: Path, endpoint: str
) -> None:
    arguments = ("config", "reload", "--dir", str(tmp_path), "--tenant", f"files-{endpoint}")
    store = {"RUNLANE_REDIS_URL": backing.url}
    deployment = "deployment: {git_url: https://git.example/x, startup_cmd: python x}"
    (tmp_path / "q.yaml").write_text(f"queues: {{{endpoint}: {{priority: 3, {deployment}}}}}")
    assert command(*arguments, **store) == f"reloaded {endpoint}.default\n"
    (tmp_path / "q.yaml").write_text("queues: {}")
    assert command(*arguments, **store) == f"removed {endpoint}.default\n"
    (tmp_path / "bad.yaml").write_text("queues: {x: {priority: no}}")
    check_failed(at_gateway(*arguments, **store), "bad.yaml: queue 'x'")
    check_failed(at_gateway(*arguments), "--dir works on the store itself: set --redis or RUNLANE_REDIS_URL")


def test_vaults_that_are_not_there(at_gateway: Command) -> None:
    check_failed(at_gateway("vault", "list"), "server error (503): vaults not enabled", "openssl rand -base64 32")
