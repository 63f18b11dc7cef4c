"""Vaults over HTTP, as Runqy's clients manage them."""

import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import at_store
from gateway.errors import StartupError

from ...stores import Server, valkey
from ..clients import bearer
from ..conftest import client_of
from ..processes import Gateway

ADMIN, CLIENT, WORKER = "rq-the-admin", "rq-a-client", "rq-a-worker"
BOSS = "rl-the-boss-of-acme"
OLD, NEW = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
KEYS = {
    "runqy_api_key": ADMIN, "runqy_client_api_key": CLIENT, "runqy_worker_api_key": WORKER,
    "admin_keys": f"acme:{BOSS}", "failed_logins": "0", "rate_limits": "off",
}  # fmt: skip
HINT = (
    "vaults not enabled. Set RUNQY_VAULT_MASTER_KEY environment variable. Generate a key with: openssl rand -base64 32"
)
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture(scope="module")
def backing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A store in which no other test has vaults."""
    server = Server(tmp_path_factory.mktemp("vault-store"), valkey(), requirepass="the-password-of-the-store")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def vault_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with a master key. Its log has all that it does, and the audit log."""
    folder = tmp_path_factory.mktemp("vaults")
    gateway = Gateway(folder, backing.url, vault_master_keys=OLD, log_level="debug", **KEYS)
    yield gateway
    gateway.stop()


@pytest.fixture
async def http(vault_gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client with Runqy's key for everything."""
    async with client_of(vault_gateway, ADMIN) as client:
        yield client


@pytest.fixture
async def vault(http: httpx.AsyncClient, endpoint: str) -> AsyncIterator[str]:
    """The path of a vault that no other test uses; its name is the endpoint's."""
    made = await http.post("/api/vaults", json={"name": endpoint, "description": "for a test"})
    assert made.status_code == 201
    yield f"/api/vaults/{endpoint}"
    await http.delete(f"/api/vaults/{endpoint}")


async def put(http: httpx.AsyncClient, vault: str, key: str = "A", value: str = "mysecret", **fields: Any) -> None:
    response = await http.post(f"{vault}/entries", json={"key": key, "value": value, **fields})
    assert (response.status_code, response.json()) == (200, {"message": "entry set successfully"})


def answer(response: httpx.Response) -> tuple[int, Any]:
    return response.status_code, response.json()


def error(response: httpx.Response) -> tuple[int, str]:
    """The status, and the one error."""
    (message,) = response.json().pop("errors")
    return response.status_code, message


class TestVaults:
    async def test_create(self, http: httpx.AsyncClient, endpoint: str) -> None:
        created = await http.post("/api/vaults", json={"name": endpoint, "description": "d"})
        vault = {"name": endpoint, "description": "d"}
        assert answer(created) == (201, {"message": "vault created successfully", "vault": vault})
        again = await http.post("/api/vaults", json={"name": endpoint})
        assert error(again) == (409, "vault already exists")
        deleted = await http.delete(f"/api/vaults/{endpoint}")
        assert answer(deleted) == (200, {"message": "vault deleted successfully"})
        assert error(await http.delete(f"/api/vaults/{endpoint}")) == (404, "vault not found")

    async def test_a_description_is_optional(self, http: httpx.AsyncClient, endpoint: str) -> None:
        created = await http.post("/api/vaults", json={"name": endpoint, "unknown": 1})
        assert created.json()["vault"] == {"name": endpoint, "description": ""}
        await http.delete(f"/api/vaults/{endpoint}")

    @pytest.mark.parametrize(
        "body", [b"", b"{", b"[]", b"{}", b'{"name":""}', b'{"name":5}', b'{"name":null}', b'{"name":"PATH"}',
                 b'{"name":"a b"}', b'{"name":".."}', b'{"name":"x","description":1}', b"\xff"],
    )  # fmt: skip
    async def test_what_makes_no_vault(self, http: httpx.AsyncClient, body: bytes) -> None:
        before = (await http.get("/api/vaults")).json()
        assert error(await http.post("/api/vaults", content=body))[0] == 400
        assert (await http.get("/api/vaults")).json() == before

    async def test_the_list(self, http: httpx.AsyncClient, vault: str, endpoint: str) -> None:
        await put(http, vault, "A")
        await put(http, vault, "B", "plain", is_secret=False)
        found = (await http.get("/api/vaults")).json()
        assert {"name": endpoint, "description": "for a test", "entry_count": 2} in found["vaults"]
        assert found["count"] == len(found["vaults"])
        assert [each["name"] for each in found["vaults"]] == sorted(each["name"] for each in found["vaults"])
        assert "plain" not in json.dumps(found)

    async def test_one(self, http: httpx.AsyncClient, vault: str, endpoint: str) -> None:
        await put(http, vault)
        shown = (await http.get(vault)).json()
        assert (shown["name"], shown["description"]) == (endpoint, "for a test")
        assert shown["entries"] == (await http.get(f"{vault}/entries")).json()["entries"]
        assert TIME.fullmatch(shown["created_at"])
        assert TIME.fullmatch(shown["updated_at"])
        assert list(shown) == ["name", "description", "entries", "created_at", "updated_at"]


class TestEntries:
    async def test_they_are_by_key_and_masked(self, http: httpx.AsyncClient, vault: str) -> None:
        assert answer(await http.get(f"{vault}/entries")) == (200, {"entries": [], "count": 0})
        await put(http, vault, "B", "mysecret")
        await put(http, vault, "A", "a plain value", is_secret=False)
        await put(http, vault, "C", "abcd", is_secret=True)
        found = (await http.get(f"{vault}/entries")).json()
        assert [(each["key"], each["value"], each["is_secret"]) for each in found["entries"]] == [
            ("A", "a plain value", False), ("B", "my****et", True), ("C", "****", True),
        ]  # fmt: skip
        assert found["count"] == 3
        for entry in found["entries"]:
            assert list(entry) == ["key", "value", "is_secret", "created_at", "updated_at"]
            assert TIME.fullmatch(entry["created_at"])
            assert TIME.fullmatch(entry["updated_at"])

    async def test_one_that_is_there_is_replaced(self, http: httpx.AsyncClient, vault: str) -> None:
        await put(http, vault, "A", "mysecret")
        await put(http, vault, "A", "other", is_secret=False)
        (entry,) = (await http.get(f"{vault}/entries")).json()["entries"]
        assert entry["value"] == "other"

    async def test_delete(self, http: httpx.AsyncClient, vault: str) -> None:
        await put(http, vault, "A")
        deleted = await http.delete(f"{vault}/entries/A")
        assert answer(deleted) == (200, {"message": "entry deleted successfully"})
        assert error(await http.delete(f"{vault}/entries/A")) == (404, "entry not found")
        assert (await http.get(f"{vault}/entries")).json()["count"] == 0

    @pytest.mark.parametrize(
        "fields",
        [{}, {"key": "A"}, {"value": "x"}, {"key": "", "value": "x"}, {"key": "A", "value": ""},
         {"key": 1, "value": "x"},
         {"key": "A", "value": 5}, {"key": "A", "value": None}, {"key": "A", "value": "x", "is_secret": "no"},
         {"key": "1A", "value": "x"}, {"key": "a-b", "value": "x"}, {"key": "path", "value": "x"},
         {"key": "LD_PRELOAD", "value": "x"}, {"key": "A", "value": "x" * 65537}, {"key": "A", "value": "a\0b"}],
    )  # fmt: skip
    async def test_what_makes_no_entry(self, http: httpx.AsyncClient, vault: str, fields: dict[str, Any]) -> None:
        assert error(await http.post(f"{vault}/entries", json=fields))[0] == 400
        assert (await http.get(f"{vault}/entries")).json()["count"] == 0

    async def test_of_a_vault_that_there_is_not(self, http: httpx.AsyncClient, endpoint: str) -> None:
        vault = f"/api/vaults/{endpoint}"
        for method, path, body in (
            ("GET", vault, None), ("GET", f"{vault}/entries", None), ("DELETE", f"{vault}/entries/A", None),
            ("POST", f"{vault}/entries", {"key": "A", "value": "x"}), ("GET", "/api/vaults/%00", None),
            ("GET", f"/api/vaults/{'x' * 5000}", None),
        ):  # fmt: skip
            assert error(await http.request(method, path, json=body)) == (404, "vault not found")


CALLS = [
    ("GET", "/api/vaults"), ("POST", "/api/vaults"), ("GET", "/api/vaults/v"), ("DELETE", "/api/vaults/v"),
    ("GET", "/api/vaults/v/entries"), ("POST", "/api/vaults/v/entries"), ("DELETE", "/api/vaults/v/entries/A"),
]  # fmt: skip
ROTATE = ("POST", "/v1/vaults/rotate")


@pytest.fixture(scope="module")
def plain_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway without a master key."""
    gateway = Gateway(tmp_path_factory.mktemp("no-vaults"), backing.url, audit_log="off", **KEYS)
    yield gateway
    gateway.stop()


class TestWhoMay:
    @pytest.mark.parametrize("is_enabled", [True, False])
    async def test_keys_that_are_not_good_for_it(
        self, vault_gateway: Gateway, plain_gateway: Gateway, is_enabled: bool
    ) -> None:
        """Whether there are vaults at all is told to those that may have them."""
        gateway = vault_gateway if is_enabled else plain_gateway
        async with client_of(gateway, BOSS) as boss:
            wanted = {"scopes": ["manage"], "endpoints": ["e"]}
            for_one = (await boss.post("/v1/keys", json=wanted)).json()["key"]
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            for method, path in CALLS:
                for key in ("", "wrong"):
                    refused = await http.request(method, path, content=b"{", headers=bearer(key))
                    assert error(refused) == (401, "access unauthorized")
                for key in (CLIENT, WORKER, for_one):
                    refused = await http.request(method, path, content=b"{", headers=bearer(key))
                    assert error(refused) == (403, "insufficient permissions")
            for key, status in (("", 401), (CLIENT, 403), (WORKER, 403), (for_one, 403)):
                refused = await http.request(*ROTATE, headers=bearer(key))
                assert (refused.status_code, list(refused.json())) == (status, ["error"])

    async def test_without_a_master_key(self, plain_gateway: Gateway) -> None:
        async with client_of(plain_gateway, ADMIN) as http:
            for method, path in CALLS:
                response = await http.request(method, path, content=b"{")
                assert answer(response) == (503, {"errors": [HINT]})
                assert "retry-after" not in response.headers
            assert answer(await http.request(*ROTATE)) == (503, {"error": HINT})

    async def test_tenants_do_not_see_each_other_s(
        self, http: httpx.AsyncClient, vault: str, vault_gateway: Gateway
    ) -> None:
        await put(http, vault)
        async with client_of(vault_gateway, BOSS) as boss:
            assert error(await boss.get(vault)) == (404, "vault not found")
            assert error(await boss.delete(vault)) == (404, "vault not found")
            assert vault.rpartition("/")[2] not in (await boss.get("/api/vaults")).text
            assert (await boss.request(*ROTATE)).json() == {"rotated": 0, "unchanged": 0}
        assert (await http.get(f"{vault}/entries")).json()["count"] == 1


async def test_the_audit_log_has_names_and_no_values(
    http: httpx.AsyncClient, vault: str, endpoint: str, vault_gateway: Gateway
) -> None:
    hidden = ["hidden-value", "hidden-plain", "hidden-in-the-wrong-field", "hidden-words"]
    await put(http, vault, "A_KEY", hidden[0])
    await put(http, vault, "A_KEY", hidden[1], is_secret=False)
    await http.post(f"{vault}/entries", json={"key": hidden[2], "value": "x"})
    await http.post(f"{vault}/entries", content=b'{"key":"B","value":"hidden-value","is_secret":"x"}')
    await http.post(f"{vault}/entries", content=b'{"key":"B","value":"hidden-value')
    await http.get(f"{vault}/entries")
    await http.delete(f"{vault}/entries/A_KEY")
    await http.request(*ROTATE)
    await http.post("/api/vaults", json={"name": endpoint, "description": hidden[3]})
    await http.delete(vault)
    lines = [json.loads(line) for line in vault_gateway.log.splitlines() if line.startswith("{")]
    of_it = [line for line in lines if line.get("vault") == endpoint]
    assert [(line["event"], line.get("entry"), line["status"]) for line in of_it] == [
        ("vault.create", None, 201), ("vault.set", "A_KEY", 200), ("vault.set", "A_KEY", 200),
        ("vault.set", None, 400), ("vault.set", None, 400), ("vault.set", None, 400),
        ("vault.unset", "A_KEY", 200), ("vault.create", None, 409), ("vault.delete", None, 200),
    ]  # fmt: skip
    assert [line for line in lines if line["event"] == "vault.rotate"][-1]["result"] == "done"
    secrets = [*hidden, OLD, ADMIN]
    assert not [secret for secret in secrets if secret in vault_gateway.log]


class TestRotation:
    @pytest.fixture
    def tenant(self, endpoint: str, monkeypatch: pytest.MonkeyPatch, backing: Server) -> str:
        """A tenant of its own with a vault, at the store itself."""
        monkeypatch.setenv("RUNQY_VAULT_MASTER_KEY", OLD)
        at_store.call(backing.url, endpoint, "POST", "/api/vaults", {"name": "v"})
        for entry in ("A", "B"):
            body = {"key": entry, "value": "mysecret"}
            at_store.call(backing.url, endpoint, "POST", "/api/vaults/v/entries", body)
        return endpoint

    def test_by_whoever_has_the_store(
        self, tenant: str, monkeypatch: pytest.MonkeyPatch, backing: Server, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("RUNQY_VAULT_MASTER_KEY", f"{NEW},{OLD}")
        assert at_store.call(backing.url, tenant, *ROTATE, {}) == {"rotated": 2, "unchanged": 0}
        assert at_store.call(backing.url, tenant, *ROTATE, {}) == {"rotated": 0, "unchanged": 2}
        monkeypatch.delenv("RUNQY_VAULT_MASTER_KEY")
        (tmp_path / "settings").write_text(f'vault_master_keys = ["{NEW}"]')
        monkeypatch.setenv("RUNLANE_CONFIG", str(tmp_path / "settings"))
        shown = at_store.call(backing.url, tenant, "GET", "/api/vaults/v/entries", None)
        assert [entry["value"] for entry in shown["entries"]] == ["my****et", "my****et"]

    def test_what_is_refused_there(self, tenant: str, monkeypatch: pytest.MonkeyPatch, backing: Server) -> None:
        with pytest.raises(StartupError, match=r"^vault already exists$"):
            at_store.call(backing.url, tenant, "POST", "/api/vaults", {"name": "v"})
        for keys, says in (
            (NEW, "entry '[AB]' of vault 'v' cannot be decrypted"),
            ("x", "RUNQY_VAULT_MASTER_KEY"),
            ("", HINT),
        ):
            monkeypatch.setenv("RUNQY_VAULT_MASTER_KEY", keys)
            with pytest.raises(StartupError, match=says):
                at_store.call(backing.url, tenant, *ROTATE, {})

    async def test_over_http(self, backing: Server, http: httpx.AsyncClient, vault: str, tmp_path: Path) -> None:
        """With the old key alone, then both, then the new one alone."""
        await put(http, vault, "A", "mysecret")
        rotating = Gateway(tmp_path / "rotating", backing.url, vault_master_keys=f"{NEW},{OLD}", **KEYS)
        new = Gateway(tmp_path / "new", backing.url, vault_master_keys=NEW, **KEYS)
        async with client_of(rotating, ADMIN) as both, client_of(new, ADMIN) as other:
            assert error(await other.get(f"{vault}/entries"))[0] == 500
            assert "'A' of vault" in new.log
            assert "mysecret" not in new.log
            assert (await both.request(*ROTATE)).json()["rotated"] >= 1
            (entry,) = (await other.get(f"{vault}/entries")).json()["entries"]
            assert entry["value"] == "my****et"
            assert error(await http.get(f"{vault}/entries"))[0] == 500
        rotating.stop()
        new.stop()
