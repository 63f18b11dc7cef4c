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

    async def grant(self, endpoint: str, worker: str, key: str) -> dict[str, Any] | None:
        """Makes a user, or gives an existing one a new password. `key`: the id of the key that the worker came with.
        Returns the URL to connect with, and whether the store is a cluster; None when the store does not let us make
        users."""
        password = secrets.token_urlsafe(32)
        base = keys.base(endpoint)
        try:
            await self._store.on_every_node(
                "ACL SETUSER", user_of(endpoint, worker), "reset", "on", f">{password}", f"~{base}:*", f"~{base}",
                f"&{base}:*", _mark_of(key), *(f"+{command}" for command in COMMANDS),
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

    async def revoke_all(self, endpoint: str) -> None:
        """Deletes the users of all workers of an endpoint."""
        ours = [user for user in await self._said("ACL USERS") if user.startswith(user_of(endpoint, ""))]
        if ours:
            await self._delete(*ours)

    async def workers_with(self, key: str) -> list[tuple[str, str]]:
        """The endpoints and workers that have users and came with a key."""
        users = [line.split(" ") for line in await self._said("ACL LIST")]  # "user NAME RULE …"
        names = [name.split(":") for _, name, *rules in users if _mark_of(key) in rules]
        return [(endpoint, worker) for _, endpoint, worker in names]

    async def _said(self, command: str) -> list[str]:
        try:
            found = await cast(Any, self._store.commands).execute_command(command, **self._store.anywhere)
        except ResponseError:
            return []  # it makes no users
        return [_text(each) for each in found]

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


def _mark_of(key: str) -> str:
    """A rule of a worker's user that says with which key it came, and allows nothing: to read what is not there. What
    stands about the worker at its endpoint, the worker itself can write."""
    return f"%R~runlane:came-with:{key}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
