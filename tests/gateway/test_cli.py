import json
from collections.abc import Callable

import httpx
import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

from .clients import API_KEY, bearer
from .processes import Gateway, run

Command = Callable[..., Result]

NOBODY = "http://127.0.0.1:1"
"""Nothing listens at a port so low."""


@pytest.fixture
def command(gateway: Gateway) -> Command:
    """Runs `runlane endpoint …`, or another group's command, against the shared gateway."""

    def call(*arguments: str, url: str = gateway.url, key: str = API_KEY, group: str = "endpoint") -> Result:
        environment = {"RUNLANE_URL": url, "RUNLANE_API_KEY": key}
        return CliRunner().invoke(main, [group, *arguments], env=environment, catch_exceptions=False)

    return call


def check_failed(result: Result, *says: str) -> None:
    """It ended with one clear line."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("runlane: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in says), result.stderr


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
    assert f"{endpoint}  GPU  workers 0 to 7\n" in command("list").stdout
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


def test_webhook_secrets(command: Command) -> None:
    command("rotate", "--overlap", "0s", group="webhook-secret")
    (old,) = json.loads(command("list", "--json", group="webhook-secret").stdout)["secrets"]
    assert command("list", group="webhook-secret").stdout == f"{old['id']}  {old['secret']}  in force\n"

    rotated = command("rotate", "--overlap", "1h", group="webhook-secret").stdout.splitlines()

    assert [line.split()[2] for line in rotated] == ["in", "until"]
    assert rotated[0].split()[1].startswith("whsec_")
    assert rotated[1].startswith(f"{old['id']}  {old['secret']}  until 20")
    check_failed(command("rotate", "--overlap", "999d", group="webhook-secret"), "overlapSeconds")
    check_failed(command("list", group="webhook-secret", key="wrong"), "RUNLANE_API_KEY")


def test_the_commands() -> None:
    result = CliRunner().invoke(main, ["-h"])
    for name in ("demo", "dev", "endpoint", "serve", "settings", "webhook-secret", "worker"):
        assert f"\n  {name} " in result.stdout
    assert CliRunner().invoke(main, ["--version"]).stdout.startswith("runlane, version ")


def test_it_is_python_m_gateway_too() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout.split()[0], result.stderr) == (0, "runlane,", "")
