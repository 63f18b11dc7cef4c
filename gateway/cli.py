"""The command line."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx

import handler_sdk

from . import logs
from . import settings as settings_
from .environment import forget
from .errors import StartupError


def _says_errors(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except StartupError as error:
            click.echo(f"runlane: {error}", err=True)
            sys.exit(1)

    return wrapped


class _Duration(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,9})([smhd])", value) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is not a time such as 90s, 30m, 12h or 30d", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(handler_sdk.__version__, prog_name="runlane")
def main() -> None:
    """Serverless GPU endpoints on your own machines, compatible with RunPod."""


@main.command()
@click.argument("handler", type=click.Path(path_type=Path))
@click.option("--endpoint", help="The endpoint's id.  [default: the file's name]")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535),
              help="Port to listen on; 0 takes a free one.")  # fmt: skip
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".runlane"), show_default=True,
              help="Folder of the embedded store.")  # fmt: skip
@click.option("--reload", is_flag=True, help="Load the handler again when its folder changes.")
@_says_errors
def dev(handler: Path, endpoint: str | None, port: int, workers: int, data: Path, reload: bool) -> None:
    """Run HANDLER as an endpoint on this machine: store, gateway and workers, no key needed."""
    from .dev import Development

    forget(settings_.SECRET_VARIABLES)
    logs.configure("info")
    name = endpoint or handler.stem.replace("_", "-").replace(".", "-")
    Development(handler, name, port, workers, data).run(reload)


@main.command()
@click.option("--redis", "redis_url", metavar="URL", help="The store.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000]")
@click.option("--processes", type=int, help="Gateway processes.  [default: 1]")
@click.option("--endpoint", "endpoints", multiple=True, help="Create this endpoint unless it exists; repeatable.")
@click.option("--insecure", is_flag=True, default=None, help="Serve without keys.")
@click.option("--tls-cert", metavar="FILE", help="Certificate and its chain; serves https.")
@click.option("--tls-key", metavar="FILE", help="The certificate's key.")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with settings.")
@_says_errors
def serve(config: Path | None, **given: Any) -> None:
    """Run the gateway over a store of your own. `runlane settings` lists all that can be set."""
    from .server import serve as serve_

    values = settings_.load(os.environ, config, **given)
    forget(settings_.SECRET_VARIABLES)
    logs.configure(values.log_level)
    serve_(values)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("handler")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def worker(handler: str, arguments: tuple[str, ...]) -> None:
    """Run a worker for HANDLER; RUNLANE_URL, RUNLANE_ENDPOINT and RUNLANE_WORKER_KEY say where."""
    from handler_sdk.worker import main as work

    sys.exit(work(handler, list(arguments)))


@main.command("worker-env")
@click.argument("endpoint")
@click.option("--format", "form", type=click.Choice(["shell", "docker", "k8s"]), default="shell", show_default=True,
              help='For eval "$(…)", for docker run --env-file, or for a container in Kubernetes.')  # fmt: skip
@click.option("--url", envvar="RUNLANE_URL", default="http://127.0.0.1:8000", show_default=True,
              help="The gateway, as the worker reaches it.  [RUNLANE_URL]")  # fmt: skip
@click.option("--worker-key", "key", envvar="RUNLANE_WORKER_KEY", help="The endpoint's.  [RUNLANE_WORKER_KEY]")
@click.option("--id", help="The worker's id, which no other may have.  [default: one of its own]")
@click.option("--gpu", default="", metavar="NAME", help="What the worker runs on, to be shown with it.")
@_says_errors
def worker_env(endpoint: str, form: str, url: str, **given: str | None) -> None:
    """Print the environment in which a worker that uses RunPod's own SDK serves ENDPOINT."""
    from .worker_env import FORMATS, check, environment_of

    check(given["id"], given["key"])
    hints = {
        401: "set --worker-key or RUNLANE_WORKER_KEY to the key that `runlane endpoint create` printed",
        404: "`runlane endpoint list` shows which there are",
    }
    answer = _call("GET", url, given["key"], f"/v2/{quote(endpoint, safe='')}/worker-env", hints=hints)
    click.echo(FORMATS[form](environment_of(answer, url, **given)), nl=False)


@main.command()
@_says_errors
def demo() -> None:
    """Send one job through a system of its own and show what comes back, and when."""
    from .demo import run

    run()


@main.command("settings")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with settings.")
@_says_errors
def show_settings(config: Path | None) -> None:
    """List every setting: its name in a file, its environment variable, its value and its meaning."""
    values = settings_.load(os.environ, config)
    for name, field in settings_.FIELDS.items():
        value = getattr(values, name)
        shown = "(set)" if field.metadata["secret"] and value else json.dumps(value)
        click.echo(f"{name} = {shown}\n    {settings_.environment_name(name)}: {field.metadata['help']}")


@main.group()
def endpoint() -> None:
    """Create, show, change and delete endpoints of a running gateway."""


def _connection(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--key", envvar="RUNLANE_API_KEY", help="An API key.  [RUNLANE_API_KEY]"),
        click.option("--url", envvar="RUNLANE_URL", default="http://127.0.0.1:8000", show_default=True,
                     help="The gateway.  [RUNLANE_URL]"),
    ):  # fmt: skip
        command = option(command)
    return _says_errors(command)


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--set", "fields", multiple=True, metavar="FIELD=VALUE",
        help="A field as in the management API, such as attempts=1 or executionTimeoutMs=60000; repeatable.",
    )(command)  # fmt: skip


@endpoint.command("create")
@click.argument("id")
@_fields
@_connection
def create_endpoint(id: str, fields: tuple[str, ...], url: str, key: str | None, as_json: bool) -> None:
    """Create endpoint ID and print the key for its workers, which is shown this once."""
    created = _call("POST", url, key, "/v1/endpoints", {"id": id, **_parse(fields)})
    if as_json:
        click.echo(json.dumps(created, indent=2))
    else:
        click.echo(f"created {id}\nworker key (not shown again): {created['workerKey']}")


@endpoint.command("list")
@_connection
def list_endpoints(url: str, key: str | None, as_json: bool) -> None:
    """List all endpoints."""
    found = _call("GET", url, key, "/v1/endpoints")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for item in found:
        click.echo(f"{item['id']}  {item['computeType']}  workers {item['workersMin']} to {item['workersMax']}")


@endpoint.command("show")
@click.argument("id")
@_connection
def show_endpoint(id: str, url: str, key: str | None, as_json: bool) -> None:
    """Show endpoint ID."""
    _print(_call("GET", url, key, f"/v1/endpoints/{id}"), as_json)


@endpoint.command("update")
@click.argument("id")
@_fields
@_connection
def update_endpoint(id: str, fields: tuple[str, ...], url: str, key: str | None, as_json: bool) -> None:
    """Change fields of endpoint ID."""
    _print(_call("PATCH", url, key, f"/v1/endpoints/{id}", _parse(fields)), as_json)


@endpoint.command("delete")
@click.argument("id")
@_connection
def delete_endpoint(id: str, url: str, key: str | None, as_json: bool) -> None:
    """Delete endpoint ID; its waiting and running jobs are cancelled."""
    _call("DELETE", url, key, f"/v1/endpoints/{id}")
    click.echo(json.dumps({"deleted": id}) if as_json else f"deleted {id}")


@main.group()
def key() -> None:
    """Make, list, rotate and revoke the keys of a tenant."""


def _at_the_store(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--redis", "redis_url", metavar="URL", envvar="RUNLANE_REDIS_URL",
                     help="With --tenant: works on the store itself, as for a tenant's first key.  "
                          "[RUNLANE_REDIS_URL]"),
        click.option("--tenant", help="Whose keys, with --redis; over HTTP they are those of your key's tenant."),
    ):  # fmt: skip
        command = option(command)
    return _connection(command)


@key.command("create")
@click.option("--scopes", default="submit,read,cancel", show_default=True,
              help="What it is good for: some of submit, read, cancel, manage, worker, admin.")  # fmt: skip
@click.option("--name", default="", help="A name to be shown with it.")
@click.option("--endpoint", "endpoints", multiple=True, help="Only for this endpoint; repeatable.")
@click.option("--expires-in", type=_Duration(), help="Good for so long, such as 12h or 30d.  [default: for ever]")
@click.option(
    "--rate", type=click.IntRange(1), help="Requests per 10 s for each operation, in the place of the limits."
)
@click.option("--weight", type=click.IntRange(1, 1000), help="Its part of an endpoint that is fair.  [default: 1]")
@_at_the_store
def create_key(scopes: str, expires_in: float | None, as_json: bool, **given: Any) -> None:
    """Make a key and print it, this once."""
    wanted = {name: given[name] for name in ("name", "endpoints", "rate", "weight") if given[name]}
    wanted["scopes"] = [scope.strip() for scope in scopes.split(",")]
    if expires_in is not None:
        wanted["expiresInSeconds"] = expires_in
    _made(_keys(given, "POST", "", wanted), as_json)


@key.command("list")
@_at_the_store
def list_keys(as_json: bool, **given: Any) -> None:
    """List the keys, without the keys themselves."""
    found = _keys(given, "GET", "")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for item in found["keys"]:
        only, ends = ",".join(item["endpoints"]) or "all endpoints", item["expiresAt"] or "never"
        click.echo(f"{item['id']}  {item['name'] or '-'}  {','.join(item['scopes'])}  {only}  expires {ends}")


@key.command("revoke")
@click.argument("id")
@_at_the_store
def revoke_key(id: str, as_json: bool, **given: Any) -> None:
    """End key ID at once, with whatever goes on with it."""
    _keys(given, "DELETE", f"/{quote(id, safe='')}")
    click.echo(json.dumps({"revoked": id}) if as_json else f"revoked {id}")


@key.command("rotate")
@click.argument("id")
@click.option("--overlap", type=_Duration(), default="1d", show_default=True, help="For so long both are good.")
@_at_the_store
def rotate_key(id: str, overlap: float, as_json: bool, **given: Any) -> None:
    """Make another key like ID, which ends after a while, and print it."""
    _made(_keys(given, "POST", f"/{quote(id, safe='')}/rotate", {"overlapSeconds": overlap}), as_json)


def _made(created: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(created, indent=2))
    else:
        click.echo(f"created {created['id']} of tenant {created['tenant']}\nkey (not shown again): {created['key']}")


def _keys(given: dict[str, Any], method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """An operation under /v1/keys: of the gateway, or of one in this process over the store itself."""
    if given["tenant"] is None:
        hints = {**_HINTS, 403: "it takes a key with the scope admin, or --tenant and --redis"}
        return _call(method, given["url"], given["key"], f"/v1/keys{path}", body, hints)
    if not given["redis_url"]:
        raise StartupError("--tenant works on the store itself: set --redis or RUNLANE_REDIS_URL")
    from .at_store import call

    return call(given["redis_url"], given["tenant"], method, f"/v1/keys{path}", body)


@main.group("webhook-secret")
def webhook_secret() -> None:
    """Show and replace the secrets that sign webhooks."""


@webhook_secret.command("list")
@_connection
def list_webhook_secrets(url: str, key: str | None, as_json: bool) -> None:
    """List the secrets in force, the newest first."""
    _print_secrets(_call("GET", url, key, "/v1/webhook-secrets"), as_json)


@webhook_secret.command("rotate")
@click.option(
    "--overlap", type=_Duration(), default="1d", show_default=True, help="For so long the others sign as well."
)
@_connection
def rotate_webhook_secret(overlap: float, url: str, key: str | None, as_json: bool) -> None:
    """Make a new secret, which signs webhooks from now on, and list it with the ones before."""
    body = {"overlapSeconds": round(overlap)}
    _print_secrets(_call("POST", url, key, "/v1/webhook-secrets", body), as_json)


def _print_secrets(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for each in found["secrets"]:
        expires = each["expiresAt"]
        until = f"until {datetime.fromtimestamp(expires / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC" if expires else "in force"
        click.echo(f"{each['id']}  {each['secret']}  {until}")


def _print(fields: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(fields, indent=2))
        return
    for name, value in fields.items():
        click.echo(f"{name}: {json.dumps(value)}")


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


_HINTS = {401: "set --key or RUNLANE_API_KEY"}


def _call(
    method: str,
    url: str,
    key: str | None,
    path: str,
    body: dict[str, Any] | None = None,
    hints: Mapping[int, str] = _HINTS,
) -> Any:
    shown = logs.without_secrets(url)
    headers = {b"Authorization": f"Bearer {key}".encode()} if key else {}
    try:
        response = httpx.request(method, f"{url.rstrip('/')}{path}", json=body, headers=headers, timeout=30)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StartupError(f"cannot reach the gateway at {shown}: {error}; check --url or RUNLANE_URL") from None
    if response.is_error:
        try:
            message = response.json()["error"]
        except (ValueError, KeyError):
            message = response.text[:200]
        raise StartupError("; ".join(filter(None, (message, hints.get(response.status_code)))))
    try:
        return response.json() if response.content else None
    except ValueError:
        raise StartupError(f"{shown} does not answer as a gateway does; check --url or RUNLANE_URL") from None
