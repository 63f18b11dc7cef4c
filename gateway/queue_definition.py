"""A queue as Runqy's files and its management API write it, and what becomes of an endpoint's settings by it."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from .engine.queue_config import (
    DEFAULT,
    MOST_SUB_QUEUES,
    Deployment,
    Parameter,
    Priority,
    QueueConfig,
    Starvation,
    SubQueue,
    SubQueueName,
    check_once,
)


class ListedSubQueue(msgspec.Struct, forbid_unknown_fields=True):
    """A sub-queue and its priority."""

    name: SubQueueName
    priority: Priority


class QueueDefinition(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is written of a queue; None is what is not said. Either its `sub_queues` have priorities or, when there are
    none, it has one itself. `mode` and `requirements_file` may stand beside the deployment too, and count more there:
    Runqy's documents have them there, and its code reads them in it.
    """

    priority: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    sub_queues: Annotated[list[ListedSubQueue], Meta(max_length=MOST_SUB_QUEUES)] = []
    description: str | None = None
    input: list[Parameter] | None = None
    output: list[Parameter] | None = None
    deployment: Deployment | None = None
    mode: Literal["long_running", "one_shot"] | None = None
    requirements_file: str | None = None
    autoscale: dict[str, Any] | None = None
    starvation_seconds: Starvation | None = None

    def __post_init__(self) -> None:
        """Raises ValueError: what msgspec makes its own error of."""
        check_once(each.name for each in self.sub_queues)
        if not self.sub_queues and not self.priority:
            raise ValueError("priority is required, from 1 on, where no sub_queues have theirs")
        beside = {
            name: value
            for name, value in (("mode", self.mode), ("requirements_file", self.requirements_file))
            if value is not None
        }
        if beside and self.deployment is None:
            raise ValueError(f"{' and '.join(beside)} without a deployment")
        if beside and self.deployment is not None:
            self.deployment = msgspec.structs.replace(self.deployment, **beside)

    def names(self, sub_queue: str = DEFAULT) -> list[str]:
        """Its sub-queues. `sub_queue`: which one it is when it lists none."""
        return [each.name for each in self.sub_queues] or [sub_queue]

    def over(self, before: QueueConfig | None, sub_queue: str = DEFAULT, from_files: bool = False) -> QueueConfig:
        """The settings of a queue, all of whose sub-queues that are named here are enabled from now on.

        Args:
            before: what they were; None when there is no such queue. Sub-queues that are not named here stay as they
                are, and so does whatever else is not said, unless this comes from a file.
            sub_queue: which one it is when it lists none.
            from_files: it stands in a queue file, which says all that there is to say but for other sub-queues.
        """
        listed = self.sub_queues or [ListedSubQueue(sub_queue, self.priority)]
        named = {each.name for each in listed}
        others = [each for each in before.sub_queues if each.name not in named] if before else []
        said = {
            name: value
            for name in ("description", "input", "output", "deployment", "autoscale", "starvation_seconds")
            if (value := getattr(self, name)) is not None
        }
        return msgspec.structs.replace(
            QueueConfig() if before is None or from_files else before,
            sub_queues=[SubQueue(each.name, each.priority, from_files=from_files) for each in listed] + others,
            **said,
        )
