"""Commands that run a gateway on this machine, or are about one."""

import json
import os
from pathlib import Path
from typing import Any

import click

from .. import logs
from .connection import says_errors


@click.command()
@click.argument("handler", type=click.Path(path_type=Path))
@click.option("--endpoint", help="The endpoint's id.  [default: the file's name]")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535),
              help="Port to listen on; 0 takes a free one.")  # fmt: skip
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".runlane"), show_default=True,
              help="Folder of the embedded store.")  # fmt: skip
@click.option("--reload", is_flag=True, help="Load the handler again when its folder changes.")
@says_errors
def dev(handler: Path, endpoint: str | None, port: int, workers: int, data: Path, reload: bool) -> None:
    """Run HANDLER as an endpoint on this machine: store, gateway and workers, no key needed."""
    from ..dev import Development
    from ..environment import forget
    from ..settings import SECRET_VARIABLES

    forget(SECRET_VARIABLES)
    logs.configure("info")
    name = endpoint or handler.stem.replace("_", "-").replace(".", "-")
    Development(handler, name, port, workers, data).run(reload)


@click.command()
@click.option("--redis", "redis_url", metavar="URL", help="The store.")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on.  [default: 8000]")
@click.option("--processes", type=int, help="Gateway processes.  [default: 1]")
@click.option("--endpoint", "endpoints", multiple=True, help="Create this endpoint unless it exists; repeatable.")
@click.option("--insecure", is_flag=True, default=None, help="Serve without keys.")
@click.option("--tls-cert", metavar="FILE", help="Certificate and its chain; serves https.")
@click.option("--tls-key", metavar="FILE", help="The certificate's key.")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with settings.")
@says_errors
def serve(config: Path | None, **given: Any) -> None:
    """Run the gateway over a store of your own. `runlane settings` lists all that can be set."""
    from .. import settings
    from ..environment import forget
    from ..server import serve as serve_

    values = settings.load(os.environ, config, **given)
    forget(settings.SECRET_VARIABLES)
    logs.configure(values.log_level)
    serve_(values)


@click.command()
@says_errors
def demo() -> None:
    """Send one job through a system of its own and show what comes back, and when."""
    from ..demo import run

    run()


@click.command("settings")
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with settings.")
@says_errors
def show_settings(config: Path | None) -> None:
    """List every setting: its name in a file, its environment variable, its value and its meaning."""
    from .. import settings

    values = settings.load(os.environ, config)
    for name, field in settings.FIELDS.items():
        value = getattr(values, name)
        shown = "(set)" if field.metadata["secret"] and value else json.dumps(value)
        click.echo(f"{name} = {shown}\n    {settings.environment_name(name)}: {field.metadata['help']}")
