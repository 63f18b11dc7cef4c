"""What Runqy's queue files say of a queue, in their own names. Runqy's parent queue is an endpoint here, and each of
its sub-queues a priority of that endpoint.

The forms are those of Runqy's documentation (its YAML, and the bodies of its management API).
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..durations import parse_duration

DEFAULT = "default"
"""The sub-queue that a name without a dot means."""

LOW = "low"
"""The sub-queue of RunPod's `lowPriority`, served last where it has no priority of its own."""

MOST_SUB_QUEUES = 100

MASK = "****"
"""What is shown of a token."""

# Behind `$`, which Python's `re` lets stand before a line break too, there has to be none.
SubQueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$(?!\n)")]
Priority = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]
Starvation = Annotated[float, Meta(ge=0, le=604_800)]

_SCHEME = "vault://"
_WHO = re.compile(r"(?i)^(https?://)[^/]+@|^(\w+://)[^/@:]*:[^/]*@")
"""In a URL, what may be a secret: for http also a name alone, which hosts of git take for a token."""

_REFERENCE = re.compile(r"vault://([A-Za-z0-9._-]+)/([A-Za-z_][A-Za-z0-9_]*)")


class SubQueue(msgspec.Struct, forbid_unknown_fields=True):
    """A priority of an endpoint; the higher number is served first. One that is not enabled takes nothing and serves
    nothing, and keeps what it has. `from_files`: it was made from a queue file, and is disabled when it is there no
    more."""

    name: SubQueueName
    priority: Priority
    enabled: bool = True
    from_files: bool = False


class Parameter(msgspec.Struct, forbid_unknown_fields=True):
    """A field of a queue's input or output. `type`: those of which a value has to be one. `default` is JSON."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    type: list[Literal["string", "bool", "int", "float", "array", "object"]]
    required: bool = True
    default: Any = None
    description: str = ""


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    """What is frozen for a job when it is queued; times as Go writes them (`90s`, `1h30m`), and 0 is no limit. What is
    missing is as the server's settings have it."""

    max_retry: Annotated[int, Meta(ge=0, le=1000)] | None = None
    ttl_completed: str | int | None = None
    ttl_archived: str | int | None = None
    pending_timeout: str | int | None = None
    active_timeout: str | int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError: a time that is none; of which msgspec makes its own error, with the place."""
        for name in ("ttl_completed", "ttl_archived", "pending_timeout", "active_timeout"):
            value = getattr(self, name)
            try:
                parse_duration(0 if value is None else value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None


class Deployment(msgspec.Struct, forbid_unknown_fields=True):
    """The task code of an endpoint: where it comes from, and how it is run. `git_token`: `vault://VAULT/KEY`, or the
    token itself."""

    git_url: Annotated[str, Meta(min_length=1, max_length=2000)]
    startup_cmd: Annotated[str, Meta(min_length=1, max_length=10_000)]
    branch: Annotated[str, Meta(min_length=1, max_length=500)] = "main"
    code_path: str = ""
    mode: Literal["long_running", "one_shot"] = "long_running"
    startup_timeout_secs: Seconds = 60
    redis_storage: bool = False
    requirements_file: str = ""
    vaults: list[str] = []
    git_token: str = ""
    limits: Limits = msgspec.field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises ValueError: a token that cannot be one."""
        if self.git_token.startswith(_SCHEME) and self.token_in_vault is None:
            raise ValueError("git_token: a token in a vault is vault://VAULT/KEY")
        if self.git_token == MASK:
            raise ValueError(f"git_token: {MASK} is how a token is shown; give the token itself, or vault://VAULT/KEY")
        if f"{MASK}@" in self.git_url:
            raise ValueError(f"git_url: {MASK} is how a token in it is shown; leave it out, and set git_token")

    @property
    def token_in_vault(self) -> tuple[str, str] | None:
        """The vault and the key in it that have the token; None when there is none, or it is given itself."""
        found = _REFERENCE.fullmatch(self.git_token)
        return (found[1], found[2]) if found else None

    @property
    def without_token(self) -> "Deployment":
        """As it may be shown."""
        shown = msgspec.structs.replace(self)
        if self.git_token and not self.token_in_vault:
            shown.git_token = MASK
        shown.git_url = _WHO.sub(rf"\1\2{MASK}@", self.git_url)
        return shown


class QueueConfig(msgspec.Struct, forbid_unknown_fields=True):
    """An endpoint as a queue. `autoscale` is kept and shown, for a fleet to come.

    Ours: `starvation_seconds` (a job that has waited for so long is served before those of higher priority; 0: never).
    """

    sub_queues: Annotated[list[SubQueue], Meta(min_length=1, max_length=MOST_SUB_QUEUES)] = msgspec.field(
        default_factory=lambda: [SubQueue(DEFAULT, 1)]
    )
    description: str = ""
    input: list[Parameter] = []
    output: list[Parameter] = []
    deployment: Deployment | None = None
    autoscale: dict[str, Any] | None = None
    starvation_seconds: Starvation = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError: two sub-queues of one name."""
        check_once(each.name for each in self.sub_queues)

    @property
    def vaults(self) -> set[str]:
        """The vaults whose values, or one of them, its workers get."""
        if self.deployment is None:
            return set()
        reference = self.deployment.token_in_vault
        return {*self.deployment.vaults, *(reference[:1] if reference else ())}

    def switched(self, names: Iterable[str], enabled: bool) -> "QueueConfig":
        """With these sub-queues enabled, or not."""
        chosen = set(names)
        return msgspec.structs.replace(
            self,
            sub_queues=[
                msgspec.structs.replace(each, enabled=enabled) if each.name in chosen else each
                for each in self.sub_queues
            ],
        )

    def find(self, name: str) -> SubQueue | None:
        """The sub-queue of that name, enabled or not."""
        return next((each for each in self.sub_queues if each.name == name), None)


def check_once(names: Iterable[str]) -> None:
    """Raises ValueError: two sub-queues of one name."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"sub-queue {name!r} is there twice")
        seen.add(name)


def queue_of(sub_queue: str) -> str:
    """What the engine calls the queue of a sub-queue. A name that is not one of the engine's own has a dot before it,
    so that there can be a sub-queue `normal`."""
    if sub_queue == DEFAULT:
        return "normal"
    return LOW if sub_queue == LOW else f".{sub_queue}"


def sub_queue_of(queue: str) -> str:
    """The sub-queue of a queue of the engine."""
    return DEFAULT if queue == "normal" else queue.removeprefix(".")


def order_of(sub_queues: list[SubQueue]) -> list[str]:
    """The engine's queues of an endpoint as they are served: by priority, and of equals as they are listed. Jobs that
    name no sub-queue, as RunPod's, have one in any case: `default` behind all that have a priority, and `low` last."""
    ranked = sorted(sub_queues, key=lambda each: -each.priority)
    names = [each.name for each in ranked]
    names += [name for name in (DEFAULT, LOW) if name not in names]
    return [queue_of(name) for name in names]
