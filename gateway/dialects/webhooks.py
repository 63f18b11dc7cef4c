"""What tenants see of their webhooks: the log of each endpoint's deliveries, and the secrets that sign them. RunPod has
neither."""

import re
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from ..access.keys import Scope
from ..access.webhook_secrets import WebhookSecret, WebhookSecrets
from ..engine.deliveries import Attempt, Deliveries, Delivery, DeliveryState
from ..errors import BadRequest, Forbidden, NotFound
from ..http import Answer, Call, Managed, Reply
from ..settings import Settings

MOST_LISTED = 1000
MOST_BYTES = 1000
OVERLAP_SECONDS = 86_400

_STATES = tuple(state.value for state in DeliveryState)
_ID = re.compile(r"msg_[A-Za-z0-9-]{1,64}_\d{1,9}", re.ASCII)


class _Rotation(msgspec.Struct, forbid_unknown_fields=True):
    overlapSeconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = OVERLAP_SECONDS


_decode_rotation = msgspec.json.Decoder(_Rotation).decode


class WebhookLog:
    """The operations under /v2/{endpoint}/webhooks and /v1/webhook-secrets."""

    def __init__(self, deliveries: Deliveries, secrets: WebhookSecrets, settings: Settings) -> None:
        self._deliveries = deliveries
        self._secrets = secrets
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        one = "/v2/{endpoint}/webhooks/{delivery}"
        return {
            ("/v2/{endpoint}/webhooks", "GET"): Managed(self.list, Scope.READ, limit="requests"),
            (one, "GET"): Managed(self.show, Scope.READ, limit="status"),
            (f"{one}/retry", "POST"): Managed(self.retry, Scope.SUBMIT, limit="run"),
            ("/v1/webhook-secrets", "GET"): Managed(self.list_secrets, Scope.MANAGE),
            ("/v1/webhook-secrets", "POST"): Managed(self.rotate_secret, Scope.MANAGE, "webhook_secret.rotate"),
        }

    async def list(self, call: Call) -> Answer:
        """The deliveries of an endpoint, page by page, the newest first."""
        query = call.query
        limit, state, cursor = query.get("limit", "100"), query.get("state"), query.get("cursor")
        if not (limit.isascii() and limit.isdigit() and len(limit) < 5 and 1 <= int(limit) <= MOST_LISTED):
            raise BadRequest(f"limit must be 1 to {MOST_LISTED}, not {limit[:40]!r}")
        if state is not None and state not in _STATES:
            raise BadRequest(f"state must be one of {', '.join(_STATES)}, not {state[:40]!r}")
        if cursor is not None and not re.fullmatch(r"\d{1,16}\.\d{1,16}", cursor, re.ASCII):
            raise BadRequest("cursor must be what an earlier page gave as next")
        found = await self._deliveries.list(
            call.endpoint, int(limit), cursor, DeliveryState(state) if state is not None else None, call.limit
        )
        return Reply(orjson.dumps({"webhooks": [_shown(each) for each in found.deliveries], "next": found.cursor}))

    async def show(self, call: Call) -> Answer:
        """One delivery."""
        return Reply(orjson.dumps(_shown(await self._deliveries.get(call.endpoint, _delivery_id(call), call.limit))))

    async def retry(self, call: Call) -> Answer:
        """Has a delivery tried now, also one that was delivered or has failed."""
        id = _delivery_id(call)
        await self._deliveries.retry(call.endpoint, id, call.limit)
        return Reply(orjson.dumps(_shown(await self._deliveries.get(call.endpoint, id))))

    async def list_secrets(self, call: Call) -> Answer:
        """The secrets in force, the newest first."""
        return _secrets_shown(await self._secrets.in_force(_tenant(call)))

    async def rotate_secret(self, call: Call) -> Answer:
        """Makes a new secret; those before stay in force for `overlapSeconds`."""
        try:
            rotation = _decode_rotation(await call.body(MOST_BYTES, self._settings.body_seconds) or b"{}")
        except msgspec.ValidationError as error:
            raise BadRequest(str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest("the body is not valid JSON") from None
        return _secrets_shown(await self._secrets.rotate(_tenant(call), rotation.overlapSeconds), 201)


def _delivery_id(call: Call) -> str:
    id = call.parameters["delivery"]
    if not _ID.fullmatch(id):
        raise NotFound("no such webhook")
    return id


def _tenant(call: Call) -> str:
    """The caller's tenant, all of whose endpoints its secrets are of."""
    if call.key.terms.endpoints:
        raise Forbidden("this key is not for all endpoints, as the secrets are")
    return call.tenant


def _shown(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "job": delivery.job,
        "url": delivery.url,
        "state": delivery.state,
        "attempts": [_attempt_shown(attempt) for attempt in delivery.attempts],
        "nextAttemptAt": delivery.due,
        "createdAt": delivery.created,
    }


def _attempt_shown(attempt: Attempt) -> dict[str, Any]:
    result = {"status": int(attempt.result)} if attempt.result.isdigit() else {"error": attempt.result}
    return {"at": attempt.at, **result, "durationMs": attempt.duration}


def _secrets_shown(secrets: list[WebhookSecret], status: int = 200) -> Reply:
    shown = [
        {"id": each.id, "createdAt": each.created, "expiresAt": each.expires, "secret": each.secret} for each in secrets
    ]
    return Reply(orjson.dumps({"secrets": shown}), status)
