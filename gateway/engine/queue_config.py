"""What Runqy's queue files say of a queue, in their own names. Runqy's parent queue is an endpoint here, and each of
its sub-queues a priority of that endpoint.

The forms are those of Runqy's documentation (its YAML, and the bodies of its management API).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

DEFAULT = "default"
"""The sub-queue that a name without a dot means."""

LOW = "low"
"""The sub-queue of RunPod's `lowPriority`, served last where it has no priority of its own."""

SubQueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
Seconds = Annotated[int, Meta(ge=1, le=86_400)]


class SubQueue(msgspec.Struct, forbid_unknown_fields=True):
    """A priority of an endpoint; the higher number is served first. One that is not enabled takes nothing and serves
    nothing, and keeps what it has."""

    name: SubQueueName
    priority: Annotated[int, Meta(ge=1, le=1_000_000)]
    enabled: bool = True


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


class Deployment(msgspec.Struct, forbid_unknown_fields=True):
    """The task code of an endpoint: where it comes from, and how it is run."""

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


class QueueConfig(msgspec.Struct, forbid_unknown_fields=True):
    """An endpoint as a queue. `autoscale` is kept and shown, for a fleet to come.

    Ours: `starvation_seconds` (a job that has waited for so long is served before those of higher priority; 0: never)
    and `from_files` (it was made from a queue file, and goes when it is there no more).
    """

    sub_queues: list[SubQueue] = msgspec.field(default_factory=lambda: [SubQueue(DEFAULT, 1)])
    description: str = ""
    input: list[Parameter] = []
    output: list[Parameter] = []
    deployment: Deployment | None = None
    autoscale: dict[str, Any] | None = None
    starvation_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    from_files: bool = False

    def find(self, name: str) -> SubQueue | None:
        """The sub-queue of that name, enabled or not."""
        return next((each for each in self.sub_queues if each.name == name), None)


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
