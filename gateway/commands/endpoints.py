"""`runlane endpoint`"""

import json
from collections.abc import Callable
from typing import Any

import click

from ..errors import StartupError
from . import output
from .connection import Connection, remote, remote_group, segment

PATH = "/v1/endpoints"


@click.group("endpoint")
@remote_group
def endpoint() -> None:
    """Create, show, change and delete endpoints of a running gateway."""


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--set", "fields", multiple=True, metavar="FIELD=VALUE",
        help="A field as in the management API, such as attempts=1 or executionTimeoutMs=60000; repeatable.",
    )(command)  # fmt: skip


@endpoint.command("create")
@click.argument("id")
@_fields
@remote
def create(connection: Connection, id: str, fields: tuple[str, ...]) -> None:
    """Create endpoint ID and print the key for its workers, which is shown this once."""
    connection.show(connection.call("POST", PATH, {"id": id, **_parse(fields)}), _print_created)


@endpoint.command("list")
@remote
def list_(connection: Connection) -> None:
    """List all endpoints."""
    connection.show(connection.call("GET", PATH), _print_list)


@endpoint.command("show")
@click.argument("id")
@remote
def show(connection: Connection, id: str) -> None:
    """Show endpoint ID."""
    connection.show(connection.call("GET", f"{PATH}/{segment(id)}"), output.fields)


@endpoint.command("update")
@click.argument("id")
@_fields
@remote
def update(connection: Connection, id: str, fields: tuple[str, ...]) -> None:
    """Change fields of endpoint ID."""
    connection.show(connection.call("PATCH", f"{PATH}/{segment(id)}", _parse(fields)), output.fields)


@endpoint.command("delete")
@click.argument("id")
@remote
def delete(connection: Connection, id: str) -> None:
    """Delete endpoint ID; its waiting and running jobs are cancelled."""
    connection.call("DELETE", f"{PATH}/{segment(id)}")
    connection.show({"deleted": id}, lambda _: click.echo(f"deleted {id}"))


def _print_created(created: dict[str, Any]) -> None:
    click.echo(f"created {created['id']}\nworker key (not shown again): {created['workerKey']}")


def _print_list(found: list[dict[str, Any]]) -> None:
    rows = ([each[name] for name in ("id", "computeType", "workersMin", "workersMax")] for each in found)
    output.table(["ID", "COMPUTE", "WORKERS_MIN", "WORKERS_MAX"], rows)


def _parse(fields: tuple[str, ...]) -> dict[str, Any]:
    parsed = {}
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals:
            raise StartupError(f"--set takes FIELD=VALUE, not {field!r}")
        try:
            parsed[name] = json.loads(text)
        except json.JSONDecodeError:
            parsed[name] = text
    return parsed
