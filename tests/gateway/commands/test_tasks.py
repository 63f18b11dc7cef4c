"""`runlane task`, by Runqy's documents."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from .documented import Documented
from .invoking import Command, check_failed, check_misused

ID = "0b6ba1c2-4d34-4c9c-9d2e-0123456789ab"
TASK = {
    "id": ID, "type": "a.default", "queue": "a.default", "state": "archived", "payload": '{"n": 1}', "max_retry": 3,
    "retried": 2, "last_err": "it\nbroke", "timeout": "10m0s", "completed_at": "2026-01-31 12:00:00",
}  # fmt: skip
QUEUED = {"info": {"id": ID, "queue": "a.default", "state": "pending"}, "data": {}}


def ended(state: str, **fields: Any) -> dict[str, Any]:
    return {"info": {"id": ID, "queue": "a.default", "state": state, **fields}}


def test_enqueue(at_documented: Command, documented: Documented) -> None:
    documented.answer(QUEUED)
    result = at_documented("task", "enqueue", "-q", "a")
    assert result.stdout == f"id: {ID}\nqueue: a.default\nstate: pending\n"
    (request,) = documented.requests
    assert (request.method, request.path) == ("POST", "/api/cli/tasks")
    assert request.json == {"queue": "a", "timeout": 600, "data": {}}


def test_enqueue_with_all_options(at_documented: Command, documented: Documented) -> None:
    arguments = ["-q", "a.high", "-p", "[1]", "-t", "5", "--unique", "k", "--json"]
    documented.answer(QUEUED)
    assert json.loads(at_documented("task", "enqueue", *arguments, "--delay", "2m").stdout) == QUEUED
    fields = {"queue": "a.high", "timeout": 5, "unique": "k", "data": [1]}
    assert documented.requests[-1].json == fields | {"delay": 120}
    documented.answer(QUEUED)
    at_documented("task", "enqueue", *arguments, "--run-at", "2026-01-31T12:00:00+01:00")
    assert documented.requests[-1].json == fields | {"run_at": "2026-01-31T12:00:00+01:00"}


PAYLOAD = '{"a": 1.10, "a": 2e-7, "b":"\\u00e9é", "big": 123456789012345678901234567890}'


@pytest.mark.parametrize("way", ["argument", "file", "input"])
def test_a_payload_goes_as_it_is(at_documented: Command, documented: Documented, tmp_path: Path, way: str) -> None:
    file = tmp_path / "payload.json"
    file.write_text(PAYLOAD)
    documented.answer(QUEUED)
    given = {"argument": PAYLOAD, "file": f"@{file}", "input": "-"}[way]
    result = at_documented("task", "enqueue", "-q", "a", "-p", given, input=PAYLOAD if way == "input" else "")
    assert result.exit_code == 0, result.stderr
    assert documented.requests[0].body == f'{{"queue": "a", "timeout": 600, "data": {PAYLOAD}}}'


def test_what_cannot_be_queued(at_documented: Command, documented: Documented, tmp_path: Path) -> None:
    def enqueue(*arguments: str) -> Any:
        return at_documented("task", "enqueue", *arguments)

    check_misused(enqueue(), "Missing option '-q' / '--queue'.")
    check_misused(enqueue("-q", ""), "queue name cannot be empty")
    for timeout in ("0", "-1"):
        check_misused(enqueue("-q", "a", "-t", timeout), "--timeout must be positive")
    for payload in ("{", "", "NaN", "{} {}", '{}, "queue": 1', "\udc80"):
        result = enqueue("-q", "a", "-p", payload)
        assert (result.exit_code, "the payload is not valid JSON" in result.stderr) == (2, True)
    check_misused(enqueue("-q", "a", "-p", f"@{tmp_path}/x"),
                  f"cannot read the payload from {tmp_path}/x: No such file or directory")  # fmt: skip
    for time in ("tomorrow", "2026-01-31T12:00:00", "2026-01-31"):
        assert "a time with its offset" in enqueue("-q", "a", "--run-at", time).stderr
    both = enqueue("-q", "a", "--run-at", "2026-01-31T12:00:00Z", "--delay", "1s")
    check_misused(both, "--delay and --run-at are two ways to say the same: take one")
    assert documented.requests == []


@pytest.mark.parametrize(
    ("answer", "printed"),
    [
        (ended("completed", result={"a": 1}), {"a": 1}),
        (ended("completed", result="5"), "5"),
        (ended("completed", result=None), None),
        (ended("completed", result="5") | {"Info": {"Result": '"5"'}}, "5"),
        (ended("completed") | {"Info": {"Result": "null"}}, None),
        (ended("completed") | {"Info": {"Result": None}}, None),
    ],
)
def test_wait_prints_the_result(
    at_documented: Command, documented: Documented, answer: dict[str, Any], printed: Any
) -> None:
    documented.answer(QUEUED)
    documented.answer({"errors": ["timeout waiting for task result"]}, 408)
    documented.answer(answer)
    result = at_documented("task", "enqueue", "-q", "a", "--wait")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == printed
    for request in documented.requests[1:]:
        assert request[:4] == ("GET", f"/queue/{ID}", {"wait": "true"}, "")


def test_wait_for_what_fails(at_documented: Command, documented: Documented) -> None:
    documented.answer(QUEUED)
    documented.answer(ended("archived", last_err="it\nbroke"))
    result = at_documented("task", "enqueue", "-q", "a", "--wait")
    check_failed(result, f"task {ID} is archived: it\\x0abroke")
    answer = ended("archived", last_err="it broke")
    documented.answer(QUEUED)
    documented.answer(answer)
    result = at_documented("task", "enqueue", "-q", "a", "--wait", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, answer)
    documented.answer(QUEUED)
    documented.answer({"errors": ["no"]}, 503)
    check_failed(at_documented("task", "enqueue", "-q", "a", "--wait"), "server error (503)")


def test_list(at_documented: Command, documented: Documented) -> None:
    documented.answer({"tasks": [TASK], "next": "7"})
    result = at_documented("task", "list", "a", "--state", "archived", "-l", "7", "--cursor", "3")
    assert result.stderr == "runlane: there is more: --cursor 7\n"
    header, line = result.stdout.splitlines()
    assert header.split() == ["ID", "QUEUE", "STATE", "RETRIED", "TIME", "LAST_ERR", "PAYLOAD"]
    values = [ID, "a.default", "archived", "2/3", "2026-01-31T12:00:00Z", "it\\x0abroke", '{"n": 1}']
    assert re.split("  +", line) == values
    (request,) = documented.requests
    assert request[:3] == ("GET", "/api/cli/queues/a/tasks", {"state": "archived", "limit": "7", "cursor": "3"})


def test_list_by_default(at_documented: Command, documented: Documented) -> None:
    documented.answer({"tasks": None})
    assert at_documented("task", "list", "a").stdout.count("\n") == 1
    assert documented.requests[0].query == {"state": "pending", "limit": "10"}


def test_what_cannot_be_listed(at_documented: Command) -> None:
    check_misused(at_documented("task", "list", "a", "--state", "x"),
                  "invalid state 'x', valid: pending, active, scheduled, retry, archived, completed")  # fmt: skip
    for limit in ("0", "-5"):
        check_misused(at_documented("task", "list", "a", "--limit", limit), "--limit must be positive")
    check_misused(at_documented("task", "list", ""), "queue name cannot be empty")


@pytest.mark.parametrize(
    ("arguments", "method", "path", "answer", "shown"),
    [
        (["get", "a", ID], "GET", f"/api/cli/queues/a/tasks/{ID}", TASK, f"id: {ID}\n"),
        (["cancel", ID], "DELETE", f"/api/cli/tasks/{ID}", {"message": "task cancelled", "task_id": ID},
         f"task cancelled: {ID}\n"),
        (["delete", "a", ID], "DELETE", f"/api/cli/queues/a/tasks/{ID}", {"message": "task deleted", "task_id": ID},
         f"task deleted: {ID}\n"),
        (["run", "a", ID], "POST", f"/api/cli/queues/a/tasks/{ID}/run", {"message": "task queued", "task_id": ID},
         f"task queued: {ID}\n"),
    ],
)  # fmt: skip
def test_one(
    at_documented: Command, documented: Documented, arguments: list[str], method: str, path: str,
    answer: dict[str, Any], shown: str,
) -> None:  # fmt: skip
    documented.answer(answer)
    assert at_documented("task", *arguments).stdout.startswith(shown)
    assert documented.requests[0][:4] == (method, path, {}, "")
    documented.answer(answer)
    assert json.loads(at_documented("task", *arguments, "--json").stdout) == answer
    documented.answer({"errors": ["task not found"]}, 404)
    check_failed(at_documented("task", *arguments), "server error (404): task not found\n")
    check_misused(at_documented("task", *arguments[:-1], ""), "task id cannot be empty")


def test_get_shows_all_of_it(at_documented: Command, documented: Documented) -> None:
    documented.answer(TASK)
    shown = at_documented("task", "get", "a", ID).stdout
    assert 'payload: {"n": 1}\n' in shown
    assert "last_err: it\\x0abroke\n" in shown
    assert "completed_at: 2026-01-31T12:00:00Z\n" in shown
