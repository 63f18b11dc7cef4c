"""`runlane queue`, by Runqy's documents."""

import json

import pytest

from .documented import Documented
from .invoking import Command, check_failed, check_misused
from .test_output import QUEUE


def test_list(at_documented: Command, documented: Documented) -> None:
    documented.answer({"queues": [QUEUE, QUEUE | {"queue": "b.default", "paused": True}], "warnings": ["b is odd"]})
    result = at_documented("queue", "list")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["QUEUE", "PENDING", "ACTIVE", "SCHEDULED", "RETRY", "ARCHIVED", "COMPLETED", "PAUSED"],
        ["inference.default", "1", "2", "3", "4", "5", "6", "no"],
        ["b.default", "1", "2", "3", "4", "5", "6", "yes"],
    ]
    assert result.stderr == "runlane: b is odd\n"
    request = documented.requests[0]
    assert (request.method, request.path, request.key) == ("GET", "/api/cli/queues", f"Bearer {documented.KEY}")


def test_lists_that_are_null_are_empty(at_documented: Command, documented: Documented) -> None:
    documented.answer({"queues": None})
    assert at_documented("queue", "list").stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "method", "path", "query", "answer", "shown"),
    [
        (["inspect", "a.b"], "GET", "/api/cli/queues/a.b", {}, QUEUE, "queue: inference.default\npending: 1\n"),
        (["pause", "a"], "POST", "/api/cli/queues/a/pause", {}, {"message": "queue paused", "queue": "a.default"},
         "queue paused: a.default\n"),
        (["unpause", "a"], "POST", "/api/cli/queues/a/unpause", {},
         {"message": "queue unpaused", "queue": "a", "changed": False}, "queue unpaused: a (it was before)\n"),
        (["delete", "a"], "DELETE", "/api/cli/queues/a", {}, {"message": "queue deleted", "queue": "a"},
         "queue deleted: a\n"),
        (["delete", "a", "--force"], "DELETE", "/api/cli/queues/a", {"force": "true"},
         {"message": "queue deleted", "queue": "a"}, "queue deleted: a\n"),
    ],
)  # fmt: skip
def test_one(
    at_documented: Command, documented: Documented, arguments: list[str], method: str, path: str,
    query: dict[str, str], answer: dict[str, object], shown: str,
) -> None:  # fmt: skip
    documented.answer(answer)
    assert at_documented("queue", *arguments).stdout.startswith(shown)
    assert documented.requests[0][:4] == (method, path, query, "")
    documented.answer(answer)
    assert at_documented("queue", *arguments, "--json").stdout == f"{json.dumps(answer, indent=2)}\n"


@pytest.mark.parametrize("command", ["inspect", "pause", "unpause", "delete"])
def test_a_name_that_is_none(at_documented: Command, documented: Documented, command: str) -> None:
    check_misused(at_documented("queue", command, " "), "queue name cannot be empty")
    documented.answer({"errors": ["queue not found: x.default"]}, 404)
    check_failed(at_documented("queue", command, "x"), "server error (404): queue not found: x.default\n")
