"""`runlane vault`"""

from typing import Any

import click

from . import output
from .at_the_store import GatewayOrStore, at_the_store
from .connection import Connection, remote, remote_group, secret_of, segment
from .parameters import VAULT, Name

PATH = "/api/vaults"
KEY = Name("key")


@click.group("vault")
@remote_group
def vault() -> None:
    """Keep secrets for the workers of endpoints that list the vault.

    No gateway tells the value of a secret to anybody else.
    """


@vault.command("list")
@remote
def list_(connection: Connection) -> None:
    """List the vaults."""
    connection.show(connection.call("GET", PATH), _print_list)


@vault.command("create")
@click.argument("vault", type=VAULT)
@click.option("-d", "--description", default="", help="What it is for.")
@remote
def create(connection: Connection, vault: str, description: str) -> None:
    """Make VAULT."""
    answer = connection.call("POST", PATH, {"name": vault, "description": description})
    connection.show(answer, _print_message)


@vault.command("show")
@click.argument("vault", type=VAULT)
@remote
def show(connection: Connection, vault: str) -> None:
    """Show VAULT and its entries, secrets masked."""
    connection.show(connection.call("GET", f"{PATH}/{segment(vault)}"), _print_vault)


@vault.command("delete")
@click.argument("vault", type=VAULT)
@click.option("--force", is_flag=True, help="Do not ask.")
@remote
def delete(connection: Connection, vault: str, force: bool) -> None:
    """Delete VAULT and all of its entries."""
    if not force:
        click.confirm(f"Delete vault {vault} and all of its entries?", abort=True, err=True)
    connection.show(connection.call("DELETE", f"{PATH}/{segment(vault)}"), _print_message)


@vault.command("set")
@click.argument("vault", type=VAULT)
@click.argument("key", type=KEY)
@click.argument("value", required=False)
@click.option("--no-secret", is_flag=True, help="Its value may be shown.")
@remote
def set_(connection: Connection, vault: str, key: str, value: str | None, no_secret: bool) -> None:
    """Set the entry KEY of VAULT.

    Without VALUE, or with -, it is read from standard input (less a newline at its end), or asked for on a terminal: so
    it is neither in the shell's history nor in the list of processes.
    """
    body = {"key": key, "value": secret_of(value, f"Value of {key}"), "is_secret": not no_secret}
    connection.show(connection.call("POST", _entries(vault), body), _print_message)


@vault.command("get")
@click.argument("vault", type=VAULT)
@click.argument("key", type=KEY)
@at_the_store("vaults")
def get(source: GatewayOrStore, vault: str, key: str) -> None:
    """Print the value of the entry KEY of VAULT, for whoever has the store and RUNQY_VAULT_MASTER_KEY."""
    source.show({"value": source.secret(vault, key)}, lambda found: click.echo(found["value"]))


@vault.command("unset")
@click.argument("vault", type=VAULT)
@click.argument("key", type=KEY)
@remote
def unset(connection: Connection, vault: str, key: str) -> None:
    """Delete the entry KEY of VAULT."""
    connection.show(connection.call("DELETE", f"{_entries(vault)}/{segment(key)}"), _print_message)


@vault.command("entries")
@click.argument("vault", type=VAULT)
@remote
def entries(connection: Connection, vault: str) -> None:
    """List the entries of VAULT, secrets masked."""
    connection.show(connection.call("GET", _entries(vault)), _print_entries)


@vault.command("rotate")
@at_the_store("vaults")
def rotate(source: GatewayOrStore) -> None:
    """Encrypt all entries anew, with the first of the gateway's master keys: then the others are needed no more.

    With --tenant, RUNQY_VAULT_MASTER_KEY has the keys.
    """
    source.show(source.call("POST", "/v1/vaults/rotate", {}), output.fields)


def _entries(vault: str) -> str:
    return f"{PATH}/{segment(vault)}/entries"


def _print_list(found: dict[str, Any]) -> None:
    rows = ((each["name"], each["entry_count"], each["description"]) for each in found["vaults"] or [])
    output.table(["VAULT", "ENTRIES", "DESCRIPTION"], rows)


def _print_vault(found: dict[str, Any]) -> None:
    times = {name: output.moment(found[name]) for name in ("created_at", "updated_at")}
    output.fields({"name": found["name"], "description": found["description"], **times})
    click.echo()
    _print_entries(found)


def _print_entries(found: dict[str, Any]) -> None:
    rows = (
        (each["key"], each["is_secret"], output.moment(each["updated_at"]), each["value"])
        for each in found["entries"] or []
    )
    output.table(["KEY", "SECRET", "UPDATED", "VALUE"], rows)


def _print_message(answer: dict[str, Any]) -> None:
    click.echo(output.text(answer["message"]))
