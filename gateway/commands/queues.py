"""`runlane queue`"""

from typing import Any

import click

from . import output
from .connection import Connection, remote, remote_group, segment
from .parameters import QUEUE

PATH = "/api/cli/queues"
COUNTS = ("pending", "active", "scheduled", "retry", "archived", "completed")


@click.group("queue")
@remote_group
def queue() -> None:
    """Look at queues, pause and delete them.

    A QUEUE is PARENT.SUB_QUEUE; PARENT alone means all of its sub-queues.
    """


@queue.command("list")
@remote
def list_(connection: Connection) -> None:
    """List the queues, with how many tasks each has by state."""
    connection.show(connection.call("GET", PATH), _print_list)


@queue.command("inspect")
@click.argument("queue", type=QUEUE)
@remote
def inspect(connection: Connection, queue: str) -> None:
    """Show QUEUE."""
    connection.show(connection.call("GET", f"{PATH}/{segment(queue)}"), output.fields)


@queue.command("pause")
@click.argument("queue", type=QUEUE)
@remote
def pause(connection: Connection, queue: str) -> None:
    """Begin none of QUEUE's tasks any more; it goes on taking new ones."""
    connection.show(connection.call("POST", f"{PATH}/{segment(queue)}/pause"), _print_done)


@queue.command("unpause")
@click.argument("queue", type=QUEUE)
@remote
def unpause(connection: Connection, queue: str) -> None:
    """Begin QUEUE's tasks again."""
    connection.show(connection.call("POST", f"{PATH}/{segment(queue)}/unpause"), _print_done)


@queue.command("delete")
@click.argument("queue", type=QUEUE)
@click.option("--force", is_flag=True, help="Also when it has tasks, which are deleted with it.")
@remote
def delete(connection: Connection, queue: str, force: bool) -> None:
    """Delete QUEUE."""
    force_ = "true" if force else None
    connection.show(connection.call("DELETE", f"{PATH}/{segment(queue)}", force=force_), _print_done)


def _print_list(found: dict[str, Any]) -> None:
    rows = ([each[name] for name in ("queue", *COUNTS, "paused")] for each in found["queues"] or [])
    output.table(["QUEUE", *(name.upper() for name in COUNTS), "PAUSED"], rows)
    for warning in found.get("warnings") or []:
        output.warn(warning)


def _print_done(answer: dict[str, Any]) -> None:
    already = " (it was before)" if answer.get("changed") is False else ""
    click.echo(f"{output.text(answer['message'])}: {output.text(answer['queue'])}{already}")
