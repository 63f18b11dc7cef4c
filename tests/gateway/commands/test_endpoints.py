"""`runlane endpoint`, and what all commands do when the gateway is not there or refuses."""

import json

import httpx
import pytest
from click.testing import Result

from ..clients import bearer
from ..processes import Gateway
from .invoking import NOBODY, Command, check_failed


@pytest.fixture
def command(at_gateway: Command) -> Command:
    """Runs `runlane endpoint …` against the shared gateway."""

    def call(*arguments: str, **given: str) -> Result:
        return at_gateway("endpoint", *arguments, **given)

    return call


def test_create_prints_a_key_that_is_good_for_workers(command: Command, gateway: Gateway, endpoint: str) -> None:
    result = command("create", endpoint)
    assert result.exit_code == 0
    assert f"created {endpoint}\n" in result.stdout
    key = result.stdout.strip().rpartition(" ")[2]
    assert httpx.post(f"{gateway.url}/v2/{endpoint}/workers", headers=bearer(key)).status_code == 200
    assert command("delete", endpoint).stdout == f"deleted {endpoint}\n"


def test_create_takes_fields(command: Command, endpoint: str) -> None:
    fields = ["attempts=1", "name=My endpoint", 'env={"A": "1"}', "leaseSeconds=1.5", "computeType=CPU"]
    created = json.loads(command("create", endpoint, "--json", *(f"--set={field}" for field in fields)).stdout)
    assert created["workerKey"]
    assert (created["attempts"], created["name"], created["env"]) == (1, "My endpoint", {"A": "1"})
    assert (created["leaseSeconds"], created["computeType"]) == (1.5, "CPU")
    command("delete", endpoint)


def test_show_update_list_and_delete(command: Command, endpoint: str) -> None:
    command("create", endpoint)
    updated = command("update", endpoint, "--set", "workersMax=7")
    assert updated.exit_code == 0
    assert command("show", endpoint).stdout == updated.stdout
    assert "workersMax: 7\n" in updated.stdout
    assert "version: 2\n" in updated.stdout
    assert [endpoint, "GPU", "0", "7"] in [line.split() for line in command("list").stdout.splitlines()]
    assert command("delete", endpoint).exit_code == 0
    assert endpoint not in command("list").stdout


def test_json_everywhere(command: Command, endpoint: str) -> None:
    command("create", endpoint)
    updated = json.loads(command("update", endpoint, "--json", "--set", "workersMax=7").stdout)
    assert json.loads(command("show", endpoint, "--json").stdout) == updated
    assert updated in json.loads(command("list", "--json").stdout)
    assert json.loads(command("delete", endpoint, "--json").stdout) == {"deleted": endpoint}


def test_what_the_gateway_refuses(command: Command, endpoint: str) -> None:
    command("create", endpoint)
    check_failed(command("create", endpoint), endpoint, "already")
    check_failed(command("update", endpoint, "--set", "attempts=0"), "attempts")
    check_failed(command("update", endpoint, "--set", "nothing=0"), "nothing")
    command("delete", endpoint)
    for name in ("show", "update", "delete"):
        check_failed(command(name, endpoint), endpoint)


@pytest.mark.parametrize("id", ["-", "a b", "a/b", "..", "{}", "é", "x" * 100, "?", "#"])
def test_an_id_that_cannot_be(command: Command, id: str) -> None:
    for name in ("create", "show", "update", "delete"):
        check_failed(command(name, id))


def test_a_field_without_a_value(command: Command, endpoint: str) -> None:
    check_failed(command("create", endpoint, "--set", "attempts"), "FIELD=VALUE", "attempts")


@pytest.mark.parametrize("key", ["wrong", ""])
def test_a_wrong_key(command: Command, key: str) -> None:
    check_failed(command("list", key=key), "RUNLANE_API_KEY")


@pytest.mark.parametrize("url", [NOBODY, "nonsense", "http://[", "http://x.invalid", "", "http://127.0.0.1:x"])
def test_a_gateway_that_is_not_there(command: Command, url: str) -> None:
    result = command("list", "--url", url)
    check_failed(result, "--url")
