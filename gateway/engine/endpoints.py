"""Endpoints: what is set for each, and how they come to be and go."""

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from ..errors import BadRequest, Conflict, NotFound
from ..store import Store
from . import keys
from .batching import Batcher
from .ids import mark_in, mark_of
from .queue_config import QueueConfig, order_of, queue_of

ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
"""An endpoint's id: 1 to 63 letters, digits, '-' or '_', neither first nor last of the two."""

Id = Annotated[str, Meta(extra_json_schema={"pattern": f"^{ID.pattern}$"})]
"""The same for the documentation; `check_id` says it in words."""

MOST_TENANTS = 10_000
"""Of so many tenants it is remembered which endpoints there are."""

TRIES = 20
SECONDS_BEFORE_NEXT_TRY = 0.1
"""A change that others are faster than is tried again, so often and after so long at most."""

LARGEST_WHOLE = 9_007_199_254_740_991
"""What JSON's readers and the store's functions both keep exactly."""

Positive = Annotated[int, Meta(ge=1, le=LARGEST_WHOLE)]
NotNegative = Annotated[int, Meta(ge=0, le=LARGEST_WHOLE)]


class Config(msgspec.Struct, omit_defaults=False, forbid_unknown_fields=True, rename="camel"):
    """What a client may set, in the names of RunPod's REST API v1. Fields that need a fleet are kept and shown.

    Ours: `attempts` (executions of one job at most), `leaseSeconds` (a worker silent for longer loses its jobs),
    `retryDelaySeconds` (before a job whose worker was lost is tried again), `maxQueued` (jobs that may wait; more are
    refused; 0: as many as there is memory for), `fair` (jobs of several keys begin in turn, by the keys' weights),
    `webhook` (the address that is told of the ends of jobs that name none) and `queue` (the endpoint as one of Runqy's
    queues, in Runqy's names).
    """

    name: str = ""
    template_id: str | None = None
    compute_type: Literal["GPU", "CPU"] = "GPU"
    gpu_count: Positive = 1
    gpu_type_ids: list[str] = []
    cpu_flavor_ids: list[str] = []
    vcpu_count: Positive | None = None
    data_center_ids: list[str] = []
    allowed_cuda_versions: list[str] = []
    network_volume_id: str | None = None
    env: dict[str, str] = {}
    workers_min: NotNegative = 0
    workers_max: NotNegative = 3
    idle_timeout: Annotated[int, Meta(ge=1, le=3600)] = 5
    scaler_type: Literal["QUEUE_DELAY", "REQUEST_COUNT"] = "QUEUE_DELAY"
    scaler_value: Positive = 4
    execution_timeout_ms: Annotated[int, Meta(ge=5_000, le=604_800_000)] = 600_000
    flashboot: bool = False
    attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    lease_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    retry_delay_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    max_queued: NotNegative = 0
    fair: bool = False
    webhook: Annotated[str, Meta(extra_json_schema={"format": "uri"})] | None = None
    queue: QueueConfig = msgspec.field(default_factory=QueueConfig)


class Endpoint(msgspec.Struct):
    """An endpoint as it is stored. `name` is what the engine calls it, `created` and `updated` (when its settings were
    changed last) are in ms since the epoch."""

    name: str
    config: Config
    version: int
    created: int
    updated: int

    @property
    def id(self) -> str:
        """What its tenant calls it."""
        return keys.id_of(self.name)

    @property
    def stamp(self) -> str:
        """What tells its settings from those of before, and from those of another endpoint of the same name."""
        return f"{self.version}.{self.created}"

    @property
    def lease_ms(self) -> int:
        """How long a worker may be silent before its jobs are given to others."""
        return round(self.config.lease_seconds * 1000)


class Endpoints:
    """The endpoints in the store."""

    def __init__(self, store: Store, batcher: Batcher) -> None:
        self._store = store
        self._batcher = batcher
        self._marks: dict[str, dict[str, str]] = {}

    async def create(self, name: str, config: Config) -> Endpoint:
        """Makes an endpoint.

        Raises:
            BadRequest: the id cannot be one.
            Conflict: the tenant has one with this id.
        """
        id = check_id(keys.id_of(name))
        # In the sets first: a name in a set without an endpoint is harmless, an endpoint that upkeep misses is not.
        await cast(Any, self._store.commands.sadd(keys.ENDPOINTS, name))
        await cast(Any, self._store.commands.sadd(keys.endpoints_of(keys.tenant_of(name)), id))
        at = round(time.time() * 1000)
        reply = await self._configure(name, "", config, at, "created", at)
        if reply == b"EXISTS":
            raise Conflict(f"there is an endpoint {id} already, or one that is not wholly deleted yet")
        return await self.get(name)

    async def get(self, name: str) -> Endpoint:
        """One endpoint.

        Raises:
            NotFound: there is none with this name.
        """
        id = keys.id_of(name)
        found = await self._batcher.call(keys.base(name), "settings") if ID.fullmatch(id) else []
        if not found:
            raise NotFound(f"no endpoint {id[:80]}")
        fields = dict(zip(found[::2], found[1::2], strict=True))
        return Endpoint(
            name,
            msgspec.json.decode(fields[b"config"], type=Config),
            int(fields[b"version"]),
            int(fields[b"created"]),
            int(fields[b"updated"] if b"updated" in fields else fields[b"created"]),
        )

    async def ids(self, tenant: str) -> "list[str]":
        """The ids of all endpoints of a tenant, sorted; some may be just being made or deleted."""
        return sorted(id.decode() for id in await cast(Any, self._store.commands.smembers(keys.endpoints_of(tenant))))

    async def list(self, tenant: str) -> "list[Endpoint]":
        """All endpoints of a tenant, by id."""
        found = []
        for id in await self.ids(tenant):
            try:
                found.append(await self.get(keys.name_of(tenant, id)))
            except NotFound:
                continue  # just being made or deleted
        return found

    async def of_job(self, tenant: str, job: str) -> str:
        """The name of the endpoint of a tenant that made this id for a job of its own.

        Raises:
            NotFound: there is none.
        """
        marks = self._marks.get(tenant, {})
        mark = mark_in(job)
        if mark not in marks:
            ids = await cast(Any, self._store.commands.smembers(keys.endpoints_of(tenant)))
            names = [keys.name_of(tenant, id.decode()) for id in ids]
            if len(self._marks) >= MOST_TENANTS:
                self._marks.clear()
            marks = self._marks[tenant] = {mark_of(name): name for name in names}
        try:
            return marks[mark]
        except KeyError:
            raise NotFound(f"no job {job[:80]}") from None

    async def update(self, name: str, changes: dict[str, Any]) -> Endpoint:
        """Changes some fields.

        Raises:
            BadRequest: an unknown field, or a value of a wrong type or out of its range.
            NotFound: no such endpoint.
            Conflict: someone else changed it at the same time.
        """
        endpoint = await self.get(name)
        config = parse_config(msgspec.to_builtins(endpoint.config) | changes)
        if not await self._replace(endpoint, config):
            raise _changed_meanwhile(endpoint.id)
        return await self.get(name)

    async def put(self, name: str, make: Callable[[Config | None], Config]) -> Endpoint:
        """Makes or changes an endpoint. Nothing is written when nothing differs.

        Args:
            name: what the engine calls it.
            make: makes its settings of those that there are, which it leaves as they are; None: there is no such
                endpoint. It is called again when someone else was faster, and what it raises is raised here.

        Raises:
            BadRequest: the id cannot be one, or the settings are not what they may be.
            Conflict: someone else was faster each time.
        """
        for _ in range(TRIES):
            try:
                before = await self.get(name)
            except NotFound:
                config = _checked(make(None))
                with contextlib.suppress(Conflict):
                    return await self.create(name, config)
            else:
                config = _checked(make(before.config))
                if config == before.config:
                    return before
                with contextlib.suppress(NotFound):
                    if await self._replace(before, config):
                        return await self.get(name)
            await asyncio.sleep(random.uniform(0, SECONDS_BEFORE_NEXT_TRY))  # noqa: S311
        raise _changed_meanwhile(keys.id_of(name))

    async def delete(self, name: str) -> None:
        """Deletes the endpoint; waiting and running jobs are cancelled.

        Raises:
            NotFound: no such endpoint.
        """
        done, id = -1, keys.id_of(name)
        if ID.fullmatch(id):
            # What another gateway began and did not finish can be finished here.
            while not (done := await self._batcher.call(keys.base(name), "remove", 500)):
                pass
        if done < 0:
            raise NotFound(f"no endpoint {id[:80]}")
        await cast(Any, self._store.commands.srem(keys.ENDPOINTS, name))
        await cast(Any, self._store.commands.srem(keys.endpoints_of(keys.tenant_of(name)), id))

    async def _replace(self, before: Endpoint, config: Config) -> bool:
        """Returns whether nobody else had changed it meanwhile."""
        reply = await self._configure(before.name, str(before.version), config, round(time.time() * 1000))
        if reply == b"NO_ENDPOINT":
            raise NotFound(f"no endpoint {before.id}")
        return bool(reply == b"OK")

    async def _configure(self, name: str, version: str, config: Config, at: int, *more: str | int) -> Any:
        return await self._batcher.call(
            keys.base(name), "configure", version,
            "config", msgspec.json.encode(config),
            "timeout_ms", config.execution_timeout_ms,
            "attempts", config.attempts,
            "lease_ms", round(config.lease_seconds * 1000),
            "retry_delay_ms", round(config.retry_delay_seconds * 1000),
            "max_queued", config.max_queued,
            "fair", int(config.fair),
            "webhook", config.webhook or "",
            "queues", " ".join(order_of(config.queue.sub_queues)),
            "closed", " ".join(queue_of(each.name) for each in config.queue.sub_queues if not each.enabled),
            "starvation_ms", round(config.queue.starvation_seconds * 1000),
            "updated", at,
            *more,
        )  # fmt: skip


def _checked(config: Config) -> Config:
    """What could not be read again is not written."""
    return parse_config(msgspec.to_builtins(config))


def _changed_meanwhile(id: str) -> Conflict:
    return Conflict(f"endpoint {id} was changed by someone else at the same time; try again")


def check_id(id: str) -> str:
    """Returns what can be the id of an endpoint.

    Raises:
        BadRequest: it cannot.
    """
    if not ID.fullmatch(id):
        raise BadRequest(f"an endpoint's id is 1 to 63 letters, digits, '-' or '_'; {id[:80]!r} is not")
    return id


def parse_config(fields: dict[str, Any]) -> Config:
    """Checks the fields.

    Raises:
        BadRequest: names the field and what is wrong with it.
    """
    try:
        return msgspec.convert(fields, Config)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None
