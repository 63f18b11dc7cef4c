"""`runlane config`"""

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import StartupError
from . import output
from .at_the_store import GatewayOrStore, at_the_store
from .connection import Connection, json_option, remote, remote_group, says_errors, segment
from .parameters import QUEUE, OneOf, Positive

PATH = "/api/cli/configs"
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
MODES = ["long_running", "one_shot"]


@click.group("config")
@remote_group
def config() -> None:
    """The settings of queues: list, make, check, remove and restore them."""


@config.command("list")
@click.option("--deleted", is_flag=True, help="Those that were removed as well.")
@remote
def list_(connection: Connection, deleted: bool) -> None:
    """List the queues that are set up, with their priorities."""
    connection.show(connection.call("GET", PATH, deleted="true" if deleted else None), _print_list)


@config.command("show")
@click.argument("queue", type=QUEUE)
@remote
def show(connection: Connection, queue: str) -> None:
    """Show how QUEUE is set up."""
    connection.show(connection.call("GET", f"{PATH}/{segment(queue)}"), _print_config)


@config.command("reload")
@click.option("--dir", "folder", type=FOLDER, help="With --redis: has the store's queues be as the files in it say.")
@at_the_store("queues")
def reload(source: GatewayOrStore, folder: Path | None) -> None:
    """Have the gateway read its queue files again; status 1 if something in them is wrong."""
    answer = source.load_queue_files(folder) if folder is not None else source.call("POST", f"{PATH}/reload")
    source.show(answer, _print_reloaded)
    if answer.get("errors"):
        sys.exit(1)


@config.command("validate")
@click.option("--dir", "folder", envvar="QUEUE_WORKERS_DIR", default=".", show_default=True, type=FOLDER,
              help="Where they are.  [QUEUE_WORKERS_DIR]")  # fmt: skip
@json_option
@says_errors
def validate(folder: Path, as_json: bool) -> None:
    """Check queue files without a gateway; status 1 if something in them is wrong."""
    from ..queue_files import parse, read

    parsed = parse(read(folder))
    found = {"queues": sorted(parsed.queues), "errors": parsed.errors}
    if as_json:
        output.echo_json(found)
    else:
        _print_validated(found)
    if parsed.errors:
        sys.exit(1)


@config.command("create")
@click.option("-f", "--file", type=FILE, help="A queue file, all of whose queues are made.")
@click.option("--name", type=QUEUE, help="PARENT.SUB_QUEUE; PARENT alone is PARENT.default.")
@click.option("--priority", default=1, show_default=True, type=Positive(), help="The higher is served first.")
@click.option("--git-url", help="The repository of the task code.")
@click.option("--branch", default="main", show_default=True, help="Its branch.")
@click.option("--code-path", help="The folder in it.  [default: its root]")
@click.option("--startup-cmd", help="What starts the task code.")
@click.option("--mode", default="long_running", show_default=True,
              type=OneOf(MODES, "invalid mode '{}', must be 'long_running' or 'one_shot'"),
              help="One process for all tasks, or one for each.")  # fmt: skip
@click.option("--force", is_flag=True, help="Change it if it is there.")
@remote
def create(connection: Connection, file: Path | None, name: str | None, force: bool, **given: Any) -> None:
    """Make a queue, or those of a file. With a file no option but --force counts."""
    if (file is None) == (name is None):
        raise click.UsageError("say what to make: --name or --file")
    for wanted in [_wanted(name, **given)] if file is None else _wanted_by(file):
        answer = connection.call("POST", PATH, wanted, force="true" if force else None)
        connection.show(answer, _print_created)


@config.command("remove")
@click.argument("queue", required=False, type=QUEUE)
@click.option("--name", type=QUEUE, help="The queue, said in another way.")
@remote
def remove(connection: Connection, queue: str | None, name: str | None) -> None:
    """Remove QUEUE: it takes and serves nothing any more, and keeps what it has."""
    if (queue is None) == (name is None):
        raise click.UsageError("say which queue, once")
    connection.show(connection.call("DELETE", f"{PATH}/{segment(queue or name or '')}"), _print_message)


@config.command("restore")
@click.argument("queue", type=QUEUE)
@remote
def restore(connection: Connection, queue: str) -> None:
    """Put QUEUE back to work, which was removed."""
    connection.show(connection.call("POST", f"{PATH}/{segment(queue)}/restore"), _print_message)


def _wanted_by(file: Path) -> list[dict[str, Any]]:
    """The queues of a file, as the gateway takes them.

    Raises:
        StartupError: something in it is wrong.
    """
    import msgspec

    from ..queue_files import Files, parse

    try:
        parsed = parse(Files({file.name: file.read_bytes()}))
    except OSError as error:
        raise StartupError(f"cannot read {file}: {error.strerror}") from None
    if parsed.errors:
        raise StartupError("; ".join(parsed.errors))
    queues = {name: msgspec.to_builtins(definition) for name, definition in parsed.queues.items()}
    return [
        {"name": name} | {field: value for field, value in fields.items() if value is not None}
        for name, fields in queues.items()
    ]


def _wanted(name: str | None, priority: int, **deployment: str | None) -> dict[str, Any]:
    wanted: dict[str, Any] = {"name": name, "priority": priority}
    if deployment["git_url"] or deployment["startup_cmd"]:
        if not (deployment["git_url"] and deployment["startup_cmd"]):
            raise click.UsageError("--git-url and --startup-cmd belong together")
        wanted["deployment"] = {field: value for field, value in deployment.items() if value}
    return wanted


def _print_list(found: dict[str, Any]) -> None:
    rows = ((each["name"], each["priority"], each.get("enabled", True)) for each in found["queues"] or [])
    output.table(["QUEUE", "PRIORITY", "ENABLED"], rows)
    for warning in found.get("warnings") or []:
        output.warn(warning)


def _print_config(found: dict[str, Any]) -> None:
    times = {name: output.moment(found[name]) for name in ("created_at", "updated_at")}
    output.fields(found | times)


def _print_reloaded(answer: dict[str, Any]) -> None:
    for word in ("reloaded", "removed"):
        for name in answer.get(word) or []:
            click.echo(f"{word} {output.text(name)}")
    for error in answer["errors"] or []:
        output.warn(error)


def _print_validated(found: dict[str, list[str]]) -> None:
    for name in found["queues"]:
        click.echo(f"good {output.text(name)}")
    for error in found["errors"]:
        output.warn(error)


def _print_created(answer: dict[str, Any]) -> None:
    click.echo(f"{output.text(answer['message'])}: {output.text(answer['queue']['name'])}")


def _print_message(answer: dict[str, Any]) -> None:
    click.echo(output.text(answer["message"]))
