"""`runlane worker`, which runs one or looks at those of a gateway, and `runlane worker-env`."""

import json
import sys
from typing import Any
from urllib.parse import quote

import click

from . import output
from .connection import (
    Connection,
    Place,
    find_place,
    remote,
    remote_group,
    says_errors,
    segment,
    server_option,
    was_given,
)
from .parameters import WORKER, Positive, cursor_option

PATH = "/api/cli/workers"


class _WorkerGroup(click.Group):
    """Takes whatever is none of its commands for the file of a handler."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        if was_given():
            raise click.UsageError("a worker goes by RUNLANE_URL, RUNLANE_ENDPOINT and RUNLANE_WORKER_KEY", ctx)
        return "", run, args


@click.group("worker", cls=_WorkerGroup, subcommand_metavar="HANDLER [ARGUMENTS]... | COMMAND [ARGS]...")
@remote_group
def worker() -> None:
    """Run a worker, or look at the workers of a gateway.

    `runlane worker HANDLER.py` runs one; RUNLANE_URL, RUNLANE_ENDPOINT and RUNLANE_WORKER_KEY say where. A file that is
    called as a command below is needs its folder before its name: ./list
    """


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("handler")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(handler: str, arguments: tuple[str, ...]) -> None:
    """Run a worker for HANDLER; RUNLANE_URL, RUNLANE_ENDPOINT and RUNLANE_WORKER_KEY say where."""
    from handler_sdk.worker import main as work

    sys.exit(work(handler, list(arguments)))


@worker.command("list")
@click.option("-l", "--limit", type=Positive(), help="As many at most.  [default: 1000]")
@cursor_option
@remote
def list_(connection: Connection, **page: Any) -> None:
    """List the workers: those that are alive, and those that have gone a moment ago."""
    connection.show(connection.call("GET", PATH, **page), _print_list)


@worker.command("info")
@click.argument("id", type=WORKER)
@remote
def info(connection: Connection, id: str) -> None:
    """Show worker ID."""
    connection.show(connection.call("GET", f"{PATH}/{segment(id)}"), _print_info)


@worker.command("logs")
@click.argument("id", type=WORKER)
@click.option("-n", "--lines", default=200, show_default=True, type=Positive(), help="As many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@remote
def logs(connection: Connection, id: str, lines: int, follow: bool) -> None:
    """Print what worker ID and its handler write."""
    path = f"{PATH}/{segment(id)}/logs"
    if follow:
        for data in connection.events(f"{path}/stream", n=lines):
            click.echo(json.dumps(data) if connection.as_json else _line(data))
        return
    connection.show(connection.call("GET", path, n=lines), _print_lines)


@click.command("worker-env")
@click.argument("endpoint")
@click.option("--format", "form", type=click.Choice(["shell", "docker", "k8s"]), default="shell", show_default=True,
              help='For eval "$(…)", for docker run --env-file, or for a container in Kubernetes.')  # fmt: skip
@server_option
@click.option("--worker-key", "key", envvar="RUNLANE_WORKER_KEY", help="The endpoint's.  [RUNLANE_WORKER_KEY]")
@click.option("--id", help="The worker's id, which no other may have.  [default: one of its own]")
@click.option("--gpu", default="", metavar="NAME", help="What the worker runs on, to be shown with it.")
@says_errors
def worker_env(endpoint: str, form: str, **given: str | None) -> None:
    """Print the environment in which a worker that uses RunPod's own SDK serves ENDPOINT."""
    from ..worker_env import FORMATS, check, environment_of

    check(given["id"], given["key"])
    hints = {
        401: "set --worker-key or RUNLANE_WORKER_KEY to the key that `runlane endpoint create` printed",
        404: "`runlane endpoint list` shows which there are",
    }
    url = find_place().url
    connection = Connection(Place(url, given["key"]))
    answer = connection.call("GET", f"/v2/{quote(endpoint, safe='')}/worker-env", hints=hints)
    click.echo(FORMATS[form](environment_of(answer, url, **given)), nl=False)


def _print_list(found: dict[str, Any]) -> None:
    rows = (
        (each["worker_id"], each["status"], each["queues"], each["concurrency"], output.moment(each["last_beat"]),
         each["is_stale"])
        for each in found["workers"] or []
    )  # fmt: skip
    output.table(["WORKER_ID", "STATUS", "QUEUES", "CONCURRENCY", "LAST_BEAT", "STALE"], rows)
    output.more(found)


def _print_info(found: dict[str, Any]) -> None:
    times = {name: output.moment(found[name]) for name in ("started_at", "last_beat") if name in found}
    output.fields(found | times)


def _print_lines(found: dict[str, Any]) -> None:
    for line in found["lines"] or []:
        click.echo(_line(line))


def _line(line: str) -> str:
    """A line without what could be meant for the terminal, but for tabs."""
    return "\t".join(map(output.text, click.unstyle(line).split("\t")))
