"""The command line of `runlane-load`.

A command ends with the status 0; with 1 when a threshold is missed; with 2 when it was not called as it is to be, or
the server cannot be tested at all.
"""

import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any

import click

import handler_sdk
from gateway.commands.output import text

from .errors import NotUsable
from .options import (
    ARRIVALS,
    COMMON,
    FOLLOW,
    LOADS,
    RATE,
    Command,
    Condition,
    Seconds,
    html_option,
    make_plan,
    weights_option,
    with_options,
)
from .plan import WEIGHTS, Plan
from .thresholds import Threshold

MISSED = 1
NOT_USABLE = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(handler_sdk.__version__, "-v", "--version", prog_name="runlane-load")
def main() -> None:
    """Load tests of endpoints that are compatible with RunPod. URL is an endpoint's: https://HOST/v2/ENDPOINT"""


def says_errors(command: Command) -> Command:
    """Ends with a line and the status 2 when nothing can be measured."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except NotUsable as error:
            click.echo(f"runlane-load: {text(str(error))}", err=True)
            sys.exit(NOT_USABLE)

    return wrapped


def load(
    plan: Plan,
    given_input: str | None,
    key_file: Path | None,
    json_file: Path | None,
    html: Path | None,
    fail_if: Iterable[Threshold],
    quiet: bool,
) -> None:
    """Does a test, and says and writes what came of it."""
    from . import conduct, inputs, key, preflight, results, terminal

    if json_file is not None and json_file == html:
        raise click.UsageError("--json and --html name the same file")
    values = inputs.load(given_input, plan.operation)
    secret = key.find(plan.url, key_file, os.environ)
    server = preflight.check(plan, secret)
    if not server.workers.get("ready", sum(server.workers.values())):
        click.echo("runlane-load: no worker of the endpoint is ready; jobs will wait for one", err=True)
    with terminal.progress(plan, quiet) as progress:
        found = conduct.conduct(plan, values, secret, server, progress.show)
    with ExitStack() as stack:  # whatever goes wrong with one of these costs none of the others
        stack.callback(terminal.summarize, found)
        if html is not None:
            stack.callback(_write_page, found, html)
        if json_file is not None:
            results.write(found, json_file)
    if found.generator.lost:
        raise NotUsable("not all of the load was generated, as said above")
    _exit(threshold.missed(found) for threshold in fail_if)


def _command(scenario: str, help: str, *options: Command, **fixed: Any) -> None:
    @says_errors
    def command(
        given_input: str | None, key_file: Path | None, json_file: Path | None, html: Path | None,
        fail_if: tuple[Threshold, ...], quiet: bool, **given: Any,
    ) -> None:  # fmt: skip
        load(make_plan(scenario, **fixed, **given), given_input, key_file, json_file, html, fail_if, quiet)

    command.__doc__ = help
    main.command(scenario)(with_options(*COMMON, *options)(command))


_command("run", "POST /run; each job is followed until it is final.", *LOADS, *FOLLOW)
_command("runsync", "POST /runsync, which answers when the job is final.", *LOADS)
_command("stream", "POST /run, then GET /stream/{id} until the job is final.", *LOADS)
_command("openai", "POST /openai/v1/chat/completions, streamed.", *LOADS)
_command(
    "batch",
    "POST /queue/add-batch: many jobs in each request, which RunPod does not have.",
    *LOADS,
    click.option("--jobs", type=click.IntRange(1), default=100, show_default=True, help="Jobs in a request."),
)
_command("mixed", "Operations of several kinds, drawn by their weights.", *LOADS, *FOLLOW, weights_option(**WEIGHTS))


_command(
    "burst",
    "All operations of a period at once.",
    *RATE,
    click.option("--period", type=Seconds(least=0.001), default="1s", show_default=True, help="Between two bursts."),
    *FOLLOW,
    weights_option(run=1),
    arrivals="burst",
)
_command(
    "soak", "A mixture for a long time; says what has changed.", *RATE, *ARRIVALS, *FOLLOW, weights_option(**WEIGHTS)
)


@main.command("compare")
@click.argument("before", metavar="A.json", type=click.Path(path_type=Path))
@click.argument("after", metavar="B.json", type=click.Path(path_type=Path))
@html_option
@click.option("--fail-if", type=Condition(may_change=True), multiple=True, metavar="CONDITION",
              help="Exit with 1 then, of B, or of the change from A to B, as 'p99 > +10%'; repeatable.")  # fmt: skip
@says_errors
def compare_(before: Path, after: Path, html: Path | None, fail_if: tuple[Threshold, ...]) -> None:
    """Show two results side by side, what differs by more than chance first."""
    from . import compare, figures, page, results, tables, terminal

    a, b = results.read(before), results.read(after)
    remarks = [f"A: {tables.headline(a)}", f"B: {tables.headline(b)}"]
    table = tables.of_comparison(compare.compare(a, b))
    click.echo("\n".join(map(text, remarks)))
    terminal.print_tables([table])
    click.echo("* differs by more than chance: Mann-Whitney of the seconds, p < 0.01, and by 1 % or more")
    if html is not None:
        page.write(html, "A and B", remarks, [table], figures.of_comparison(a, b))
    _exit(threshold.missed(b, a) for threshold in fail_if)


@main.command("report")
@click.argument("file", metavar="A.json", type=click.Path(path_type=Path))
@html_option
@says_errors
def report(file: Path, html: Path | None) -> None:
    """Show results again; with --html, make their page again."""
    from . import results, terminal

    found = results.read(file)
    terminal.summarize(found)
    if html is not None:
        _write_page(found, html)


def _write_page(found: Any, path: Path) -> None:
    from . import figures, page, tables

    title = tables.headline(found)
    page.write(path, title, tables.remarks(found), tables.of_results(found), figures.of_results(found))


def _exit(missed: Iterable[str | None]) -> None:
    lines = [line for line in missed if line is not None]
    for line in lines:
        click.echo(f"runlane-load: missed: {text(line)}", err=True)
    if lines:
        sys.exit(MISSED)
