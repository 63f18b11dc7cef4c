"""Which gateway and key a command uses, and what it makes of answers."""

from pathlib import Path

import pytest

from ..processes import Gateway
from .documented import Documented
from .invoking import NOBODY, Command, check_failed

EMPTY = {"queues": []}
KEYS = ["option-key", "runlane-key", "runqy-key", "saved-key"]


@pytest.fixture
def logged_in(runlane: Command, documented: Documented) -> None:
    """With the key `saved-key` for the documented server."""
    documented.answer([])
    assert runlane("login", "-s", documented.url, "-k", "saved-key").exit_code == 0
    documented.clear()


def used(runlane: Command, documented: Documented, *arguments: str, **variables: str) -> str | None:
    """The key with which the documented server was asked."""
    documented.answer(EMPTY)
    result = runlane(*arguments, **variables)
    assert result.exit_code == 0, result.stderr
    return documented.requests[-1].key


@pytest.mark.parametrize(
    "arguments",
    ["-s {} -k a queue list", "queue -s {} -k a list", "queue list -s {} -k a", "--server {} queue list --api-key a",
     "queue --url {} list --key a", "--url http://127.0.0.1:1 -k b queue -k c list -s {} -k a"],
)  # fmt: skip
def test_options_before_and_behind(runlane: Command, documented: Documented, arguments: str) -> None:
    assert used(runlane, documented, *arguments.format(documented.url).split()) == "Bearer a"


def test_what_goes_before_what(runlane: Command, documented: Documented, logged_in: None) -> None:
    variables = {
        "RUNLANE_URL": documented.url, "RUNLANE_API_KEY": "runlane-key", "RUNQY_SERVER": NOBODY,
        "RUNQY_API_KEY": "runqy-key",
    }  # fmt: skip
    elsewhere = variables | {"RUNLANE_URL": NOBODY}
    assert used(runlane, documented, "queue", "list", "-s", documented.url, "-k", "k", **elsewhere) == "Bearer k"
    assert used(runlane, documented, "queue", "list", **variables) == "Bearer runlane-key"
    of_runqy = {"RUNQY_SERVER": documented.url, "RUNQY_API_KEY": "runqy-key"}
    assert used(runlane, documented, "queue", "list", **of_runqy) == "Bearer runqy-key"
    assert used(runlane, documented, "queue", "list") == "Bearer saved-key"
    assert used(runlane, documented, "queue", "list", RUNLANE_API_KEY="runlane-key") == "Bearer runlane-key"


def test_a_variable_that_is_empty_says_nothing(runlane: Command, documented: Documented, logged_in: None) -> None:
    empty = {"RUNLANE_URL": "", "RUNLANE_API_KEY": "", "RUNQY_SERVER": "", "RUNQY_API_KEY": ""}
    assert used(runlane, documented, "queue", "list", **empty) == "Bearer saved-key"


def test_a_saved_key_goes_to_its_own_server_only(
    runlane: Command, documented: Documented, logged_in: None, gateway: Gateway
) -> None:
    assert used(runlane, documented, "queue", "list", "-s", f"{documented.url}/") == "Bearer saved-key"
    other = documented.url.replace("127.0.0.1", "localhost")
    assert used(runlane, documented, "queue", "list", "-s", other) is None
    assert used(runlane, documented, "queue", "list", RUNLANE_URL=other) is None


def test_the_key_of_another_login_is_found_by_its_server(
    runlane: Command, documented: Documented, logged_in: None
) -> None:
    other = documented.url.replace("127.0.0.1", "localhost")
    documented.answer([])
    runlane("login", "-s", other, "-k", "other-key")
    assert used(runlane, documented, "queue", "list", "-s", documented.url) == "Bearer saved-key"
    assert used(runlane, documented, "queue", "list") == "Bearer other-key"


def test_the_url_of_clients_does(runlane: Command, documented: Documented) -> None:
    used(runlane, documented, "queue", "list", "-s", f"{documented.url}/v2/")
    assert documented.requests[-1].path == "/api/cli/queues"


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, {"errors": ["queue not found: x.default"]}, "server error (404): queue not found: x.default\n"),
        (400, {"errors": ["one", "two"]}, "server error (400): one; two\n"),
        (409, {"error": "it is there"}, "server error (409): it is there\n"),
        (502, "Bad\x1b[31m Gateway\n", "server error (502): Bad\\x1b[31m Gateway\n"),
        (500, {"errors": None}, 'server error (500): {"errors": null}\n'),
        (401, {"errors": ["access unauthorized"]}, "server error (401): access unauthorized; set --key or RUNLANE_API"),
    ],
)
def test_errors_of_the_server(
    at_documented: Command, documented: Documented, status: int, body: object, says: str
) -> None:
    documented.answer(body, status)
    check_failed(at_documented("queue", "list"), f"runlane: {says}")


def test_a_key_is_not_taken_elsewhere(at_documented: Command, documented: Documented) -> None:
    documented.answer("", 301, Location=f"{documented.url}/other")
    check_failed(
        at_documented("endpoint", "delete", "x"), f"server error (301): it sends elsewhere: {documented.url}/other"
    )
    assert len(documented.requests) == 1


@pytest.mark.parametrize("body", ["<html>", [], {"other": 1}, None, 7, {"queues": [{}]}, {"queues": 7}])
def test_what_is_no_gateway(at_documented: Command, documented: Documented, body: object) -> None:
    documented.answer(body)
    check_failed(at_documented("queue", "list"), "does not answer as a gateway does")


@pytest.mark.parametrize("key", ["secret\nkey", "sécret", "secret\x7f"])
def test_a_key_that_cannot_be_is_not_shown(runlane: Command, documented: Documented, key: str) -> None:
    result = runlane("queue", "list", "-s", documented.url, "-k", key)
    check_failed(result, "no such characters")
    assert key not in result.stderr
    assert documented.requests == []


def test_keys_and_passwords_are_in_no_error(runlane: Command) -> None:
    result = runlane("queue", "list", "-s", "http://user:the-password@127.0.0.1:1", "-k", "the-key")
    check_failed(result, "cannot reach the gateway at http://***@127.0.0.1:1")
    assert "the-password" not in result.stderr
    assert "the-key" not in result.stderr


@pytest.mark.parametrize("name", ["a/b", "../x"])
def test_a_name_that_would_be_another_path(at_documented: Command, documented: Documented, name: str) -> None:
    check_failed(at_documented("vault", "delete", name, "--force"), repr(name))
    assert documented.requests == []


def test_names_are_quoted(at_documented: Command, documented: Documented) -> None:
    for name in ("..", ".", "a b?c#d%e", "é"):
        documented.answer({"message": "vault deleted successfully"})
        assert at_documented("vault", "delete", name, "--force").exit_code == 0
        assert documented.requests[-1].path == f"/api/vaults/{name}"


def test_the_home_may_be_missing(runlane: Command, documented: Documented, home: Path) -> None:
    assert not home.exists()
    assert used(runlane, documented, "queue", "list", "-s", documented.url) is None
    assert not home.exists()
