"""What is frozen for one of Runqy's jobs when it is queued: how often it is tried, and its times."""

from typing import NamedTuple

from .durations import parse_duration
from .engine.jobs import Policy
from .engine.queue_config import Deployment, Limits
from .settings import Settings

TTL_MS = 30 * 86_400_000
"""A job that is not final by then is forgotten, and none is kept for longer; so long Runqy knows a task's id."""

LONGEST_TIMEOUT_MS = 604_800_000
"""Where there is no limit: RunPod's longest."""

BACKOFF_MS = 10_000


class JobPolicy(NamedTuple):
    """What a queue's jobs are queued with. `retention` (of a job that is COMPLETED) and `timeout` are in ms."""

    policy: Policy
    retention: int
    timeout: int

    def timeout_of(self, seconds: int) -> int:
        """The execution timeout in ms of a job whose request names one, or 0 or less for none."""
        return min(seconds * 1000, TTL_MS) if seconds > 0 else self.timeout


class JobPolicies:
    """What queues that say nothing of their own have from the settings."""

    def __init__(self, settings: Settings) -> None:
        self._retries = settings.runqy_default_max_retry
        self._limits = {
            name: parse_duration(getattr(settings, f"runqy_default_{name}"))
            for name in ("ttl_completed", "ttl_archived", "pending_timeout", "active_timeout")
        }

    def of(self, deployment: Deployment | None) -> JobPolicy:
        """What holds for the jobs of an endpoint. One that was made without a deployment keeps outputs: its clients
        have no other way to them."""
        limits = deployment.limits if deployment is not None else Limits()
        policy = Policy(
            tries=(self._retries if limits.max_retry is None else limits.max_retry) + 1,
            backoff=BACKOFF_MS,
            pending=self._ms("pending_timeout", limits),
            failed_retention=self._kept("ttl_archived", limits),
            keep_output=deployment is None or deployment.redis_storage,
        )
        timeout = min(self._ms("active_timeout", limits), TTL_MS) or LONGEST_TIMEOUT_MS
        return JobPolicy(policy, self._kept("ttl_completed", limits), timeout)

    def _kept(self, name: str, limits: Limits) -> int:
        """How long what has ended is kept."""
        return min(self._ms(name, limits), TTL_MS) or TTL_MS

    def _ms(self, name: str, limits: Limits) -> int:
        given = getattr(limits, name)
        return self._limits[name] if given is None else parse_duration(given)
