"""What tenants see of their webhooks: the log of each endpoint's deliveries, and the secrets that sign them. RunPod has
neither."""

import re
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ..access.keys import Scope
from ..access.webhook_secrets import WebhookSecret, WebhookSecrets
from ..described import described
from ..engine.deliveries import Attempt, Deliveries, Delivery, DeliveryState
from ..errors import BadRequest, Forbidden, NotFound
from ..http import Answer, Call, Managed, Reply
from ..queries import Cursor, PageLimit
from ..settings import Settings

MOST_BYTES = 1000
OVERLAP_SECONDS = 86_400

_ID = re.compile(r"msg_[A-Za-z0-9-]{1,64}_[0-9]{1,9}")
_PATH = {"delivery": Annotated[str, Meta(pattern=f"^{_ID.pattern}$", description="the webhook's id")]}


class SecretRotation(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the secrets before stay in force."""

    overlapSeconds: Annotated[int, Meta(ge=0, le=30 * 86_400)] = OVERLAP_SECONDS


class DeliveryListing(msgspec.Struct):
    """Of /webhooks."""

    limit: PageLimit = 100
    state: DeliveryState | UnsetType = UNSET
    cursor: Cursor | UnsetType = UNSET


class DeliveryAttempt(msgspec.Struct):
    """A try, when it began (ms since the epoch): the status that the receiver answered with, or in one word what went
    wrong."""

    at: int
    status: int | UnsetType = UNSET
    error: str | UnsetType = UNSET
    durationMs: int = 0


class DeliveryObject(msgspec.Struct):
    """A webhook, with the last few tries; times are in ms since the epoch."""

    id: str
    job: str
    url: str
    state: DeliveryState
    attempts: list[DeliveryAttempt]
    nextAttemptAt: int | None
    createdAt: int


class DeliveryPage(msgspec.Struct):
    """Webhooks, the newest first; `next` is the cursor of the next page, null at the end."""

    webhooks: list[DeliveryObject]
    next: str | None


class SecretObject(msgspec.Struct):
    """A secret; times are in ms since the epoch."""

    id: str
    createdAt: int
    expiresAt: int | None
    secret: str


class SecretList(msgspec.Struct):
    """Secrets, the newest first."""

    secrets: list[SecretObject]


_decode_rotation = msgspec.json.Decoder(SecretRotation).decode


class WebhookLog:
    """The operations under /v2/{endpoint}/webhooks and /v1/webhook-secrets."""

    TAG = "Webhooks"

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

    @described(DeliveryPage, query=DeliveryListing)
    async def list(self, call: Call) -> Answer:
        """The deliveries of an endpoint, page by page, the newest first."""
        query = call.queried(DeliveryListing)
        found = await self._deliveries.list(
            call.endpoint, query.limit, query.cursor or None, query.state or None, call.limit
        )
        return Reply(msgspec.json.encode(DeliveryPage([_shown(each) for each in found.deliveries], found.cursor)))

    @described(DeliveryObject, path=_PATH)
    async def show(self, call: Call) -> Answer:
        """One delivery."""
        return Reply(
            msgspec.json.encode(_shown(await self._deliveries.get(call.endpoint, _delivery_id(call), call.limit)))
        )

    @described(DeliveryObject, path=_PATH, errors={409: "it has not failed"})
    async def retry(self, call: Call) -> Answer:
        """Has a delivery tried now, also one that was delivered or has failed."""
        id = _delivery_id(call)
        await self._deliveries.retry(call.endpoint, id, call.limit)
        return Reply(msgspec.json.encode(_shown(await self._deliveries.get(call.endpoint, id))))

    @described(SecretList)
    async def list_secrets(self, call: Call) -> Answer:
        """The secrets in force, the newest first."""
        return _secrets_shown(await self._secrets.in_force(_tenant(call)))

    @described(
        SecretList, status=201, body=SecretRotation, body_is_optional=True, errors={409: "too many are in force"}
    )
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


def _shown(delivery: Delivery) -> DeliveryObject:
    return DeliveryObject(
        delivery.id, delivery.job, delivery.url, delivery.state,
        [_attempt_shown(attempt) for attempt in delivery.attempts], delivery.due, delivery.created,
    )  # fmt: skip


def _attempt_shown(attempt: Attempt) -> DeliveryAttempt:
    if attempt.result.isdigit():
        return DeliveryAttempt(attempt.at, status=int(attempt.result), durationMs=attempt.duration)
    return DeliveryAttempt(attempt.at, error=attempt.result, durationMs=attempt.duration)


def _secrets_shown(secrets: list[WebhookSecret], status: int = 200) -> Reply:
    shown = [SecretObject(each.id, each.created, each.expires, each.secret) for each in secrets]
    return Reply(msgspec.json.encode(SecretList(shown)), status)
