"""`runlane agent`, which deploys the code of a queue and works for it."""

import sys

import click

from .connection import was_given


@click.command(
    "agent", context_settings={"ignore_unknown_options": True}, add_help_option=False, options_metavar="[OPTIONS]"
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def agent(arguments: tuple[str, ...]) -> None:
    """Deploy the code of a queue from git on this machine, and work for the queue with it."""
    if was_given():
        raise click.UsageError("an agent has --server and --key of its own, which stand behind `agent`")
    from handler_sdk.agent.__main__ import main as work

    sys.exit(work(arguments))
