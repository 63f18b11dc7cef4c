"""`runlane vault`, by Runqy's documents."""

import json
from typing import Any

import pytest

from .documented import Documented
from .invoking import Command, check_failed, check_misused

ENTRY = {"key": "TOKEN", "value": "my****et", "is_secret": True, "created_at": "2026-01-31T12:00:00Z",
         "updated_at": "2026-01-31T14:00:00+02:00"}  # fmt: skip
VAULT = {"name": "v", "description": "of it", "entries": [ENTRY], "created_at": "2026-01-31T12:00:00Z",
         "updated_at": "2026-01-31T12:00:00Z"}  # fmt: skip
TABLE = [["KEY", "SECRET", "UPDATED", "VALUE"], ["TOKEN", "yes", "2026-01-31T12:00:00Z", "my****et"]]


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_list(at_documented: Command, documented: Documented) -> None:
    documented.answer({"vaults": [{"name": "v", "description": "of it", "entry_count": 2}], "count": 1})
    expected = [["VAULT", "ENTRIES", "DESCRIPTION"], ["v", "2", "of", "it"]]
    assert lines(at_documented("vault", "list").stdout) == expected
    assert documented.requests[0][:2] == ("GET", "/api/vaults")


def test_show_and_entries(at_documented: Command, documented: Documented) -> None:
    documented.answer(VAULT)
    shown = at_documented("vault", "show", "v").stdout
    assert shown.startswith("name: v\ndescription: of it\ncreated_at: 2026-01-31T12:00:00Z\n")
    assert lines(shown.partition("\n\n")[2]) == TABLE
    documented.answer({"entries": [ENTRY], "count": 1})
    assert lines(at_documented("vault", "entries", "v").stdout) == TABLE
    assert [request[:2] for request in documented.requests] == [
        ("GET", "/api/vaults/v"), ("GET", "/api/vaults/v/entries"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "method", "path", "body"),
    [
        (["create", "v"], "POST", "/api/vaults", {"name": "v", "description": ""}),
        (["create", "v", "-d", "of it"], "POST", "/api/vaults", {"name": "v", "description": "of it"}),
        (["delete", "v", "--force"], "DELETE", "/api/vaults/v", None),
        (["unset", "v", "K"], "DELETE", "/api/vaults/v/entries/K", None),
        (["set", "v", "K", "x"], "POST", "/api/vaults/v/entries", {"key": "K", "value": "x", "is_secret": True}),
        (["set", "v", "K", "x", "--no-secret"], "POST", "/api/vaults/v/entries",
         {"key": "K", "value": "x", "is_secret": False}),
    ],
)  # fmt: skip
def test_changes(
    at_documented: Command, documented: Documented, arguments: list[str], method: str, path: str, body: Any
) -> None:
    documented.answer({"message": "done successfully"})
    assert at_documented("vault", *arguments).stdout == "done successfully\n"
    (request,) = documented.requests
    assert request[:2] == (method, path)
    assert (request.json if request.body else None) == body
    documented.answer({"errors": ["vault not found"]}, 404)
    check_failed(at_documented("vault", *arguments), "server error (404): vault not found\n")
    check_misused(at_documented("vault", arguments[0], "", *arguments[2:]), "vault name cannot be empty")


@pytest.mark.parametrize("arguments", [["-"], []])
@pytest.mark.parametrize(
    ("given", "value"), [("s\n", "s"), ("s", "s"), (" s \n\n", " s \n"), ("a\nb\r\n", "a\nb"), ("-", "-")]
)
def test_a_value_over_standard_input(
    at_documented: Command, documented: Documented, arguments: list[str], given: str, value: str
) -> None:
    documented.answer({"message": "entry set successfully"})
    assert at_documented("vault", "set", "v", "K", *arguments, input=given).exit_code == 0
    assert documented.requests[0].json["value"] == value


@pytest.mark.parametrize(("answer", "sent"), [("y\n", 1), ("n\n", 0), ("", 0)])
def test_delete_asks(at_documented: Command, documented: Documented, answer: str, sent: int) -> None:
    documented.answer({"message": "vault deleted successfully"})
    result = at_documented("vault", "delete", "v", input=answer)
    assert "Delete vault v and all of its entries?" in result.stderr
    assert (len(documented.requests), result.exit_code) == (sent, 1 - sent)


def test_rotate(at_documented: Command, documented: Documented) -> None:
    documented.answer({"rotated": 3, "unchanged": 1})
    assert at_documented("vault", "rotate").stdout == "rotated: 3\nunchanged: 1\n"
    assert documented.requests[0][:2] == ("POST", "/v1/vaults/rotate")
    documented.answer({"rotated": 3, "unchanged": 1})
    assert json.loads(at_documented("vault", "rotate", "--json").stdout) == {"rotated": 3, "unchanged": 1}
    check_failed(at_documented("vault", "rotate", "--tenant", "t"), "set --redis or RUNLANE_REDIS_URL")


def test_without_a_master_key(at_documented: Command, documented: Documented) -> None:
    documented.answer({"errors": ["vaults not enabled. Set RUNQY_VAULT_MASTER_KEY environment variable."]}, 503)
    check_failed(at_documented("vault", "list"), "server error (503): vaults not enabled. Set RUNQY_VAULT_MASTER_KEY")


def test_no_gateway_is_asked_for_a_value(at_documented: Command, documented: Documented) -> None:
    check_failed(at_documented("vault", "get", "v", "K"), "set --redis or RUNLANE_REDIS_URL")
    assert documented.requests == []
