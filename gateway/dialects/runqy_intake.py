"""Tasks as they are taken into a queue: checked by its schema, and with what is frozen for them."""

import hashlib

from ..engine.ids import new_id
from ..engine.jobs import Submission
from ..http import Call
from ..job_policy import TTL_MS, JobPolicies
from ..queues import Queue
from ..schemas import Schema
from .runqy_bodies import Item


class Intake:
    """What a request may put into a queue, by the queue's settings as they were found."""

    def __init__(self, call: Call, queue: Queue, policies: JobPolicies) -> None:
        config = queue.endpoint.config.queue
        self._call = call
        self._queue = queue
        self._schema = Schema(config.input)
        self._terms = policies.of(config.deployment)

    @property
    def max_retry(self) -> int:
        """Tries of a task after the first one."""
        return self._terms.policy.tries - 1

    def submission(self, item: Item, seconds: int = 0) -> Submission:
        """The job that a task becomes.

        Args:
            item: the task.
            seconds: the timeout of tasks that have none of their own; 0 for the queue's.

        Raises:
            BadRequest: it is not as the queue's schema has it, or its time is too far away.
        """
        payload = self._schema.apply(bytes(item.data))
        delay = item.delay_ms
        return Submission(
            id=new_id(self._queue.endpoint.name),
            input=payload,
            timeout=self._terms.timeout_of(seconds if item.timeout is None else item.timeout),
            ttl=TTL_MS + delay,
            retention=self._terms.retention,
            share=self._call.key.id,
            weight=self._call.key.terms.weight,
            queue=self._queue.queue,
            policy=self._terms.policy,
            delay=delay,
            unique=self._unique(item, payload) if item.unique else "",
            stamp=self._queue.endpoint.stamp,
        )

    def _unique(self, item: Item, payload: bytes) -> str:
        """No key that a client names is one that stands for a payload."""
        if isinstance(item.unique, str):
            return hashlib.sha256(b"key\0" + item.unique.encode()).hexdigest()
        return hashlib.sha256(b"payload\0" + self._queue.sub_queue.encode() + b"\0" + payload).hexdigest()
