"""`runlane config`, by Runqy's documents."""

import json
from pathlib import Path
from typing import Any

import pytest

from .documented import Documented
from .invoking import Command, check_failed, check_misused

CONFIG = {
    "name": "a.high", "priority": 2, "deployment": {"git_url": "g", "startup_cmd": "s"}, "created_at": 1769860800,
    "updated_at": 1769860803,
}  # fmt: skip


def test_list(at_documented: Command, documented: Documented) -> None:
    queues = [{"name": "a.high", "priority": 2}, {"name": "a.default", "priority": 1, "enabled": False}]
    documented.answer({"queues": queues, "count": 2, "warnings": ["odd"]})
    result = at_documented("config", "list", "--deleted")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["QUEUE", "PRIORITY", "ENABLED"], ["a.high", "2", "yes"], ["a.default", "1", "no"],
    ]  # fmt: skip
    assert result.stderr == "runlane: odd\n"
    assert documented.requests[0][:3] == ("GET", "/api/cli/configs", {"deleted": "true"})


def test_reload(at_documented: Command, documented: Documented) -> None:
    documented.answer({"reloaded": ["a.high"], "removed": ["b.default"], "errors": [], "timestamp": 1})
    result = at_documented("config", "reload")
    assert (result.exit_code, result.stdout) == (0, "reloaded a.high\nremoved b.default\n")
    assert documented.requests[0][:2] == ("POST", "/api/cli/configs/reload")


@pytest.mark.parametrize("as_json", [True, False])
def test_reload_with_errors(at_documented: Command, documented: Documented, as_json: bool) -> None:
    answer = {"reloaded": None, "errors": ["x.yaml: queue 'b': wrong"], "timestamp": 1}
    documented.answer(answer)
    if as_json:
        result = at_documented("config", "reload", "--json")
        assert (result.exit_code, json.loads(result.stdout)) == (1, answer)
    else:
        check_failed(at_documented("config", "reload"), "x.yaml: queue 'b': wrong")


def test_create(at_documented: Command, documented: Documented) -> None:
    documented.answer({"queue": CONFIG, "message": "Queue created successfully"}, 201)
    assert at_documented("config", "create", "--name", "a").stdout == "Queue created successfully: a.high\n"
    assert documented.requests[-1].json == {"name": "a", "priority": 1}
    documented.answer({"queue": CONFIG, "message": "Queue updated successfully"}, 201)
    arguments = (
        "--name a.high --priority 2 --git-url g --branch b --startup-cmd s --mode one_shot --code-path c --force"
    )
    assert at_documented("config", "create", *arguments.split()).stdout == "Queue updated successfully: a.high\n"
    assert documented.requests[-1][:3] == ("POST", "/api/cli/configs", {"force": "true"})
    deployment = {"git_url": "g", "branch": "b", "startup_cmd": "s", "mode": "one_shot", "code_path": "c"}
    assert documented.requests[-1].json == {"name": "a.high", "priority": 2, "deployment": deployment}


FILE = """
queues:
  a:
    sub_queues: [{name: high, priority: 10}, {name: low, priority: 3}]
    mode: one_shot
    deployment: {git_url: g, startup_cmd: s, limits: {max_retry: 1}}
  b:
    priority: 2
    deployment: {git_url: g, startup_cmd: s}
"""


def test_create_those_of_a_file(at_documented: Command, documented: Documented, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text(FILE)
    for _ in range(2):
        documented.answer({"queue": CONFIG, "message": "Queue created successfully"}, 201)
    assert at_documented("config", "create", "-f", str(file)).stdout.count("Queue created successfully") == 2
    first, second = (request.json for request in documented.requests)
    assert first["name"] == "a"
    assert first["sub_queues"] == [{"name": "high", "priority": 10}, {"name": "low", "priority": 3}]
    assert (first["deployment"]["mode"], first["deployment"]["limits"]["max_retry"]) == ("one_shot", 1)
    assert (second["name"], second["priority"], second["deployment"]["git_url"]) == ("b", 2, "g")


def test_a_file_that_is_wrong_makes_nothing(at_documented: Command, documented: Documented, tmp_path: Path) -> None:
    file = tmp_path / "queues.yaml"
    file.write_text(f"{FILE}  c: {{priority: 1}}\n")
    result = at_documented("config", "create", "-f", str(file))
    check_failed(result, "queues.yaml: queue 'c': deployment is required")
    check_failed(at_documented("config", "create", "-f", f"{file}x"), f"cannot read {file}x")
    assert documented.requests == []


def test_validate(runlane: Command, tmp_path: Path) -> None:
    (tmp_path / "queues.yaml").write_text(FILE)
    assert runlane("config", "validate", "--dir", str(tmp_path)).stdout == "good a\ngood b\n"
    (tmp_path / "other.yml").write_text("queues: {c: {priority: 1}}")
    result = runlane("config", "validate", QUEUE_WORKERS_DIR=str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "good a\ngood b\n")
    assert result.stderr == "runlane: other.yml: queue 'c': deployment is required\n"
    found = json.loads(runlane("config", "validate", "--json", "--dir", str(tmp_path)).stdout)
    assert found == {"queues": ["a", "b"], "errors": ["other.yml: queue 'c': deployment is required"]}
    check_failed(runlane("config", "validate", "--dir", str(tmp_path / "x")), "cannot be read")


def test_what_cannot_be_created(at_documented: Command, documented: Documented) -> None:
    def create(*arguments: str) -> Any:
        return at_documented("config", "create", *arguments)

    check_misused(create(), "say what to make: --name or --file")
    check_misused(create("--name", "a", "-f", "x"), "say what to make: --name or --file")
    check_misused(create("--name", ""), "queue name cannot be empty")
    check_misused(create("--name", "a", "--priority", "0"), "--priority must be positive")
    check_misused(create("--name", "a", "--mode", "x"), "invalid mode 'x', must be 'long_running' or 'one_shot'")
    for option in ("--git-url", "--startup-cmd"):
        check_misused(create("--name", "a", option, "x"), "--git-url and --startup-cmd belong together")
    documented.answer({"errors": ["queue 'a' already exists. Use --force to update existing queue"]}, 409)
    check_failed(create("--name", "a"), "server error (409): queue 'a' already exists. Use --force")


@pytest.mark.parametrize(
    ("arguments", "method", "path"),
    [(["remove", "a"], "DELETE", "/api/cli/configs/a"), (["remove", "--name", "a"], "DELETE", "/api/cli/configs/a"),
     (["restore", "a"], "POST", "/api/cli/configs/a/restore")],
)  # fmt: skip
def test_remove_and_restore(
    at_documented: Command, documented: Documented, arguments: list[str], method: str, path: str
) -> None:
    documented.answer({"message": "Queue 'a' deleted successfully"})
    assert at_documented("config", *arguments).stdout == "Queue 'a' deleted successfully\n"
    assert documented.requests[0][:2] == (method, path)


def test_what_cannot_be_removed(at_documented: Command) -> None:
    check_misused(at_documented("config", "remove"), "say which queue, once")
    check_misused(at_documented("config", "remove", "a", "--name", "a"), "say which queue, once")
    check_misused(at_documented("config", "remove", ""), "queue name cannot be empty")


def test_show(at_documented: Command, documented: Documented) -> None:
    documented.answer(CONFIG)
    shown = at_documented("config", "show", "a.high").stdout
    assert 'deployment: {"git_url": "g", "startup_cmd": "s"}\ncreated_at: 2026-01-31T12:00:00Z\n' in shown
    assert documented.requests[0][:2] == ("GET", "/api/cli/configs/a.high")
