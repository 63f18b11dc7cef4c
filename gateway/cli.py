"""The command line.

A command ends with the status 0; with 1 when a gateway refuses it or cannot be reached, or what it needs is not usable;
with 2 when it was not called as it is to be.
"""

import click

import handler_sdk

from .commands.agents import agent
from .commands.configs import config
from .commands.connection import remote_group
from .commands.endpoints import endpoint
from .commands.keys import key
from .commands.login import auth, login, logout
from .commands.queues import queue
from .commands.serving import demo, dev, serve, show_settings
from .commands.shell import completion, version
from .commands.tasks import task
from .commands.vaults import vault
from .commands.webhook_secrets import webhook_secret
from .commands.workers import worker, worker_env

COMMANDS = (
    agent, auth, completion, config, demo, dev, endpoint, key, login, logout, queue, serve, show_settings, task, vault,
    version, webhook_secret, worker, worker_env,
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(handler_sdk.__version__, "-v", "--version", prog_name="runlane")
@remote_group
def main() -> None:
    """Serverless GPU endpoints on your own machines, compatible with RunPod."""


for command in COMMANDS:
    main.add_command(command)
