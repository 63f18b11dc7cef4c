import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.dialects.runqy_register import address_of
from gateway.settings import Settings

from ...stores import Server
from ..clients import bearer
from ..conftest import STORE_PASSWORD, client_of
from ..processes import Gateway

MASTER_KEY = "B" * 43 + "="
ADMIN_KEY, WORKER_KEY, CLIENT_KEY = "rl-register", "rl-register-workers", "rl-register-clients"
DEPLOYMENT = {"git_url": "https://git.example/code.git", "startup_cmd": "python main.py"}
MESSAGES = {
    "invalid name": "invalid queue name: must be 1-128 chars, alphanumeric with dots, hyphens, underscores",
    "disabled": "vaults requested for queue {} but vaults feature is not configured (set RUNQY_VAULT_MASTER_KEY)",
}


@pytest.fixture(scope="module")
def gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with vaults and Runqy's three keys. Its audit log goes where its log does."""
    gateway = Gateway(
        tmp_path_factory.mktemp("register"), backing.url, admin_keys=ADMIN_KEY, runqy_worker_api_key=WORKER_KEY,
        runqy_client_api_key=CLIENT_KEY, vault_master_keys=MASTER_KEY, rate_limits="off", failed_logins="0",
    )  # fmt: skip
    yield gateway
    gateway.stop()


@pytest.fixture
async def http(gateway: Gateway, endpoint: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with an admin key; what its tests make goes with them."""
    async with client_of(gateway, ADMIN_KEY) as client:
        yield client
        await client.delete(f"/v1/endpoints/{endpoint}")
        for vault in ("one", "two"):
            await client.delete(f"/api/vaults/{endpoint}-{vault}")


@pytest.fixture
async def worker(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with Runqy's key for workers."""
    async with client_of(gateway, WORKER_KEY) as client:
        yield client


async def make(http: httpx.AsyncClient, endpoint: str, **deployment: Any) -> None:
    """A queue with three sub-queues, of which one was deleted."""
    body = {
        "name": endpoint, "deployment": DEPLOYMENT | deployment,
        "sub_queues": [{"name": "default", "priority": 6}, {"name": "high", "priority": 10},
                       {"name": "old", "priority": 9}],
    }  # fmt: skip
    response = await http.post("/api/cli/configs", json=body)
    assert response.status_code == 201, response.text
    assert (await http.delete(f"/api/cli/configs/{endpoint}.old")).status_code == 200


async def fill(http: httpx.AsyncClient, vault: str, **values: str) -> str:
    """Makes a vault."""
    assert (await http.post("/api/vaults", json={"name": vault})).status_code == 201
    for key, value in values.items():
        response = await http.post(f"/api/vaults/{vault}/entries", json={"key": key, "value": value})
        assert response.status_code == 200, response.text
    return vault


async def register(http: httpx.AsyncClient, queue: str, status: int = 200) -> dict[str, Any]:
    response = await http.post("/worker/register", json={"queue": queue})
    assert response.status_code == status, response.text
    return dict(response.json())


async def test_the_whole_answer(
    http: httpx.AsyncClient, worker: httpx.AsyncClient, backing: Server, endpoint: str
) -> None:
    first = await fill(http, f"{endpoint}-one", A="1", B="of one")
    second = await fill(http, f"{endpoint}-two", B="of two", TOKEN="the-token")
    await make(
        http, endpoint, branch="stable", code_path="sub/dir", mode="one_shot", startup_timeout_secs=300,
        redis_storage=True, requirements_file="needs.txt", vaults=[first, second], git_token=f"vault://{second}/TOKEN",
    )  # fmt: skip
    response = await worker.post(
        "/worker/register",
        json={"queue": endpoint, "hostname": "gpu1", "os": "linux", "version": "1.2", "worker_id": "w", "more": [1]},
    )
    assert response.status_code == 200
    assert response.json() == {
        "redis": {"addr": f"127.0.0.1:{urlsplit(backing.url).port}", "password": "", "db": 0, "use_tls": False},
        "queue": {"name": endpoint, "priority": 6, "mode": "one_shot"},
        "sub_queues": [
            {"name": f"{endpoint}.high", "priority": 10}, {"name": f"{endpoint}.default", "priority": 6},
        ],
        "deployment": {
            **DEPLOYMENT, "branch": "stable", "code_path": "sub/dir", "mode": "one_shot", "startup_timeout_secs": 300,
            "redis_storage": True, "requirements_file": "needs.txt", "vaults": [first, second],
        },
        "vaults": {"A": "1", "B": "of two", "TOKEN": "the-token"},
        "git_token": "the-token",
        "runlane": {"endpoint": endpoint, "lease_ms": 30_000, "queues": []},
    }  # fmt: skip
    assert STORE_PASSWORD not in response.text


async def test_what_is_empty_is_left_out(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    await make(http, endpoint)
    found = await register(worker, endpoint)
    assert found.keys() == {"redis", "queue", "sub_queues", "deployment", "runlane"}
    assert found["deployment"] == {
        **DEPLOYMENT, "branch": "main", "mode": "long_running", "startup_timeout_secs": 60, "redis_storage": False,
    }  # fmt: skip


async def test_a_token_that_is_given_itself(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    await make(http, endpoint, git_token="a-token-in-clear")
    assert (await register(worker, endpoint))["git_token"] == "a-token-in-clear"


async def test_which_queue_a_name_means(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    await make(http, endpoint)
    for name in (f"{endpoint}.high", f"{endpoint}_high"):
        found = await register(worker, name)
        assert found["queue"] == {"name": name, "priority": 10, "mode": "long_running"}
        assert found["sub_queues"] == [{"name": f"{endpoint}.high", "priority": 10}]
    await http.delete(f"/api/cli/configs/{endpoint}.default")
    assert (await register(worker, endpoint))["queue"]["priority"] == 10


async def test_a_queue_that_is_not_there(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    await make(http, endpoint)
    await http.delete(f"/api/cli/configs/{endpoint}")
    for name, tried in (
        ("never-was", " (also tried 'never-was.default')"), ("never.was", ""),
        ("never_was", " (also tried 'never_was.default')"),
        (endpoint, f" (also tried '{endpoint}.default')"), (f"{endpoint}.old", ""), (f"{endpoint}.", ""),
    ):  # fmt: skip
        message = f"queue '{name}' not found{tried}"
        assert await register(worker, name, 404) == {"error": message, "errors": [message]}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "queue name is required"), (b'{"queue": ""}', "queue name is required"),
        (b'{"worker_id": "w"}', "queue name is required"), (b'{"queue": "a b"}', MESSAGES["invalid name"]),
        (b'{"queue": "-a"}', MESSAGES["invalid name"]), (b'{"queue": "a/b"}', MESSAGES["invalid name"]),
        (b'{"queue": "' + b"a" * 129 + b'"}', MESSAGES["invalid name"]),
        (b'{"queue": "a\\n"}', MESSAGES["invalid name"]),
        (b'{"queue": ".a"}', MESSAGES["invalid name"]), (b'{"queue": "\xc3\xa9"}', MESSAGES["invalid name"]),
        (b"", "invalid request: "), (b"{", "invalid request: "), (b"[]", "invalid request: "),
        (b'{"queue": 5}', "invalid request: "), (b'{"queue": null}', "invalid request: "),
        (b'{"queue": "x", "hostname": 5}', "invalid request: "), (b'{"queue": "\xff"}', "invalid request: "),
    ],
)  # fmt: skip
async def test_a_request_that_makes_no_sense(worker: httpx.AsyncClient, body: bytes, says: str) -> None:
    response = await worker.post("/worker/register", content=body)
    assert response.status_code == 400
    found = response.json()
    assert found["errors"] == [found["error"]]
    assert found["error"].startswith(says)
    assert says.endswith(" ") or found["error"] == says


async def test_who_may_register(gateway: Gateway, http: httpx.AsyncClient, endpoint: str) -> None:
    await make(http, endpoint)
    for key, status, says in (
        ("", 401, "access unauthorized"), ("a-wrong-key", 401, "access unauthorized"),
        (CLIENT_KEY, 403, "insufficient permissions"), (ADMIN_KEY, 200, None), (WORKER_KEY, 200, None),
    ):  # fmt: skip
        async with client_of(gateway, key) as client:
            found = await register(client, endpoint, status)
            assert found.get("errors") == ([says] if says else None)


async def test_a_worker_of_another_endpoint_gets_nothing(
    gateway: Gateway, http: httpx.AsyncClient, endpoint: str
) -> None:
    vault = await fill(http, f"{endpoint}-one", A="hidden-value")
    await make(http, endpoint, vaults=[vault])
    for endpoints, status in (([f"{endpoint}-other"], 403), ([endpoint], 200)):
        key = (await http.post("/v1/keys", json={"scopes": ["worker"], "endpoints": endpoints})).json()
        async with client_of(gateway, key["key"]) as client:
            found = await register(client, endpoint, status)
        assert ("hidden-value" in json.dumps(found)) is (status == 200)
        await http.delete(f"/v1/keys/{key['id']}")
    lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith("{")]
    told = [line for line in lines if line["event"] == "worker.register" and line.get("endpoint") == endpoint]
    assert [(line["result"], line["status"], line.get("vaults")) for line in told] == [
        ("failed", 403, None), ("done", 200, vault)
    ]  # fmt: skip
    assert "hidden-value" not in gateway.log


async def test_a_queue_without_a_deployment(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    await http.post("/v1/endpoints", json={"id": endpoint})
    assert "no deployment" in (await register(worker, endpoint, 409))["error"]


async def test_vaults_that_cannot_be_had(http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str) -> None:
    there, missing = await fill(http, f"{endpoint}-one", A="hidden-value"), f"{endpoint}-two"
    await make(http, endpoint, vaults=[there, missing])
    found = await register(worker, endpoint, 500)
    assert found["error"].startswith(f"failed to resolve vaults [{there} {missing}]: vault '{missing}': ")
    assert "hidden-value" not in found["error"]
    for reference in (f"vault://{missing}/A", f"vault://{there}/B"):
        body = {"name": endpoint, "priority": 1, "deployment": DEPLOYMENT | {"git_token": reference}}
        assert (await http.post("/workers/queues?force=true", json=body)).status_code == 201
        said = (await register(worker, endpoint, 500))["error"]
        assert said.startswith(f"failed to resolve git_token from vault '{reference[8:-2]}': ")


async def test_vaults_without_a_master_key(
    backing: Server, tmp_path: Path, http: httpx.AsyncClient, endpoint: str
) -> None:
    gateway = Gateway(tmp_path / "plain", backing.url, runqy_worker_api_key=WORKER_KEY, audit_log="off")
    async with client_of(gateway, WORKER_KEY) as worker:
        await make(http, endpoint, git_token="in-clear")
        assert (await register(worker, endpoint))["git_token"] == "in-clear"
        for more in ({"vaults": ["any"]}, {"git_token": "vault://any/A"}):
            body = {"name": endpoint, "priority": 1, "deployment": DEPLOYMENT | more}
            assert (await http.post("/workers/queues?force=true", json=body)).status_code == 201
            assert (await register(worker, endpoint, 500))["error"] == MESSAGES["disabled"].format(endpoint)
    gateway.stop()


async def test_a_worker_goes_on_with_its_own_user_at_the_store(
    http: httpx.AsyncClient, worker: httpx.AsyncClient, endpoint: str
) -> None:
    await make(http, endpoint)
    ours = (await register(worker, f"{endpoint}.high"))["runlane"]
    id, body = ours["endpoint"], {"id": "w1", "queues": ours["queues"]}
    assert body["queues"] == ["high"]
    granted = await worker.post(f"/v2/{id}/workers", json=body, headers=bearer(WORKER_KEY))
    assert granted.status_code == 200
    assert granted.json()["queues"] == ".high"
    assert granted.json()["redis"]["url"].partition("://")[2].startswith(f"runlane%3A{endpoint}%3Aw1:")
    await worker.delete(f"/v2/{id}/workers/w1")


@pytest.mark.parametrize(
    ("redis_url", "worker_redis_url", "address"),
    [
        ("redis://:password@store:1234/0", "", "store:1234"), ("redis://store", "", "store:6379"),
        ("redis://user:p@ss@store", "", "store:6379"), ("redis://inside:1", "rediss://outside:2", "outside:2"),
        ("redis://[::1]:7", "", "[::1]:7"), ("redis://[::1]", "", "[::1]:6379"),
        ("unix:///run/store", "", "/run/store"),
        ("redis+cluster://a:1,b:2", "", "a:1"), ("redis+sentinel://a,b:2/name", "", "a:26379"),
        ("rediss+cluster://a", "", "a:6379"),
    ],
)  # fmt: skip
def test_the_address_of_the_store(redis_url: str, worker_redis_url: str, address: str) -> None:
    assert address_of(Settings(redis_url=redis_url, worker_redis_url=worker_redis_url)) == address
