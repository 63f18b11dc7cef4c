"""Management by whoever has the store itself: a gateway in this process, for one request."""

import asyncio
import dataclasses
import os
import secrets
from pathlib import Path
from typing import Any

import httpx

from .access.keys import TENANT
from .app import App
from .errors import Error, StartupError
from .settings import Settings, load


def call(redis_url: str, tenant: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    """What an admin key of the tenant would be answered. Vaults take the master keys of this process's settings.

    Raises:
        StartupError: no such tenant can be, the store or the settings cannot be used, or the request is refused.
    """
    return asyncio.run(_Gateway(redis_url, tenant).call(method, path, body))


def load_queue_files(redis_url: str, tenant: str, folder: Path) -> Any:
    """What a gateway would answer that is told to read the queue files in this directory again.

    Raises:
        StartupError: as `call` does.
    """
    gateway = _Gateway(redis_url, tenant, queue_files=str(folder))
    return asyncio.run(gateway.call("POST", "/api/cli/configs/reload", None))


def secret(redis_url: str, tenant: str, vault: str, key: str) -> str:
    """The value of an entry of a vault, which no gateway tells anybody but the workers that it is for.

    Raises:
        StartupError: as `call` does; or there is no such entry, or it cannot be decrypted.
    """
    return asyncio.run(_Gateway(redis_url, tenant).secret(vault, key))


class _Gateway:
    """One in this process."""

    def __init__(self, redis_url: str, tenant: str, queue_files: str = "") -> None:
        if not TENANT.fullmatch(tenant):
            raise StartupError(f"{tenant[:80]!r} cannot be a tenant: 1 to 63 letters, digits, '.', '-' or '_'")
        self._tenant = tenant
        self._key = secrets.token_urlsafe(32)
        settings = dataclasses.replace(
            Settings(),
            redis_url=redis_url,
            admin_keys=(f"{tenant}:{self._key}",),
            vault_master_keys=load(os.environ).vault_master_keys,
            audit_log="off",
            queue_files=queue_files,
            queue_files_tenant=tenant,
        )
        self._app = App(settings)

    async def call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        async with (
            self._app.connected(),
            httpx.AsyncClient(transport=httpx.ASGITransport(self._app), base_url="http://store") as client,
        ):
            response = await client.request(method, path, json=body, headers={"Authorization": f"Bearer {self._key}"})
        if response.is_error:
            found = response.json()
            raise StartupError(found["error"] if "error" in found else "; ".join(found["errors"]))
        return response.json() if response.content else None

    async def secret(self, vault: str, key: str) -> str:
        async with self._app.connected() as running:
            try:
                running.vaults.check_enabled()
                return await running.vaults.value(self._tenant, vault, key)
            except Error as error:
                raise StartupError(error.message) from None
