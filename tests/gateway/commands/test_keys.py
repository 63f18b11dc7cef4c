"""`runlane key`, over HTTP and at the store itself."""

import json
import re
from typing import Any

import httpx
import pytest
from click.testing import Result

from ...stores import Server
from ..clients import API_KEY, bearer
from ..processes import Gateway
from .invoking import Command, check_failed


@pytest.fixture
def command(at_gateway: Command, backing: Server) -> Command:
    """Runs `runlane key …`, with the store's address in the environment."""

    def call(*arguments: str, key: str = "", redis_url: str = backing.url) -> Result:
        return at_gateway("key", *arguments, key=key, RUNLANE_REDIS_URL=redis_url)

    return call


@pytest.fixture
def boss(command: Command, endpoint: str) -> str:
    """The first key of a tenant that is the endpoint's name."""
    made = json.loads(command("create", "--tenant", endpoint, "--scopes", "admin,manage", "--json").stdout)
    assert (made["tenant"], made["scopes"]) == (endpoint, ["admin", "manage"])
    return str(made["key"])


def test_the_first_key_is_made_at_the_store(boss: str, gateway: Gateway, endpoint: str) -> None:
    response = httpx.get(f"{gateway.url}/v1/keys", headers=bearer(boss))
    assert [key["tenant"] for key in response.json()["keys"]] == [endpoint]


def test_create_prints_a_key_that_is_good(command: Command, boss: str, gateway: Gateway) -> None:
    result = command("create", "--name", "app", "--endpoint", "e", "--expires-in", "2h", "--rate", "5", key=boss)
    assert (result.exit_code, result.stdout.count("\n")) == (0, 2)
    key = result.stdout.strip().rpartition(" ")[2]
    assert httpx.get(f"{gateway.url}/v2/e/health", headers=bearer(key)).status_code == 404
    listed = command("list", key=boss).stdout
    assert re.search(r"  app +cancel,read,submit +e +20\S+Z\n", listed)
    assert key not in listed


def test_revoke_and_rotate(command: Command, boss: str, gateway: Gateway) -> None:
    made: dict[str, Any] = json.loads(command("create", "--json", key=boss).stdout)
    rotated = json.loads(command("rotate", made["id"], "--overlap", "1h", "--json", key=boss).stdout)
    for key in (made["key"], rotated["key"]):
        assert httpx.get(f"{gateway.url}/v2/e/health", headers=bearer(key)).status_code == 404
    assert command("revoke", made["id"], key=boss).stdout == f"revoked {made['id']}\n"
    assert httpx.get(f"{gateway.url}/v2/e/health", headers=bearer(made["key"])).status_code == 401
    check_failed(command("revoke", made["id"], key=boss), "no such key")


def test_at_the_store_all_of_it_works(command: Command, endpoint: str) -> None:
    made = json.loads(command("create", "--tenant", endpoint, "--json").stdout)
    assert [key["id"] for key in json.loads(command("list", "--tenant", endpoint, "--json").stdout)["keys"]] == [
        made["id"]
    ]
    assert command("revoke", made["id"], "--tenant", endpoint).exit_code == 0
    assert json.loads(command("list", "--tenant", endpoint, "--json").stdout) == {"keys": []}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["create", "--tenant", "a b"], "cannot be a tenant"), (["create", "--tenant", "t", "--scopes", "root"], "root"),
     (["revoke", "k1", "--tenant", "t"], "no such key")],
)  # fmt: skip
def test_what_cannot_be_at_the_store(command: Command, arguments: list[str], says: str) -> None:
    check_failed(command(*arguments), says)


def test_without_a_store_or_a_key(command: Command) -> None:
    check_failed(command("list", "--tenant", "t", redis_url=""), "--redis", "RUNLANE_REDIS_URL")
    check_failed(command("list", "--tenant", "t", redis_url="redis://127.0.0.1:1"), "cannot reach the store")
    check_failed(command("list"), "--key")
    check_failed(command("list", key=API_KEY), "scope admin", "--tenant")


@pytest.mark.parametrize("time", ["1", "h", "1w", "-1h", "1.5h"])
def test_a_time_that_is_none(command: Command, time: str) -> None:
    result = command("create", "--expires-in", time)
    assert (result.exit_code, "such as 90s" in result.stderr) == (2, True)
