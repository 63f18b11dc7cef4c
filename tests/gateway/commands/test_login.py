"""`runlane login`, `logout` and `auth`, and the file they keep."""

import json
import os
import stat
from pathlib import Path

import pytest

from ...stores import Server
from ..clients import API_KEY
from ..processes import Gateway
from .invoking import NOBODY, Command, check_failed, check_misused
from .terminal import Terminal

SECRET = "rl-a-secret-that-nobody-may-see"


@pytest.fixture
def file(home: Path) -> Path:
    return home / "credentials.json"


@pytest.fixture
def logged_in(runlane: Command, gateway: Gateway) -> str:
    """The name of the login."""
    result = runlane("login", "-s", gateway.url, "-k", API_KEY)
    assert (result.exit_code, result.stderr) == (0, "")
    return gateway.url.removeprefix("http://")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_kept_is_for_its_owner_only(logged_in: str, home: Path, file: Path, gateway: Gateway) -> None:
    assert (mode(home), mode(file)) == (0o700, 0o600)
    assert json.loads(file.read_text()) == {
        "current": logged_in,
        "servers": {logged_in: {"url": gateway.url, "key": API_KEY}},
    }
    assert [path.name for path in home.iterdir()] == ["credentials.json"]


def test_commands_use_it(logged_in: str, runlane: Command) -> None:
    assert runlane("endpoint", "list").exit_code == 0
    check_failed(runlane("endpoint", "list", RUNLANE_API_KEY=SECRET), "401")


def test_a_key_over_standard_input(runlane: Command, gateway: Gateway, file: Path) -> None:
    assert runlane("login", "-s", gateway.url, "--name", "here", input=f"{API_KEY}\n").exit_code == 0
    assert json.loads(file.read_text())["servers"]["here"]["key"] == API_KEY


def test_a_key_that_is_typed_is_not_shown(gateway: Gateway, home: Path, file: Path) -> None:
    terminal = Terminal("login", "-s", gateway.url, "--name", "here", RUNLANE_HOME=str(home))
    terminal.answer("API key: ", API_KEY)
    assert terminal.end() == ["API key: ", f"logged in to {gateway.url} as here"]
    assert json.loads(file.read_text())["servers"]["here"]["key"] == API_KEY


def test_a_key_that_is_good_for_other_things_is_good(
    runlane: Command, at_gateway: Command, gateway: Gateway, backing: Server
) -> None:
    tenant = "login-test"
    made = at_gateway(
        "key", "create", "--tenant", tenant, "--scopes", "submit", "--json", RUNLANE_REDIS_URL=backing.url
    )
    assert runlane("login", "-s", gateway.url, "-k", json.loads(made.stdout)["key"]).exit_code == 0


def test_a_wrong_key_is_not_kept(runlane: Command, gateway: Gateway, file: Path) -> None:
    result = runlane("login", "-s", gateway.url, "-k", SECRET)
    check_failed(result, "server error (401)")
    assert SECRET not in result.output
    assert not file.exists()


def test_a_gateway_that_is_not_there_is_not_kept(runlane: Command, file: Path) -> None:
    check_failed(runlane("login", "-s", NOBODY, "-k", SECRET), NOBODY)
    assert not file.exists()


def test_what_is_missing(runlane: Command, gateway: Gateway) -> None:
    check_misused(runlane("login", "-k", SECRET), "say which gateway: -s URL")
    check_misused(runlane("login", "-s", gateway.url, input=""), "give a key: -k KEY, or over standard input")


@pytest.mark.parametrize("others", [0o640, 0o604, 0o620, 0o644])
def test_a_file_that_others_can_read_is_refused(logged_in: str, runlane: Command, file: Path, others: int) -> None:
    file.chmod(others)
    for command in (("endpoint", "list"), ("auth", "list"), ("logout",)):
        check_failed(runlane(*command), f"chmod 600 {file}")
    assert API_KEY in file.read_text()


def test_it_is_not_looked_at_when_it_is_not_needed(
    logged_in: str, runlane: Command, file: Path, gateway: Gateway
) -> None:
    file.chmod(0o644)
    assert runlane("endpoint", "list", "-s", gateway.url, "-k", API_KEY).exit_code == 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"current": 1}', '{"servers": {"a": {"url": "u"}}}', "\xff"])
def test_a_damaged_file(runlane: Command, file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_bytes(content.encode("latin-1"))
    file.chmod(0o600)
    check_failed(runlane("endpoint", "list"), f"{file} is damaged")


def test_a_folder_in_its_place(runlane: Command, file: Path, gateway: Gateway) -> None:
    file.mkdir(parents=True)
    check_failed(runlane("endpoint", "list"), f"cannot read {file}")


def test_what_cannot_be_written_leaves_what_was_there(
    logged_in: str, runlane: Command, gateway: Gateway, home: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_text()
    monkeypatch.setattr(os, "fsync", full)
    check_failed(runlane("login", "-s", gateway.url, "-k", API_KEY, "--name", "b"), "cannot write", "No space left")
    assert file.read_text() == before
    assert list(home.iterdir()) == [file]


def test_status(logged_in: str, runlane: Command, gateway: Gateway) -> None:
    assert runlane("auth", "status").stdout == (
        f"server: {gateway.url}\nserver_from: login\nkey: ****\nkey_from: login\n"
    )
    shown = json.loads(runlane("auth", "status", "--json", RUNLANE_API_KEY=API_KEY).stdout)
    assert shown == {"server": gateway.url, "server_from": "login", "key": "****", "key_from": "RUNLANE_API_KEY"}
    wrong = runlane("auth", "status", RUNQY_API_KEY=SECRET)
    assert (wrong.exit_code, "key: ****-see\nkey_from: RUNQY_API_KEY" in wrong.stdout) == (1, True)
    assert "server error (401)" in wrong.stderr


def test_without_a_login(runlane: Command) -> None:
    result = runlane("auth", "status", RUNLANE_URL=NOBODY)
    assert result.stdout == f"server: {NOBODY}\nserver_from: RUNLANE_URL\nkey: \nkey_from: \n"
    assert result.exit_code == 1
    assert json.loads(runlane("auth", "list", "--json").stdout) == []
    check_failed(runlane("logout"), "not logged in")
    check_failed(runlane("auth", "switch", "x"), "no login 'x'")


def test_several(logged_in: str, runlane: Command, gateway: Gateway) -> None:
    runlane("login", "-s", gateway.url, "-k", API_KEY, "--name", "b")
    listed = json.loads(runlane("auth", "list", "--json").stdout)
    assert [(each["name"], each["current"]) for each in listed] == [(logged_in, False), ("b", True)]
    assert runlane("auth", "switch", logged_in).exit_code == 0
    listing = runlane("auth", "list").stdout
    assert API_KEY not in listing
    assert [line.split() for line in listing.splitlines()] == [
        ["NAME", "SERVER", "KEY", "CURRENT"], [logged_in, gateway.url, "****", "yes"], ["b", gateway.url, "****", "no"],
    ]  # fmt: skip
    check_failed(runlane("logout", "--name", "c"), f"there are: {logged_in}, b")


def test_logout(logged_in: str, runlane: Command, gateway: Gateway, file: Path) -> None:
    runlane("login", "-s", gateway.url, "-k", API_KEY, "--name", "b")
    assert runlane("logout").stdout == "logged out of b\n"
    assert list(json.loads(file.read_text())["servers"]) == [logged_in]
    check_failed(runlane("logout"), "no login is the current one")
    check_misused(runlane("logout", "--name", "b", "--all"), "--name and --all: take one")
    assert runlane("logout", "--all").stdout == f"logged out of {logged_in}\n"
    assert not file.exists()
