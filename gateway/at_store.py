"""Management by whoever has the store itself: a gateway in this process, for one request of a key made up for it."""

import asyncio
import dataclasses
import os
import secrets
from typing import Any

import httpx

from .access.keys import TENANT
from .app import App
from .errors import StartupError
from .settings import Settings, load


def call(redis_url: str, tenant: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    """What an admin key of the tenant would be answered. Vaults take the master keys of this process's settings.

    Raises:
        StartupError: no such tenant can be, the store or the settings cannot be used, or the request is refused.
    """
    if not TENANT.fullmatch(tenant):
        raise StartupError(f"{tenant[:80]!r} cannot be a tenant: 1 to 63 letters, digits, '.', '-' or '_'")
    key = secrets.token_urlsafe(32)
    settings = dataclasses.replace(
        Settings(),
        redis_url=redis_url,
        admin_keys=(f"{tenant}:{key}",),
        vault_master_keys=load(os.environ).vault_master_keys,
        audit_log="off",
    )
    return asyncio.run(_call(App(settings), key, method, path, body))


async def _call(app: App, key: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    async with (
        app.connected(),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://store") as client,
    ):
        response = await client.request(method, path, json=body, headers={"Authorization": f"Bearer {key}"})
    if response.is_error:
        found = response.json()
        raise StartupError(found["error"] if "error" in found else "; ".join(found["errors"]))
    return response.json() if response.content else None
