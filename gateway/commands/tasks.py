"""`runlane task`"""

import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from . import output
from .connection import Connection, ServerError, remote, remote_group, segment
from .parameters import QUEUE, TASK, Duration, OneOf, Positive, cursor_option

TASKS = "/api/cli/tasks"
QUEUES = "/api/cli/queues"
STATES = ["pending", "active", "scheduled", "retry", "archived", "completed"]
TIMES = ("next_process_at", "completed_at", "deadline", "last_failed_at")
WAIT_SECONDS = 45.0
"""Longer than the gateway holds a request that waits."""


@click.group("task")
@remote_group
def task() -> None:
    """Queue tasks, look at them, cancel, delete and repeat them."""


def _time(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        is_good = value is None or datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        is_good = False
    if not is_good:
        raise click.BadParameter("it takes a time with its offset, such as 2026-01-31T12:00:00Z")
    return value


@task.command("enqueue")
@click.option("-q", "--queue", required=True, type=QUEUE, help="PARENT.SUB_QUEUE; PARENT alone is PARENT.default.")
@click.option("-p", "--payload", default="{}", show_default=True, metavar="JSON|@FILE|-",
              help="What the handler gets: JSON, a file with it, or - for standard input.")  # fmt: skip
@click.option("-t", "--timeout", default=600, show_default=True, type=Positive(), metavar="SECONDS",
              help="It may run for so long.")  # fmt: skip
@click.option("--delay", type=Duration(), help="It begins no sooner than in so long, such as 90s or 12h.")
@click.option("--run-at", callback=_time, metavar="TIME", help="It begins no sooner than then: 2026-01-31T12:00:00Z")
@click.option("--unique", metavar="KEY", help="Refuse it while another task with this key is not at its end.")
@click.option("--wait", is_flag=True, help="Wait for its end and print its result; status 1 if it failed.")
@remote
def enqueue(connection: Connection, payload: str, delay: float | None, wait: bool, **given: Any) -> None:
    """Queue a task."""
    if delay is not None and given["run_at"]:
        raise click.UsageError("--delay and --run-at are two ways to say the same: take one")
    body = _body(_payload(payload), delay=delay, **given)
    answer = connection.call("POST", TASKS, body)
    if wait:
        with connection.reading():
            id = answer["info"]["id"]
        _wait(connection, id)
    else:
        connection.show(answer, _print_queued)


@task.command("list")
@click.argument("queue", type=QUEUE)
@click.option("--state", default="pending", show_default=True,
              type=OneOf(STATES, f"invalid state '{{}}', valid: {', '.join(STATES)}"))  # fmt: skip
@click.option("-l", "--limit", default=10, show_default=True, type=Positive(), help="As many at most.")
@cursor_option
@remote
def list_(connection: Connection, queue: str, **page: Any) -> None:
    """List tasks of QUEUE."""
    found = connection.call("GET", f"{QUEUES}/{segment(queue)}/tasks", **page)
    connection.show(found, _print_list)


@task.command("get")
@click.argument("queue", type=QUEUE)
@click.argument("id", type=TASK)
@remote
def get(connection: Connection, queue: str, id: str) -> None:
    """Show task ID of QUEUE."""
    connection.show(connection.call("GET", _path(queue, id)), _print_task)


@task.command("cancel")
@click.argument("id", type=TASK)
@remote
def cancel(connection: Connection, id: str) -> None:
    """Cancel task ID, whether it waits or runs."""
    connection.show(connection.call("DELETE", f"{TASKS}/{segment(id)}"), _print_done)


@task.command("delete")
@click.argument("queue", type=QUEUE)
@click.argument("id", type=TASK)
@remote
def delete(connection: Connection, queue: str, id: str) -> None:
    """Delete task ID of QUEUE, unless it runs."""
    connection.show(connection.call("DELETE", _path(queue, id)), _print_done)


@task.command("run")
@click.argument("queue", type=QUEUE)
@click.argument("id", type=TASK)
@remote
def run(connection: Connection, queue: str, id: str) -> None:
    """Run task ID of QUEUE now, which is scheduled, to be retried or archived."""
    connection.show(connection.call("POST", f"{_path(queue, id)}/run"), _print_done)


def _path(queue: str, id: str) -> str:
    return f"{QUEUES}/{segment(queue)}/tasks/{segment(id)}"


def _payload(given: str) -> bytes:
    """The text of it, by what was given.

    Raises:
        click.UsageError: it cannot be read, or is not JSON.
    """
    try:
        if given == "-":
            text = sys.stdin.buffer.read()
        else:
            text = Path(given[1:]).read_bytes() if given.startswith("@") else os.fsencode(given)
    except OSError as error:
        raise click.UsageError(f"cannot read the payload from {given[1:]}: {error.strerror}") from None
    import msgspec

    try:
        msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"the payload is not valid JSON: {error}") from None
    return text


def _body(payload: bytes, **fields: Any) -> bytes:
    """The payload goes as the bytes it is, whatever it would be after being read and written."""
    others = json.dumps({name: value for name, value in fields.items() if value is not None})
    return b'%s, "data": %s}' % (others.removesuffix("}").encode(), payload)


def _wait(connection: Connection, id: str) -> None:
    """Prints the result, or what went wrong, and ends then with the status 1."""
    while True:
        try:
            answer = connection.call("GET", f"/queue/{segment(id)}", seconds=WAIT_SECONDS, wait="true")
            break
        except ServerError as error:
            if error.status != 408:  # its time to wait is over, and the task goes on
                raise
    connection.show(answer, _print_end)
    with connection.reading():
        if answer["info"]["state"] != "completed":
            sys.exit(1)


def _print_end(answer: dict[str, Any]) -> None:
    info, text = answer["info"], answer.get("Info", {}).get("Result")
    if info["state"] == "completed":
        output.echo_json(info.get("result") if text is None else json.loads(text))
    else:
        output.warn(f"task {info['id']} is {info['state']}: {info.get('last_err') or 'it failed'}")


def _print_queued(answer: dict[str, Any]) -> None:
    output.fields({name: answer["info"][name] for name in ("id", "queue", "state")})


def _print_list(found: dict[str, Any]) -> None:
    rows = (
        (each["id"], each["queue"], each["state"], f"{each['retried']}/{each['max_retry']}",
         output.moment(each.get("next_process_at") or each.get("completed_at")), each.get("last_err"),
         each.get("payload"))
        for each in found["tasks"] or []
    )  # fmt: skip
    output.table(["ID", "QUEUE", "STATE", "RETRIED", "TIME", "LAST_ERR", "PAYLOAD"], rows)
    output.more(found)


def _print_task(found: dict[str, Any]) -> None:
    output.fields(found | {name: output.moment(found[name]) for name in TIMES if found.get(name)})


def _print_done(answer: dict[str, Any]) -> None:
    click.echo(f"{output.text(answer['message'])}: {output.text(answer['task_id'])}")
