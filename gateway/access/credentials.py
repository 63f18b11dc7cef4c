"""What a worker gets to reach the store: a user of its own that can touch its endpoint and nothing else.

A function runs with the permissions of its caller, on undeclared keys too, so the user needs the commands that the
functions use, on the keys and channels of the endpoint. ACL users are not replicated and not kept over a restart of
the store: a worker whose user is gone registers again. Some managed stores let nobody make users: then workers come
over HTTP.
"""

import logging
import secrets
from typing import Any, cast
from urllib.parse import quote, urlsplit

from redis.exceptions import ResponseError

from ..engine import keys
from ..store import Store

logger = logging.getLogger(__name__)

COMMANDS = (
    "fcall", "xreadgroup", "xadd", "xack", "xdel", "xrange", "xlen", "xclaim", "xautoclaim", "xpending",
    "xinfo|groups", "xinfo|consumers", "xgroup|delconsumer", "hget", "hmget", "hset", "hdel", "hlen", "hincrby",
    "hstrlen", "copy", "exists", "zadd", "zrem", "zrange", "zcard", "zscore", "pexpire", "pexpireat", "pexpiretime",
    "unlink", "spublish", "time", "ssubscribe", "sunsubscribe", "pubsub|shardnumsub", "ping", "hello", "auth",
    "client|setname",
    "client|setinfo", "select", "cluster|slots", "cluster|shards", "cluster|nodes", "cluster|myid", "command",
    "readonly",
)  # fmt: skip


class Credentials:
    """Makes and revokes the users of workers."""

    def __init__(self, store: Store, worker_redis_url: str) -> None:
        """`worker_redis_url`: the store's address as workers reach it; empty for the gateway's own."""
        self._store = store
        self._url = worker_redis_url or store.url

    async def grant(self, endpoint: str, worker: str) -> dict[str, Any] | None:
        """Makes a user, or gives an existing one a new password. Returns the URL to connect with, and whether the store
        is a cluster; None when the store does not let us make users."""
        password = secrets.token_urlsafe(32)
        base = keys.base(endpoint)
        try:
            await self._store.on_every_node(
                "ACL SETUSER", user_of(endpoint, worker), "reset", "on", f">{password}", f"~{base}:*", f"~{base}",
                f"&{base}:*", *(f"+{command}" for command in COMMANDS),
            )  # fmt: skip
        except ResponseError as error:
            # A store that does not know the command quotes its arguments, and with them the password.
            reason = str(error).partition(", with args")[0]
            logger.warning("the store makes no user for worker %s, which comes over HTTP instead: %s", worker, reason)
            return None
        return {"url": self._url_for(user_of(endpoint, worker), password), "cluster": self._store.clustered}

    async def revoke(self, endpoint: str, worker: str) -> None:
        """Deletes the worker's user, which closes its connections."""
        await self._delete(user_of(endpoint, worker))

    async def revoke_all(self, endpoint: str) -> list[str]:
        """Deletes the users of all workers of an endpoint; returns the workers."""
        try:
            users = await cast(Any, self._store.commands).execute_command("ACL USERS", **self._store.anywhere)
        except ResponseError:
            return []  # it makes none
        ours = [user for user in map(_text, users) if user.startswith(user_of(endpoint, ""))]
        if ours:
            await self._delete(*ours)
        return [user.removeprefix(user_of(endpoint, "")) for user in ours]

    async def _delete(self, *users: str) -> None:
        try:
            await self._store.on_every_node("ACL DELUSER", *users)
        except ResponseError as error:
            logger.debug("the store deletes no users: %s", error)

    def _url_for(self, user: str, password: str) -> str:
        parts = urlsplit(self._url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{place}").geturl()


def user_of(endpoint: str, worker: str) -> str:
    """The name of a worker's user at the store."""
    return f"runlane:{endpoint}:{worker}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
