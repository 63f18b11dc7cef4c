"""Keys: who holds one, and what it is good for. Only the SHA-256 of a key is kept; keys are random and long, so nothing
slower is needed.

A key of the settings is `KEY` (of the tenant `default`) or `TENANT:KEY`, split at the first colon, and in the place of
KEY may stand `sha256:HEX`. That is what they all become as soon as they have been read.
"""

import enum
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ..engine.endpoints import Id
from ..engine.keys import DEFAULT_TENANT
from ..errors import StartupError

TENANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
"""A tenant: 1 to 63 letters, digits, '.', '-' or '_', none of the three first or last."""

_HASHED = re.compile(r"(?:(?P<holder>.*):)?sha256:(?P<digest>[0-9a-f]{64})", re.DOTALL)


class Scope(enum.StrEnum):
    """What a key is good for."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    MANAGE = "manage"
    WORKER = "worker"
    ADMIN = "admin"


CLIENT_SCOPES = frozenset({Scope.SUBMIT, Scope.READ, Scope.CANCEL})
TENANT_SCOPES = frozenset(Scope) - {Scope.ADMIN}
"""What a key of RUNLANE_API_KEYS may do."""


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """What is granted with a key.

    `endpoints`: ids; none means all of the tenant's. `rate`: requests per 10 s, in the place of the server's limit for
    each operation. `weight`: its part of an endpoint that serves its keys fairly.
    """

    scopes: Annotated[frozenset[Scope], Meta(min_length=1)] = CLIENT_SCOPES
    name: Annotated[str, Meta(max_length=100)] = ""
    endpoints: Annotated[tuple[Id, ...], Meta(max_length=1000)] = ()
    rate: Annotated[int, Meta(ge=1, le=1_000_000_000)] | None = None
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1


class Key(msgspec.Struct, frozen=True):
    """A key as it is kept. `digest`: its SHA-256, in hex; `created` and `expires`: ms since the epoch."""

    id: str
    tenant: str
    digest: str
    terms: Terms
    created: int = 0
    expires: int | None = None


_decode = msgspec.json.Decoder(Key).decode


def key_of(text: bytes, expires: int) -> Key:
    """A key as functions/access.lua gives it: its JSON, and the time at which it expires (0: never)."""
    return msgspec.structs.replace(_decode(text), expires=expires or None)


EVERYONE = Key("insecure", DEFAULT_TENANT, "", Terms(frozenset(Scope)))
"""Whoever calls a server without keys."""


def new_secret(scopes: Iterable[Scope]) -> str:
    """A key that there has not been, of 256 random bits."""
    return f"{'rlw' if set(scopes) == {Scope.WORKER} else 'rl'}_{secrets.token_urlsafe(32)}"


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def presented_key(authorization: str, api_key: str = "") -> str:
    """The key that a request brings.

    Args:
        authorization: that header: `Bearer KEY`, or a bare key as some of RunPod's clients send it.
        api_key: the header `X-API-Key`; it counts when the other is missing or of another scheme.
    """
    scheme, space, rest = authorization.strip().partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip()
    if api_key and (space or not scheme):
        return api_key.strip()
    return authorization.strip()


def hashed(entry: str) -> str:
    """A key of the settings as it is kept: `HOLDER:sha256:HEX`, or `sha256:HEX` when it names no holder."""
    if _HASHED.fullmatch(entry):
        return entry
    holder, colon, key = entry.partition(":")
    if not colon:
        holder, key = "", holder
    if not key.strip():
        return entry  # which is refused later
    return f"{holder.strip()}{colon}sha256:{digest(key.strip())}"


def named(entries: Iterable[str]) -> list[str]:
    """Those keys of the settings that have a holder and are not empty; RUNE passes over all others."""
    found = [(entry, _HASHED.fullmatch(hashed(entry))) for entry in entries]
    return [entry for entry, parts in found if parts is not None and parts["holder"]]


class ConfiguredKeys:
    """The keys of the settings. They are few, and need no store."""

    def __init__(self) -> None:
        self._keys: dict[str, Key] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, setting: str, entries: Sequence[str], scopes: frozenset[Scope]) -> None:
        """Takes in keys of clients.

        Raises:
            StartupError: one that is empty, whose tenant cannot be one, or that is another tenant's already.
        """
        for entry in entries:
            tenant, value = _parts(setting, entry, "KEY or TENANT:KEY")
            tenant = tenant or DEFAULT_TENANT
            if not TENANT.fullmatch(tenant):
                raise StartupError(
                    f"{setting}: {tenant[:80]!r} cannot be a tenant: 1 to 63 letters, digits, '.', '-' or '_'; "
                    "a key stands behind the first colon"
                )
            self._take(setting, tenant, value, Terms(scopes))

    def add_workers(self, setting: str, entries: Sequence[str]) -> None:
        """Takes in keys of workers: ENDPOINT:KEY, or TENANT/ENDPOINT:KEY.

        Raises:
            StartupError: one that names no endpoint, or that is another tenant's or a client's already.
        """
        for entry in entries:
            place, value = _parts(setting, entry, "ENDPOINT:KEY")
            tenant, slash, endpoint = place.rpartition("/")
            if not endpoint or (slash and not TENANT.fullmatch(tenant)):
                raise StartupError(f"{setting} must be ENDPOINT:KEY or TENANT/ENDPOINT:KEY, separated by commas")
            terms = Terms(frozenset({Scope.WORKER}), endpoints=(endpoint,))
            self._take(setting, tenant or DEFAULT_TENANT, value, terms)

    def find(self, presented: str) -> Key | None:
        """The key with this SHA-256, in hex."""
        key = self._keys.get(presented)
        return key if key is not None and hmac.compare_digest(key.digest, presented) else None

    def _take(self, setting: str, tenant: str, value: str, terms: Terms) -> None:
        """A key that stands in several places may do what each of them says."""
        before = self._keys.get(value)
        if before is None:
            self._keys[value] = Key(f"env-{value[:12]}", tenant, value, terms)
        elif before.tenant != tenant:
            raise StartupError(f"{setting}: one key cannot be of two tenants, {before.tenant} and {tenant}")
        elif bool(before.terms.endpoints) == bool(terms.endpoints):
            both = Terms(before.terms.scopes | terms.scopes, endpoints=before.terms.endpoints + terms.endpoints)
            self._keys[value] = msgspec.structs.replace(before, terms=both)
        elif not terms.scopes <= before.terms.scopes:
            raise StartupError(f"{setting}: a key of clients cannot be one of an endpoint's workers too")


def _parts(setting: str, entry: str, form: str) -> tuple[str, str]:
    found = _HASHED.fullmatch(hashed(entry))
    if found is None:
        raise StartupError(f"{setting} has an empty key, which would let everyone in; each is {form}")
    return found["holder"] or "", found["digest"]
