"""What Runqy's clients and workers get."""

import msgspec
from msgspec import UNSET, UnsetType

from ..engine.queue_config import QueueConfig


class Message(msgspec.Struct):
    """What was done, in words."""

    message: str


class VaultSummary(msgspec.Struct):
    """A vault in a list."""

    name: str
    description: str
    entry_count: int


class VaultList(msgspec.Struct):
    """The tenant's vaults."""

    vaults: list[VaultSummary]
    count: int


class VaultName(msgspec.Struct):
    """A vault that was made."""

    name: str
    description: str


class MadeVault(Message):
    """The same, and in words."""

    vault: VaultName


class VaultEntry(msgspec.Struct):
    """An entry; the value is masked when it is secret. Times are as RFC 3339 has them."""

    key: str
    value: str
    is_secret: bool
    created_at: str
    updated_at: str


class VaultEntries(msgspec.Struct):
    """The entries of a vault, by their names."""

    entries: list[VaultEntry]
    count: int


class VaultObject(msgspec.Struct):
    """A vault with its entries."""

    name: str
    description: str
    entries: list[VaultEntry]
    created_at: str
    updated_at: str


class RotatedVaults(msgspec.Struct):
    """What a rotation came to, in entries."""

    rotated: int
    unchanged: int


class QueueSummary(msgspec.Struct):
    """A queue in a list. `enabled` is there when deleted ones are."""

    name: str
    priority: int
    enabled: bool | UnsetType = UNSET


class QueueList(msgspec.Struct):
    """Queues, by endpoint and by priority."""

    queues: list[QueueSummary]
    count: int


class QueueObject(QueueConfig, kw_only=True):
    """A queue: its name and priority, and what is set for its endpoint. Times are in s since the epoch."""

    name: str
    priority: int
    created_at: int
    updated_at: int


class MadeQueue(Message):
    """The same, and in words."""

    queue: QueueObject


class ChangedQueues(Message):
    """The queues that were switched."""

    queues: list[str]


class Reloaded(msgspec.Struct):
    """The queues that are as the files say, what went wrong, and the queues that are in them no more; s since the
    epoch."""

    reloaded: list[str]
    errors: list[str]
    removed: list[str]
    timestamp: int


class StoreAddress(msgspec.Struct):
    """Where the store is. `password` stays empty."""

    addr: str
    password: str
    db: int
    use_tls: bool


class RegisteredQueue(msgspec.Struct):
    """The queue by the name that was asked for."""

    name: str
    priority: int
    mode: str


class RegisteredDeployment(msgspec.Struct, omit_defaults=True):
    """How its code is deployed; what is empty is left out."""

    git_url: str
    branch: str
    startup_cmd: str
    mode: str
    startup_timeout_secs: int
    redis_storage: bool
    code_path: str = ""
    requirements_file: str = ""
    vaults: list[str] = []


class RegisteredEndpoint(msgspec.Struct):
    """The endpoint whose jobs they are, and how long a worker of it may be silent."""

    endpoint: str
    lease_ms: int


class QueueRegistered(msgspec.Struct):
    """What a worker of a queue has to know. `vaults`: values of environment variables."""

    redis: StoreAddress
    queue: RegisteredQueue
    sub_queues: list[QueueSummary]
    deployment: RegisteredDeployment
    runlane: RegisteredEndpoint
    vaults: dict[str, str] | UnsetType = UNSET
    git_token: str | UnsetType = UNSET
