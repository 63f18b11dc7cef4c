"""`runlane login`, `logout` and `auth`: the gateways that this user talks to, and the keys for them."""

from urllib.parse import urlsplit

import click

from .. import logs
from ..errors import StartupError
from . import output
from .connection import (
    LOGIN,
    Connection,
    Place,
    ServerError,
    find_place,
    json_option,
    key_option,
    remote,
    says_errors,
    secret_of,
    server_option,
)
from .credentials import Credentials, Server, load, masked, save

CHECK_PATH = "/v1/endpoints"


@click.command()
@server_option
@key_option
@click.option("--name", help="What to call it.  [default: the server's host]")
@says_errors
def login(name: str | None) -> None:
    """Keep the API key of a gateway, which commands use from now on.

    The key is asked for on a terminal, or read from standard input, when it is not given. It is checked, and kept in
    ~/.runlane/credentials.json (or in RUNLANE_HOME), which nobody else may read.
    """
    place = find_place()
    if place.url_source in (LOGIN, ""):
        raise click.UsageError("say which gateway: -s URL")
    given = place.key if place.key_source != LOGIN else None
    key = secret_of(given, "API key").strip()
    if not key:
        raise click.UsageError("give a key: -k KEY, or over standard input")
    _check(place.url, key)
    credentials = load()
    credentials.current = name or urlsplit(place.url).netloc.rpartition("@")[2]
    credentials.servers[credentials.current] = Server(place.url, key)
    save(credentials)
    click.echo(f"logged in to {logs.without_secrets(place.url)} as {credentials.current}")


@click.command()
@click.option("--name", help="Which.  [default: the current one]")
@click.option("--all", "all_", is_flag=True, help="All of them.")
@says_errors
def logout(name: str | None, all_: bool) -> None:
    """Forget the key of a gateway."""
    if name is not None and all_:
        raise click.UsageError("--name and --all: take one")
    credentials = load()
    names = list(credentials.servers) if all_ else [name or credentials.current]
    if not all_ and not credentials.servers:
        raise StartupError("not logged in")
    for each in names:
        del credentials.servers[_known(credentials, each)]
    if credentials.current not in credentials.servers:
        credentials.current = ""
    save(credentials)
    for each in names:
        click.echo(f"logged out of {each}")


@click.group()
def auth() -> None:
    """Show and choose the gateway that commands talk to."""


@auth.command("status")
@remote
def status(connection: Connection) -> None:
    """Show which gateway and key commands use, and where they come from; status 1 if the key is not good there."""
    place = connection.place
    shown = {
        "server": logs.without_secrets(place.url),
        "server_from": place.url_source or "default",
        "key": masked(place.key) if place.key else None,
        "key_from": place.key_source or None,
    }
    connection.show(shown, output.fields)
    _check(place.url, place.key)


@auth.command("list")
@json_option
@says_errors
def list_(as_json: bool) -> None:
    """List the gateways that there are keys for."""
    credentials = load()
    found = [
        {"name": name, "server": logs.without_secrets(each.url), "key": masked(each.key),
         "current": name == credentials.current}
        for name, each in credentials.servers.items()
    ]  # fmt: skip
    if as_json:
        output.echo_json(found)
    else:
        output.table(["NAME", "SERVER", "KEY", "CURRENT"], [list(each.values()) for each in found])


@auth.command("switch")
@click.argument("name")
@says_errors
def switch(name: str) -> None:
    """Have commands talk to the gateway that was called NAME at its login."""
    credentials = load()
    credentials.current = _known(credentials, name)
    save(credentials)
    click.echo(f"commands talk to {logs.without_secrets(credentials.servers[name].url)}")


def _check(url: str, key: str | None) -> None:
    """Asks the gateway whether it knows the key. One that is good for other things than this is good."""
    try:
        Connection(Place(url, key)).call("GET", CHECK_PATH)
    except ServerError as error:
        if error.status != 403:
            raise


def _known(credentials: Credentials, name: str) -> str:
    if name not in credentials.servers:
        there = ", ".join(credentials.servers) or "none"
        raise StartupError(f"there is no login {name!r}; there are: {there}" if name else "no login is the current one")
    return name
