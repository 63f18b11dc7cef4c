"""Tasks as they are taken into a queue: checked by its schema, and with what is frozen for them."""

import hashlib
from collections.abc import Sequence

import msgspec

from ..engine.ids import beginning_of_id
from ..engine.jobs import Alike, Submission
from ..errors import ClientError
from ..http import Call
from ..job_policy import TTL_MS, JobPolicies
from ..queues import Queue
from ..schemas import Schema
from .runqy_bodies import Item, parse_item


class Intake:
    """What a request may put into a queue, by the queue's settings as they were found."""

    def __init__(self, call: Call, queue: Queue, policies: JobPolicies) -> None:
        config = queue.endpoint.config.queue
        self._call = call
        self._queue = queue
        self._schema = Schema(config.input)
        self._terms = policies.of(config.deployment)
        # What Runqy's workers tell a task of itself.
        self._request = msgspec.json.encode({"queue": queue.name, "max_retry": self.max_retry})

    @property
    def max_retry(self) -> int:
        """Tries of a task after the first one."""
        return self._terms.policy.tries - 1

    def submission(self, item: Item) -> Submission:
        """The job that a task becomes.

        Raises:
            BadRequest: it is not as the queue's schema has it, or its time is too far away.
        """
        payload = self._schema.apply(bytes(item.data))
        return self._like(*self._own(item, 0, payload), payload)

    def groups(self, jobs: Sequence[msgspec.Raw], seconds: int) -> tuple[list[Alike], dict[int, ClientError]]:
        """The jobs that tasks become, in their order: of neighbours most have all but their payloads in common.

        Args:
            jobs: the tasks, as `parse_item` reads them.
            seconds: the timeout of tasks that have none of their own; 0 for the queue's.

        Returns:
            The jobs, and what is wrong with those tasks that become none, by their places.
        """
        groups: list[Alike] = []
        faults: dict[int, ClientError] = {}
        before: tuple[int, int, str] | None = None
        for place, job in enumerate(jobs):
            try:
                item = parse_item(job)
                payload = self._schema.apply(bytes(item.data))
                own = self._own(item, seconds, payload)
            except ClientError as error:
                faults[place] = error
                continue
            if own != before:
                gathered: list[bytes] = []
                groups.append(Alike(self._like(*own), gathered))
                before = own
            gathered.append(payload)
        return groups, faults

    def _own(self, item: Item, seconds: int, payload: bytes) -> tuple[int, int, str]:
        """The timeout and delay of a task, in ms, and its unique key."""
        timeout = self._terms.timeout_of(seconds if item.timeout is None else item.timeout)
        return timeout, item.delay_ms, self._unique(item, payload) if item.unique else ""

    def _like(self, timeout: int, delay: int, unique: str, payload: bytes = b"") -> Submission:
        return Submission(
            id=beginning_of_id(self._queue.endpoint.name),
            input=payload,
            request=self._request,
            timeout=timeout,
            ttl=TTL_MS + delay,
            retention=self._terms.retention,
            share=self._call.key.id,
            weight=self._call.key.terms.weight,
            queue=self._queue.queue,
            policy=self._terms.policy,
            delay=delay,
            unique=unique,
            stamp=self._queue.endpoint.stamp,
        )

    def _unique(self, item: Item, payload: bytes) -> str:
        """No key that a client names is one that stands for a payload."""
        if isinstance(item.unique, str):
            return hashlib.sha256(b"key\0" + item.unique.encode()).hexdigest()
        return hashlib.sha256(b"payload\0" + self._queue.sub_queue.encode() + b"\0" + payload).hexdigest()
