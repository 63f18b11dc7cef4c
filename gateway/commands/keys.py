"""`runlane key`"""

from typing import Any

import click

from . import output
from .at_the_store import GatewayOrStore, at_the_store
from .connection import HINTS, remote_group, segment
from .parameters import Duration

PATH = "/v1/keys"
KEY_HINTS = {**HINTS, 403: "it takes a key with the scope admin, or --tenant and --redis"}

_managed = at_the_store("keys")


@click.group("key")
@remote_group
def key() -> None:
    """Make, list, rotate and revoke the keys of a tenant."""


@key.command("create")
@click.option("--scopes", default="submit,read,cancel", show_default=True,
              help="What it is good for: some of submit, read, cancel, manage, worker, admin.")  # fmt: skip
@click.option("--name", default="", help="A name to be shown with it.")
@click.option("--endpoint", "endpoints", multiple=True, help="Only for this endpoint; repeatable.")
@click.option("--expires-in", type=Duration(), help="Good for so long, such as 12h or 30d.  [default: for ever]")
@click.option(
    "--rate", type=click.IntRange(1), help="Requests per 10 s for each operation, in the place of the limits."
)
@click.option("--weight", type=click.IntRange(1, 1000), help="Its part of an endpoint that is fair.  [default: 1]")
@_managed
def create(source: GatewayOrStore, scopes: str, expires_in: float | None, **given: Any) -> None:
    """Make a key and print it, this once."""
    wanted = {name: value for name, value in given.items() if value}
    wanted["scopes"] = [scope.strip() for scope in scopes.split(",")]
    if expires_in is not None:
        wanted["expiresInSeconds"] = expires_in
    source.show(source.call("POST", PATH, wanted, KEY_HINTS), _print_made)


@key.command("list")
@_managed
def list_(source: GatewayOrStore) -> None:
    """List the keys, without the keys themselves."""
    source.show(source.call("GET", PATH, hints=KEY_HINTS), _print_list)


@key.command("revoke")
@click.argument("id")
@_managed
def revoke(source: GatewayOrStore, id: str) -> None:
    """End key ID at once, with whatever goes on with it."""
    source.call("DELETE", f"{PATH}/{segment(id)}", hints=KEY_HINTS)
    source.show({"revoked": id}, lambda _: click.echo(f"revoked {id}"))


@key.command("rotate")
@click.argument("id")
@click.option("--overlap", type=Duration(), default="1d", show_default=True, help="For so long both are good.")
@_managed
def rotate(source: GatewayOrStore, id: str, overlap: float) -> None:
    """Make another key like ID, which ends after a while, and print it."""
    body = {"overlapSeconds": overlap}
    source.show(source.call("POST", f"{PATH}/{segment(id)}/rotate", body, KEY_HINTS), _print_made)


def _print_made(made: dict[str, Any]) -> None:
    click.echo(f"created {made['id']} of tenant {made['tenant']}\nkey (not shown again): {made['key']}")


def _print_list(found: dict[str, Any]) -> None:
    rows = (
        (each["id"], each["name"], ",".join(each["scopes"]), ",".join(each["endpoints"]) or "all",
         output.moment(each["expiresAt"]) or "never")
        for each in found["keys"]
    )  # fmt: skip
    output.table(["ID", "NAME", "SCOPES", "ENDPOINTS", "EXPIRES"], rows)
