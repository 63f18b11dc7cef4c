"""The audit log: what it has, and what it has not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import StartupError
from gateway.server import check
from gateway.settings import Settings

from ...stores import Server
from ..clients import API_KEY, Target, bearer
from ..conftest import client_of
from ..processes import Gateway, Process
from ..waiting import eventually_true
from .conftest import ADMIN_KEY
from .test_stored_keys import created, endpoint_of

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def audited(backing: Server, tmp_path: Path) -> Iterator[tuple[Gateway, Lines]]:
    """A gateway, and what its audit log has by now."""
    file = tmp_path / "audit.jsonl"
    gateway = Gateway(
        tmp_path / "gateway", backing.url, admin_keys=f"acme:{ADMIN_KEY}", audit_log=str(file), failed_logins="3",
        trusted_proxies="127.0.0.1",
    )  # fmt: skip
    yield gateway, lambda: [json.loads(line) for line in file.read_text().splitlines()]
    gateway.stop()


async def test_who_did_what_to_what_when_and_from_where(audited: tuple[Gateway, Lines], endpoint: str) -> None:
    gateway, lines = audited
    async with client_of(gateway, ADMIN_KEY) as http:
        http.headers["X-Forwarded-For"] = "198.18.9.1"
        target = await endpoint_of(http, endpoint)
        key = await created(http, name="app")
        await target.post("/purge-queue")
        await target.register("w1")
        await http.patch(f"/v1/endpoints/{endpoint}", json={"attempts": 0})
        await http.delete(f"/v1/keys/{key['id']}")
        await http.delete(f"/v1/endpoints/{endpoint}")
        await target.get("/health")
        target.close()
    found = lines()
    assert [(line["event"], line["result"], line["status"]) for line in found] == [
        ("endpoint.create", "done", 201), ("key.create", "done", 201), ("queue.purge", "done", 200),
        ("worker.register", "done", 200), ("endpoint.update", "failed", 400), ("key.revoke", "done", 204),
        ("endpoint.delete", "done", 204),
    ]  # fmt: skip
    for line in found:
        assert (line["tenant"], line["address"]) == ("acme", "198.18.9.1")
        assert line["time"][:2] == "20"
        if not line["event"].startswith("key"):
            assert line["endpoint"] == endpoint
    assert {line["subject"] for line in found if line["event"].startswith("key")} == {key["id"]}
    assert len({line["key"] for line in found}) == 2  # the administrator's, and the worker's


async def test_what_is_told_of_queues(audited: tuple[Gateway, Lines], endpoint: str) -> None:
    gateway, lines = audited
    async with client_of(gateway, ADMIN_KEY) as http:
        deployment = {"git_url": "https://git.example/c", "startup_cmd": "python main.py", "git_token": "hidden-token"}
        await http.post("/api/cli/configs", json={"name": endpoint, "priority": 1, "deployment": deployment})
        await http.post("/worker/register", json={"queue": endpoint, "hostname": "gpu1"})
        await http.get(f"/workers/config/{endpoint}")
        await http.delete(f"/workers/queues/{endpoint}")
        await http.post(f"/workers/queues/{endpoint}.default/restore")
        await http.delete("/api/cli/configs/missing")
        await http.post("/workers/reload")
        await http.delete(f"/v1/endpoints/{endpoint}")
    found = lines()
    assert [(line["event"], line["status"], line.get("queue"), line.get("endpoint")) for line in found[:-1]] == [
        ("queue.create", 201, endpoint, endpoint), ("worker.register", 200, endpoint, endpoint),
        ("queue.delete", 200, endpoint, endpoint), ("queue.restore", 200, f"{endpoint}.default", endpoint),
        ("queue.delete", 404, "missing", None), ("queue.reload", 403, None, None),
    ]  # fmt: skip
    assert found[1]["hostname"] == "gpu1"
    assert "hidden-token" not in str(found)


async def test_what_it_was_that_failed(audited: tuple[Gateway, Lines], endpoint: str) -> None:
    gateway, lines = audited
    async with client_of(gateway, ADMIN_KEY) as http:
        await endpoint_of(http, endpoint)
        await http.post("/v1/endpoints", json={"id": endpoint})
        await http.delete("/v1/keys/never-was")
    assert [(line["status"], line.get("endpoint"), line.get("subject")) for line in lines()] == [
        (201, endpoint, None), (409, endpoint, None), (404, None, "never-was"),
    ]  # fmt: skip


async def test_failed_logins(audited: tuple[Gateway, Lines]) -> None:
    gateway, lines = audited
    async with client_of(gateway, "a-secret-guess") as http:
        http.headers["X-Forwarded-For"] = "198.18.9.2"
        for _ in range(6):
            await http.get("/v2/e/health")
    found = lines()
    assert [(line["event"], line.get("blocks")) for line in found] == [
        ("login_failed", False), ("login_failed", False), ("login_failed", True), ("login_blocked", None),
    ]  # fmt: skip
    assert {(line["address"], line["result"], line["path"]) for line in found} == {
        ("198.18.9.2", "denied", "/v2/e/health")
    }
    assert "secret" not in json.dumps(found)


async def test_what_is_forbidden(audited: tuple[Gateway, Lines], endpoint: str) -> None:
    gateway, lines = audited
    async with client_of(gateway, ADMIN_KEY) as http:
        key = await created(http, scopes=["read"], endpoints=["e"])
        await http.post("/v2/e/run", headers=bearer(key["key"]))
        await http.get("/v2/f/health", headers=bearer(key["key"]))
    assert [(line["event"], line["key"], line["needs"]) for line in lines()[1:]] == [
        ("forbidden", key["id"], "submit"), ("forbidden", key["id"], "another endpoint"),
    ]  # fmt: skip


async def test_no_secret_is_in_it(audited: tuple[Gateway, Lines], endpoint: str) -> None:
    gateway, lines = audited
    async with client_of(gateway, ADMIN_KEY) as http:
        target = await endpoint_of(http, endpoint)
        worker = await target.register("w1")
        secrets = [ADMIN_KEY, (await created(http))["key"], target.worker_key, worker.registered["redis"]["url"]]
        target.close()
    text = json.dumps(lines())
    assert not [secret for secret in secrets if secret in text or secret in gateway.log]


async def test_it_goes_to_standard_error_by_default(backing: Server, tmp_path: Path, endpoint: str) -> None:
    gateway = Gateway(tmp_path / "gateway", backing.url, api_keys=API_KEY)
    async with client_of(gateway) as http:
        Target(http, (await http.post("/v1/endpoints", json={"id": endpoint})).json())
    gateway.stop()
    assert '"event":"endpoint.create","address":"127.0.0.1"' in gateway.log


def test_a_file_that_cannot_be_written() -> None:
    settings = Settings(redis_url="redis://x", api_keys=("k",), audit_log="/no/such/folder/audit")
    with pytest.raises(StartupError, match="RUNLANE_AUDIT_LOG"):
        check(settings)


def test_keys_are_not_in_the_environment_of_any_process(backing: Server, tmp_path: Path) -> None:
    settings = {
        "api_keys": "a:first-secret", "admin_keys": "second-secret", "worker_keys": "e:third-secret",
        "vault_master_keys": "a/secret/".ljust(43, "A") + "=",
    }  # fmt: skip
    gateway = Process(
        tmp_path / "g", "serve", "--port", "0", "--processes", "2", redis_url=backing.url, **settings
    )  # fmt: skip
    gateway.wait_for(r"^serving (http://\S+)$")

    def children() -> list[int]:
        path = Path(f"/proc/{gateway.pid}/task/{gateway.pid}/children")
        return [int(child) for child in path.read_text().split()]

    eventually_true(lambda: len(children()) >= 2)
    for pid in (gateway.pid, *children()):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secret" not in environment
        assert str(backing.password).encode() not in environment
    gateway.stop()
