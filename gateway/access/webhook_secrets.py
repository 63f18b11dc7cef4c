"""Webhooks are signed as Standard Webhooks says, with secrets of each tenant:
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

import msgspec

from ..engine import keys
from ..engine.batching import Batcher
from ..errors import Conflict

_PREFIX = "whsec_"
_BYTES = 32


class WebhookSecret(msgspec.Struct, frozen=True):
    """`secret` is "whsec_" and base64; times are in ms since the epoch, `expires` None when it stays in force."""

    id: str
    created: int
    expires: int | None
    secret: str


class WebhookSecrets:
    """The secrets in the store."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    async def in_force(self, tenant: str) -> list[WebhookSecret]:
        """Those that the tenant's webhooks are signed with, the newest first; there is always one."""
        return _secrets(await self._batcher.call(keys.webhook_secrets(tenant), "webhook_secrets", *_new()))

    async def rotate(self, tenant: str, overlap_seconds: int) -> list[WebhookSecret]:
        """Makes a new one; the ones before stay in force for so long.

        Raises:
            Conflict: too many would be in force.
        """
        reply = await self._batcher.call(
            keys.webhook_secrets(tenant), "rotate_webhook_secret", *_new(), overlap_seconds * 1000
        )
        if reply is None:
            raise Conflict("too many webhook secrets are in force; wait for one to expire, or rotate without overlap")
        return _secrets(reply)


def signatures(signing: Iterable[WebhookSecret], id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`.

    Args:
        signing: the secrets in force; there is a signature with each.
        id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`, in s since the epoch.
        body: of the request.
    """
    return " ".join(_signature(secret, b"%b.%d." % (id.encode(), timestamp), body) for secret in signing)


def _signature(secret: WebhookSecret, head: bytes, body: bytes) -> str:
    signing = hmac.new(base64.b64decode(secret.secret.removeprefix(_PREFIX)), head, hashlib.sha256)
    signing.update(body)
    return f"v1,{base64.b64encode(signing.digest()).decode()}"


def _new() -> tuple[str, str]:
    return secrets.token_hex(8), _PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def _secrets(reply: list[list[Any]]) -> list[WebhookSecret]:
    return [
        WebhookSecret(id.decode(), created, expires or None, secret.decode()) for id, created, expires, secret in reply
    ]
