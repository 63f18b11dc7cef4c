"""Lets a request in: whose key it brings, and whether that is good for what the request wants."""

import asyncio
import hmac
import time

from ..engine import keys as names
from ..engine.batching import Batcher
from ..errors import Blocked as BlockedError
from ..errors import Forbidden, Unauthorized, Unavailable
from ..http import Call
from ..settings import Settings
from .addresses import Addresses, Blocked, counted_as
from .audit import Audit
from .keys import (
    CLIENT_SCOPES,
    EVERYONE,
    TENANT_SCOPES,
    ConfiguredKeys,
    Key,
    Scope,
    digest,
    key_of,
    named,
    presented_key,
)
from .limits import Limits

SECONDS_TO_REMEMBER = 0.5
SECONDS_TO_REPLACE = 0.9
"""A key is looked up again after the first of the two; meanwhile other requests with it pass, until the second."""

SECONDS_WITHOUT_STORE = 600.0
"""For so long keys stay as they were while the store is away."""

SECONDS_TO_SPREAD = 0.05
"""Who is blocked is told when the other gateway processes have heard of it too."""

MOST_REMEMBERED = 50_000


class _Known:
    """A key that was presented before. `at`: when the store was last asked, and `asks` since when it is."""

    __slots__ = ("asks", "at", "key")

    def __init__(self, key: Key, at: float) -> None:
        self.key = key
        self.at = at
        self.asks = False


class Access:
    """Checks the keys of all requests of one gateway process."""

    def __init__(
        self, settings: Settings, batcher: Batcher, limits: Limits, addresses: Addresses, audit: Audit
    ) -> None:
        self._configured = configured_keys(settings)
        self._open = settings.insecure and not self._configured
        self._most_failures = settings.failed_logins
        self._window_ms = round(settings.failed_login_seconds * 1000)
        self._good_keys_pass = settings.good_keys_pass
        self._batcher = batcher
        self._limits = limits
        self._addresses = addresses
        self._audit = audit
        self._known: dict[str, _Known] = {}
        self._under_way: dict[str, set[Call]] = {}
        self._revoked: dict[str, float] = {}
        self.blocked = Blocked()

    async def admit(self, call: Call, scope: Scope, operation: str = "") -> None:
        """Lets a request in, or not; from then on the call knows its key.

        Args:
            call: the request.
            scope: what its key has to be good for.
            operation: whose limit counts; empty for none.

        Raises:
            Unauthorized: no key, or a wrong one.
            Blocked: too many of those came from where this one does.
            Forbidden: the key is not good for this.
            TooManyRequests: too many are under way.
            Unavailable: the store is away, and the key was not known before.
        """
        key = call.key = EVERYONE if self._open else self._remembered(call) or await self._look_up(call)
        terms = key.terms
        if scope not in terms.scopes:
            self._audit.write("forbidden", call, result="denied", needs=scope)
            raise Forbidden(f"this key may not do this; that takes one with the scope {scope}")
        if terms.endpoints and call.parameters.get("endpoint", "") not in ("", *terms.endpoints):
            self._audit.write("forbidden", call, result="denied", needs="another endpoint")
            raise Forbidden("this key is not for this endpoint")
        if key.created:
            self._hold(call, key)
        if operation:
            await self.count(call, call.endpoint, operation)

    async def count(self, call: Call, endpoint: str, operation: str) -> None:
        """Counts a request that was let in by the limit of an operation.

        Raises:
            TooManyRequests: too many are under way.
        """
        if counter := self._limits.enter(call.key, endpoint, operation):
            call.counter = counter
            call.when_done(counter.leave)
            if counter.is_over:
                await self._limits.check(counter)

    def revoked(self, digest: str) -> None:
        """A key is good for nothing any more: what goes on with it ends, as if its clients had hung up."""
        self._revoked = {known: at for known, at in self._revoked.items() if time.monotonic() - at < SECONDS_TO_REPLACE}
        self._revoked[digest] = time.monotonic()
        for presented in [presented for presented, known in self._known.items() if known.key.digest == digest]:
            del self._known[presented]
        for call in list(self._under_way.get(digest, ())):
            if call.connection is not None:
                call.connection.abort()

    async def end_expired(self) -> None:
        """Ends what goes on with keys that are good no more, however they came to be so.

        Raises:
            Unavailable: the store is away.
        """
        for known in list(self._under_way):
            what, *_ = await self._batcher.call(names.ACCESS, "login", known, "", 0, 0, 0)
            if what != b"KEY":
                self.revoked(known)

    def _remembered(self, call: Call) -> Key | None:
        """The key, when it was presented a moment ago."""
        if self.blocked and not self._good_keys_pass and counted_as(self._addresses.of(call.scope)) in self.blocked:
            self._audit.blocked(call)
            raise BlockedError
        known = self._known.get(_presented(call))
        if known is None:
            return None
        age = time.monotonic() - known.at
        if age < SECONDS_TO_REMEMBER or (known.asks and age < SECONDS_TO_REPLACE):
            return known.key
        known.asks = True
        return None

    async def _look_up(self, call: Call) -> Key:
        presented = _presented(call)
        known = self._known.get(presented)
        found = digest(presented) if presented else ""
        key = self._configured.find(found)
        if key is None:
            try:
                key = await self._ask(call, found)
            except Unavailable:
                if known is None or time.monotonic() - known.at > SECONDS_WITHOUT_STORE:
                    raise
                return known.key
            except Unauthorized:
                self._known.pop(presented, None)
                raise
        at = time.monotonic()
        if len(self._known) >= MOST_REMEMBERED:
            self._known.clear()
        self._known[presented] = _Known(key, at if key.created else float("inf"))
        return key

    async def _ask(self, call: Call, presented: str) -> Key:
        address = counted_as(self._addresses.of(call.scope)) if self._most_failures else ""
        what, value, *expires = await self._batcher.call(
            names.ACCESS, "login", presented, address, self._most_failures, self._window_ms, int(self._good_keys_pass)
        )
        if what == b"KEY":
            key = key_of(value, *expires)
            # The news of its end may have been faster than this answer.
            if presented in self._revoked or not hmac.compare_digest(key.digest, presented):
                raise Unauthorized
            return key
        if value:
            self.blocked.add(address, value)
            await asyncio.sleep(SECONDS_TO_SPREAD)
        if what == b"BLOCKED":
            self._audit.blocked(call)
            raise BlockedError
        self._audit.write("login_failed", call, result="denied", blocks=bool(value))
        raise Unauthorized

    def _hold(self, call: Call, key: Key) -> None:
        calls = self._under_way.setdefault(key.digest, set())
        calls.add(call)

        def let_go() -> None:
            calls.discard(call)
            if not calls:
                self._under_way.pop(key.digest, None)

        call.when_done(let_go)


def _presented(call: Call) -> str:
    return presented_key(call.header(b"authorization"), call.header(b"x-api-key"))


def configured_keys(settings: Settings) -> ConfiguredKeys:
    """The keys of the settings.

    Raises:
        StartupError: one cannot be a key.
    """
    found = ConfiguredKeys()
    for setting, entries, scopes in (
        ("api_keys", settings.api_keys, TENANT_SCOPES),
        ("admin_keys", settings.admin_keys, frozenset(Scope)),
        ("RUNQY_API_KEY", _one(settings.runqy_api_key), TENANT_SCOPES),
        ("RUNQY_CLIENT_API_KEY", _one(settings.runqy_client_api_key), CLIENT_SCOPES),
        ("RUNQY_WORKER_API_KEY", _one(settings.runqy_worker_api_key), frozenset({Scope.WORKER})),
        ("RUNE_API_TOKENS", named(settings.rune_api_tokens), TENANT_SCOPES),
    ):
        found.add(setting, entries, scopes)
    found.add_workers("worker_keys", settings.worker_keys)
    return found


def _one(entry: str) -> list[str]:
    return [entry] if entry else []
