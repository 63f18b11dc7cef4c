"""Commands that a gateway serves, or whoever has the store itself."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ..engine.keys import DEFAULT_TENANT
from ..errors import StartupError
from .connection import HINTS, Command, Connection, remote

REDIS_VARIABLE = "RUNLANE_REDIS_URL"


class GatewayOrStore:
    """Asks a gateway: one that runs, or one in this process over the store."""

    def __init__(self, connection: Connection, tenant: str | None, redis_url: str | None) -> None:
        self.show = connection.show
        self._connection = connection
        self._tenant = tenant
        self._redis_url = redis_url

    def call(self, method: str, path: str, body: dict[str, Any] | None = None, hints: Mapping[int, str] = HINTS) -> Any:
        """What is answered.

        Raises:
            StartupError: it is refused, or what there is to ask cannot be reached.
        """
        if self._tenant is None:
            return self._connection.call(method, path, body, hints)
        from ..at_store import call

        return call(*self._at_store("--tenant"), method, path, body)

    def load_queue_files(self, folder: Path) -> Any:
        """Has the store's queues be as the files in this directory say. Raises StartupError."""
        from ..at_store import load_queue_files

        return load_queue_files(*self._at_store("--dir"), folder)

    def secret(self, vault: str, key: str) -> str:
        """The value of an entry of a vault. Raises StartupError."""
        from ..at_store import secret

        return secret(*self._at_store("This"), vault, key)

    def _at_store(self, what: str) -> tuple[str, str]:
        if not self._redis_url:
            raise StartupError(f"{what} works on the store itself: set --redis or {REDIS_VARIABLE}")
        return self._redis_url, self._tenant or DEFAULT_TENANT


def at_the_store(what: str) -> Callable[[Command], Command]:
    """Gives a command `GatewayOrStore`, and the options for it. `what`: what a tenant has of it."""
    tenant_option = click.option(
        "--tenant", help=f"Whose {what}, with --redis; over HTTP they are those of your key's tenant."
    )
    redis_option = click.option(
        "--redis", "redis_url", metavar="URL", envvar=REDIS_VARIABLE,
        help=f"With --tenant: works on the store itself, as for a tenant's first key.  [{REDIS_VARIABLE}]",
    )  # fmt: skip

    def decorate(command: Command) -> Command:
        @wraps(command)
        def wrapped(
            connection: Connection, *args: Any, tenant: str | None, redis_url: str | None, **given: Any
        ) -> None:
            command(GatewayOrStore(connection, tenant, redis_url), *args, **given)

        return remote(tenant_option(redis_option(wrapped)))

    return decorate
