"""The connection to Redis or Valkey: one node, Sentinel or Cluster, and the function library in it."""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from .engine.tasks import end
from .errors import StartupError
from .logs import without_secrets

SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
OUTAGES = (RedisConnectionError, RedisTimeoutError, ClusterDownError, RedisClusterException, OSError)
SECONDS_TO_ANSWER = 10.0


PARTS = (
    "common", "sealed", "states", "fair", "handing", "workers", "reading", "roster", "limits", "submission", "jobs",
    "polls", "webhooks", "logs", "upkeep", "tasks", "endpoints", "access", "secrets", "vaults",
)  # fmt: skip
"""The files of the function library, in the order in which they build on one another."""


def _library() -> tuple[str, str]:
    folder = resources.files("gateway.engine").joinpath("functions")
    source = "\n".join(folder.joinpath(f"{part}.lua").read_text() for part in PARTS)
    name = f"runlane_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return name, source.replace("@library@", name)


LIBRARY, LIBRARY_SOURCE = _library()
"""Name and source of the function library. The name carries a digest of the source, so that processes of two versions
can work on one store side by side, each with its own functions, as long as both know what the keys hold."""


class Store:
    """Clients for the store. `commands` is the one for commands; calls are never repeated by the client itself, since
    a call whose reply was lost may have been executed."""

    def __init__(
        self, url: str, commands: "Redis | RedisCluster", options: dict[str, Any], sentinels: Sequence[Redis] = ()
    ) -> None:
        self.url = url
        self.commands = commands
        self._cluster = commands if isinstance(commands, RedisCluster) else None
        self._options = options
        self._nodes: dict[str, Redis] = {}
        self._sentinels = sentinels
        self._looking: asyncio.Task[None] | None = None

    @property
    def clustered(self) -> bool:
        """Whether keys are spread over several nodes."""
        return self._cluster is not None

    def node_of(self, key: str) -> Redis:
        """A plain client for the node that owns the key, for subscriptions."""
        if self._cluster is None:
            return self.commands  # type: ignore[return-value]
        node = self._cluster.get_node_from_key(key)
        if node is None:
            raise RedisConnectionError(f"no node of the cluster owns the slot of {key}")
        if node.name not in self._nodes:
            self._nodes[node.name] = Redis(host=node.host, port=int(node.port), **self._options)
        return self._nodes[node.name]

    def look_again(self) -> None:
        """A node was lost or has given slots away: in a cluster, asks the others who serves what now."""
        if self.clustered and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self.learn_nodes())

    async def learn_nodes(self) -> None:
        """Asks a cluster which node serves which slots."""
        if self._cluster is not None:
            with contextlib.suppress(*OUTAGES, RedisError):
                await self._cluster.nodes_manager.initialize()

    @property
    def anywhere(self) -> dict[str, Any]:
        """Arguments for a command without a key that any node may answer."""
        return {"target_nodes": RedisCluster.RANDOM} if self.clustered else {}

    async def on_every_node(self, *command: str) -> None:
        """Runs a command that is not replicated, such as `ACL SETUSER`, everywhere."""
        if self._cluster is not None:
            await self._cluster.execute_command(*command, target_nodes=RedisCluster.ALL_NODES)
        else:
            await cast(Any, self.commands).execute_command(*command)

    async def load_library(self) -> None:
        """Puts the function library into every primary that lacks it."""
        where = {"target_nodes": RedisCluster.PRIMARIES} if self.clustered else {}
        try:
            await self.commands.execute_command("FUNCTION LOAD", LIBRARY_SOURCE, **where)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise
            if self.clustered:
                # Some node has it; a primary that joined later may not.
                await self.commands.execute_command("FUNCTION LOAD", "REPLACE", LIBRARY_SOURCE, **where)

    async def close(self) -> None:
        """Closes every connection."""
        if self._looking is not None:
            await end(self._looking)
        await self.commands.aclose()
        for node in (*self._nodes.values(), *self._sentinels):
            await node.aclose()


async def open_store(url: str) -> Store:
    """Connects, checks the server's version and loads the function library.

    Raises:
        StartupError: with one line that says what is wrong and what to do.
    """
    shown = without_secrets(url)
    _check_quoting(url, shown)
    try:
        store = await asyncio.wait_for(_connect(url), SECONDS_TO_ANSWER)
    except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
        raise StartupError(f"the store at {shown} refuses our user or password: {error}") from None
    except ValueError as error:
        raise StartupError(f"{shown!r} is not a store URL: {error}") from None
    except (*OUTAGES, RedisError, TimeoutError) as error:
        reason = str(error) or f"no answer within {SECONDS_TO_ANSWER:.0f} s"
        raise StartupError(f"cannot reach the store at {shown}: {reason}; check --redis or RUNLANE_REDIS_URL") from None
    try:
        await _check_version(store, shown)
        await store.load_library()
    except (*OUTAGES, RedisError) as error:
        await store.close()
        raise StartupError(f"cannot use the store at {shown}: {error}") from None
    except StartupError:
        await store.close()
        raise
    return store


async def _connect(url: str) -> Store:
    scheme = urlsplit(url).scheme
    if scheme not in SCHEMES:
        raise StartupError(f"{without_secrets(url)!r} is not a store URL; it begins with one of {', '.join(SCHEMES)}")
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "socket_timeout": SECONDS_TO_ANSWER,
        "socket_connect_timeout": 5.0,
    }
    if scheme.endswith("+cluster"):
        return await _connect_cluster(url, options)
    if scheme.endswith("+sentinel"):
        return await _connect_sentinel(url, options)
    client = Redis.from_url(url, **options)
    try:
        clustered = (await client.info("cluster")).get("cluster_enabled")
    except BaseException:
        await client.aclose()
        raise
    if not clustered:
        return Store(url, client, options)
    await client.aclose()
    return await _connect_cluster(url, options)


async def _connect_cluster(url: str, options: dict[str, Any]) -> Store:
    options |= _credentials(url)
    nodes = [ClusterNode(host, port) for host, port in _addresses(url, 6379)]
    cluster = RedisCluster(startup_nodes=nodes, **options)
    try:
        await cluster.initialize()
    except BaseException:
        await cluster.aclose()
        raise
    return Store(url, cluster, options)


async def _connect_sentinel(url: str, options: dict[str, Any]) -> Store:
    options |= _credentials(url)
    query = dict(parse_qsl(urlsplit(url).query))
    name = urlsplit(url).path.strip("/")
    if not name:
        raise StartupError("a Sentinel URL ends with the name of the primary: redis+sentinel://host:26379/NAME")
    sentinel_options = {
        "socket_timeout": SECONDS_TO_ANSWER,
        "retry": Retry(NoBackoff(), 0),
        "password": query.get("sentinel_password"),
    }
    sentinel = cast(Any, Sentinel)(_addresses(url, 26379), sentinel_kwargs=sentinel_options)
    client: Redis = sentinel.master_for(name, **options)
    await cast(Any, client.ping())
    return Store(url, client, options, sentinel.sentinels)


def _addresses(url: str, default_port: int) -> list[tuple[str, int]]:
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    found = []
    for place in places:
        host, colon, port = place.rpartition(":")
        found.append((host, int(port)) if colon else (place, default_port))
    return found


def _credentials(url: str) -> dict[str, Any]:
    first = urlsplit(url).netloc.rpartition("@")[0]
    username, _, password = first.partition(":")
    found: dict[str, Any] = {"ssl": True} if url.startswith("rediss") else {}
    if username:
        found["username"] = unquote(username)
    if password:
        found["password"] = unquote(password)
    return found


async def _check_version(store: Store, shown: str) -> None:
    info = await cast(Any, store.commands.info("server", **store.anywhere))
    if "valkey_version" in info:
        name, version, least = "Valkey", str(info["valkey_version"]), (8, 0)
    else:
        name, version, least = "Redis", str(info["redis_version"]), (7, 2)
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if found < least:
        raise StartupError(f"the store at {shown} is {name} {version}; runlane needs Redis ≥ 7.2 or Valkey ≥ 8.0")


def _check_quoting(url: str, shown: str) -> None:
    """A password with one of these characters would end up in the names of hosts, and in what is said of them. (A path
    of a socket may have them, where there is no password.)"""
    before = url.partition("://")[2].rpartition("@")[0]
    if not before.startswith("/") and any(character in before for character in "/?#@"):
        raise StartupError(f"{shown!r}: a password's / ? # @ are written as %2F %3F %23 %40 in a store URL")
