"""Passwords and keys are in no log, no error and no list of settings."""

import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from gateway.cli import main
from gateway.logs import without_secrets

from ..stores import Server, free_port, valkey
from .clients import Target, bearer
from .processes import Gateway, run
from .test_serve import refused_here
from .waiting import eventually

API_KEY = "the-key-of-all-clients"
WRONG_KEY = "a-key-that-somebody-mistyped"
STORE_PASSWORD = "the-password-of-the-store-itself"
OUTPUT = "what-a-job-of-a-tenant-has-made"
CONFIGURED_WORKER_KEY = "the-worker-key-of-the-settings"


async def comes_back(target: Target) -> None:
    async def look() -> bool:
        return (await target.get("/health")).status_code == 200

    await eventually(look)


@pytest.mark.parametrize("knows_users", [True, False])
async def test_a_gateway_that_tells_all_tells_none(tmp_path: Path, knows_users: bool) -> None:
    """At the level debug, through failing logins, workers that come and go, and a store that breaks off."""
    options = {} if knows_users else {"rename_command": 'ACL ""'}
    store = Server(tmp_path / "store", valkey(), requirepass=STORE_PASSWORD, **options)
    store.start()
    gateway = Gateway(
        tmp_path / "gateway", store.url, api_keys=f"ci:{API_KEY}", log_level="debug",
        worker_keys=f"e:{CONFIGURED_WORKER_KEY}",
    )  # fmt: skip
    said: list[str] = []
    secrets = [OUTPUT, API_KEY, WRONG_KEY, STORE_PASSWORD, CONFIGURED_WORKER_KEY]

    async def keep(response: httpx.Response) -> None:
        await response.aread()
        said.append(f"{response.headers}")
        if response.status_code >= 400:
            said.append(response.text)

    hooks = {"response": [keep]}
    async with httpx.AsyncClient(base_url=gateway.url, headers=bearer(API_KEY), event_hooks=hooks, timeout=20) as http:
        target = Target(http, (await http.post("/v1/endpoints", json={"id": "e", "leaseSeconds": 1})).json())
        secrets.append(target.worker_key)
        for headers in (
            {"Authorization": WRONG_KEY},
            {"Authorization": f"Basic {WRONG_KEY}"},
            {"X-API-Key": WRONG_KEY},
        ):
            for path in ("/run", "/workers", "/job-take/w", f"/status/{WRONG_KEY[:3]}"):
                await http.post(f"{target.path}{path}", headers=headers | {"Authorization": WRONG_KEY})
        for body in (b"{", b'{"id": 5}', b'{"id": "../"}', b"\xff"):
            await http.post(f"{target.path}/workers", content=body, headers=bearer(target.worker_key))
        registered = await http.post(f"{target.path}/workers", json={"id": "w"}, headers=bearer(target.worker_key))
        redis_access = registered.json()["redis"]
        assert (redis_access is not None) is knows_users
        if redis_access:
            secrets.append(redis_access["url"].rpartition("@")[0].rpartition(":")[2])
        await http.get(f"{target.path}/job-take/w?wait=1", headers={"Authorization": target.worker_key})
        id = await target.run(OUTPUT)
        done = {"output": OUTPUT}
        await http.get(f"{target.path}/job-take/w?wait=1000", headers={"Authorization": target.worker_key})
        await http.post(f"{target.path}/job-done/w/{id}", json=done, headers={"Authorization": target.worker_key})
        events = await http.get(f"{target.path}/stream/{id}", headers={"Accept": "text/event-stream"})
        assert OUTPUT in events.text
        store.stop()
        assert (await target.get("/health")).status_code == 503
        assert (await target.post("/run", {"input": 1})).status_code == 503
        store.start()
        await comes_back(target)
        await http.delete(f"{target.path}/workers/w", headers=bearer(target.worker_key))
        await http.delete(f"/v1/endpoints/{target.id}")
    gateway.stop()
    store.stop()
    assert "DEBUG" in gateway.log or "the store makes no user" in gateway.log
    assert [secret for secret in secrets for text in (gateway.log, *said) if secret in text] == []


NOT_QUOTED = ["pa/ss-word", "pa@ss-word", "pa?ss-word", "pa#ss-word", "pa:ss-word", "pa/ss@ss-word"]


@pytest.mark.parametrize("password", ["plain-password", *NOT_QUOTED])
@pytest.mark.parametrize("scheme", ["redis", "redis+sentinel", "redis+cluster", "http", "unix"])
def test_a_store_that_cannot_be_reached(password: str, scheme: str) -> None:
    url = f"{scheme}://user:{password}@127.0.0.1:{free_port()}/primary"
    says = refused_here("--redis", url, says=())
    parts = [password, *(part for part in password.replace("@", "/").split("/") if len(part) > 2)]
    assert [part for part in parts if part in says] == []


def test_the_password_of_a_sentinel() -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()}/primary?sentinel_password=hidden-word"
    assert "hidden-word" not in refused_here("--redis", url, says=("127.0.0.1",))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:a@h:1/2", "redis://***@h:1/2"),
        ("redis://h", "redis://h"),
        ("redis://u:a/b@c@h", "redis://***@h"),
        ("u:a@h", "***@h"),
        ("redis+sentinel://h/n?sentinel_password=a", "redis+sentinel://h/n"),
        ("redis://:a://b@h", "redis://***@h"),
        ("https://u:p@h/x?y=z@w", "https://***@w"),
    ],
)
def test_a_url_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_the_list_of_settings(tmp_path: Path) -> None:
    secrets = {
        "redis_url": "redis://:one-secret@h", "worker_redis_url": "redis://:two-secret@h", "api_keys": "a:three-secret",
        "worker_keys": "e:four-secret", "vault_master_keys": "five-secret",
    }  # fmt: skip
    listed = run("settings", **secrets)
    assert listed.returncode == 0
    assert "-secret" not in listed.stdout + listed.stderr
    assert listed.stdout.count("= (set)") == len(secrets)


def test_a_gateway_that_cannot_be_reached() -> None:
    url = f"http://user:hidden-word@127.0.0.1:{free_port()}"
    result = CliRunner().invoke(main, ["endpoint", "list", "--url", url, "--key", "hidden-key"])
    assert result.exit_code == 1
    assert "cannot reach" in result.stderr
    assert "hidden" not in json.dumps([result.stdout, result.stderr])
