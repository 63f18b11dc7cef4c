"""Management of keys: of the caller's own tenant, and of no other."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..access.keys import Key, Scope, Terms
from ..access.revocation import Revocation
from ..access.stored_keys import StoredKeys
from ..described import described
from ..engine.endpoints import check_id
from ..errors import BadRequest, Forbidden
from ..http import Answer, Call, Managed, Reply
from ..settings import Settings
from .manage import Moment, json_object, moment

DEFAULT_OVERLAP_SECONDS = 86_400.0

Seconds = Annotated[float, Meta(ge=1, le=315_360_000)]


class NewKey(Terms, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A key to be made."""

    expires_in_seconds: Seconds | None = None


class KeyRotation(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """For how long the key before goes on."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=315_360_000)] = DEFAULT_OVERLAP_SECONDS


class KeyObject(msgspec.Struct, rename="camel"):
    """A key, as its owner may see it."""

    id: str
    tenant: str
    scopes: list[Scope]
    name: str
    endpoints: tuple[str, ...]
    rate: int | None
    weight: int
    created_at: Moment
    expires_at: Moment | None


class MadeKey(KeyObject, rename="camel"):
    """The same, with the key itself."""

    key: str


class KeyList(msgspec.Struct):
    """The tenant's keys."""

    keys: list[KeyObject]


class Keys:
    """The operations under /v1/keys."""

    def __init__(self, stored: StoredKeys, revocation: Revocation, settings: Settings) -> None:
        self._stored = stored
        self._revocation = revocation
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        return {
            ("/v1/keys", "POST"): Managed(self.create, Scope.ADMIN, "key.create"),
            ("/v1/keys", "GET"): Managed(self.list, Scope.ADMIN),
            ("/v1/keys/{key}", "GET"): Managed(self.show, Scope.ADMIN),
            ("/v1/keys/{key}", "DELETE"): Managed(self.revoke, Scope.ADMIN, "key.revoke"),
            ("/v1/keys/{key}/rotate", "POST"): Managed(self.rotate, Scope.ADMIN, "key.rotate"),
        }

    @described(MadeKey, status=201, body=NewKey, errors={409: "there are too many keys"})
    async def create(self, call: Call) -> Answer:
        """Makes a key; the answer has it as `key`, this once."""
        wanted = _convert(await json_object(call, self._settings), NewKey)
        return await self._made(call, terms_of(wanted), wanted.expires_in_seconds)

    @described(KeyList)
    async def list(self, call: Call) -> Answer:
        """The tenant's keys."""
        found = await self._stored.list(_tenant(call))
        return Reply(msgspec.json.encode(KeyList([KeyObject(**_shown(key)) for key in found])))

    @described(KeyObject)
    async def show(self, call: Call) -> Answer:
        """One key."""
        found = await self._stored.get(_tenant(call), call.parameters["key"])
        return Reply(msgspec.json.encode(KeyObject(**_shown(found))))

    @described()
    async def revoke(self, call: Call) -> Answer:
        """Ends a key at once, and whatever goes on with it."""
        call.facts["subject"] = call.parameters["key"][:100]
        await self._revocation.revoke(_tenant(call), call.parameters["key"])
        return Reply(b"", 204)

    @described(MadeKey, status=201, body=KeyRotation, body_is_optional=True, errors={409: "there are too many keys"})
    async def rotate(self, call: Call) -> Answer:
        """Makes another key like this one, which goes on for `overlapSeconds`."""
        id = call.parameters["key"]
        call.facts["rotates"] = id[:100]
        overlap = _convert(await json_object(call, self._settings, b"{}"), KeyRotation).overlap_seconds
        before = await self._stored.get(_tenant(call), id)
        made = await self._made(call, before.terms, None)
        if overlap * 1000 >= 1:
            await self._stored.expire(call.tenant, id, overlap)
        else:
            await self._revocation.revoke(call.tenant, id)
        return made

    async def _made(self, call: Call, terms: Terms, seconds: float | None) -> Reply:
        key, secret = await self._stored.create(_tenant(call), terms, seconds)
        call.facts["subject"] = key.id
        return Reply(msgspec.json.encode(MadeKey(**_shown(key), key=secret)), 201)


def _tenant(call: Call) -> str:
    """The caller's tenant, all of whose endpoints its keys can be for."""
    if call.key.terms.endpoints:
        raise Forbidden("this key is not for all endpoints, as the tenant's keys are")
    return call.tenant


def terms_of(wanted: Terms) -> Terms:
    """The terms of a key that is asked for.

    Raises:
        BadRequest: an endpoint's id that cannot be one.
    """
    for endpoint in wanted.endpoints:
        check_id(endpoint)
    return Terms(*(getattr(wanted, name) for name in Terms.__struct_fields__))


def _shown(key: Key) -> dict[str, Any]:
    terms = {name: getattr(key.terms, name) for name in Terms.__struct_fields__}
    return {
        "id": key.id,
        "tenant": key.tenant,
        **terms,
        "scopes": sorted(key.terms.scopes),
        "created_at": moment(key.created),
        "expires_at": None if key.expires is None else moment(key.expires),
    }


def _convert(fields: dict[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
