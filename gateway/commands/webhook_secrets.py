"""`runlane webhook-secret`"""

from typing import Any

import click

from . import output
from .connection import Connection, remote, remote_group
from .parameters import Duration

PATH = "/v1/webhook-secrets"


@click.group("webhook-secret")
@remote_group
def webhook_secret() -> None:
    """Show and replace the secrets that sign webhooks."""


@webhook_secret.command("list")
@remote
def list_(connection: Connection) -> None:
    """List the secrets in force, the newest first."""
    connection.show(connection.call("GET", PATH), _print_list)


@webhook_secret.command("rotate")
@click.option(
    "--overlap", type=Duration(), default="1d", show_default=True, help="For so long the others sign as well."
)
@remote
def rotate(connection: Connection, overlap: float) -> None:
    """Make a new secret, which signs webhooks from now on, and list it with the ones before."""
    connection.show(connection.call("POST", PATH, {"overlapSeconds": round(overlap)}), _print_list)


def _print_list(found: dict[str, Any]) -> None:
    rows = (
        (each["id"], each["secret"], output.moment(each["expiresAt"] / 1000) if each["expiresAt"] else "never")
        for each in found["secrets"]
    )
    output.table(["ID", "SECRET", "EXPIRES"], rows)
