from typing import Any

import pytest

from gateway.engine.jobs import Policy
from gateway.engine.queue_config import Deployment, Limits
from gateway.errors import StartupError
from gateway.job_policy import LONGEST_TIMEOUT_MS, TTL_MS, JobPolicies
from gateway.settings import Settings, load

DAY_MS = 86_400_000


def deployment(redis_storage: bool = False, **limits: Any) -> Deployment:
    return Deployment(
        "https://git.example/code", "python main.py", redis_storage=redis_storage, limits=Limits(**limits)
    )


def test_what_the_settings_say_without_being_set() -> None:
    found = JobPolicies(Settings()).of(None)
    assert found.policy == Policy(tries=4, backoff=10_000, pending=0, failed_retention=3 * DAY_MS, keep_output=True)
    assert (found.retention, found.timeout) == (DAY_MS, LONGEST_TIMEOUT_MS)


def test_the_settings_are_those_of_runqy() -> None:
    found = JobPolicies(
        load(
            {
                "RUNQY_DEFAULT_MAX_RETRY": "1", "RUNQY_DEFAULT_TTL_COMPLETED": "1h", "RUNQY_DEFAULT_TTL_ARCHIVED": "2h",
                "RUNQY_DEFAULT_PENDING_TIMEOUT": "5m", "RUNQY_DEFAULT_ACTIVE_TIMEOUT": "1m30s",
            }
        )
    ).of(None)  # fmt: skip
    assert found.policy == Policy(
        tries=2, backoff=10_000, pending=300_000, failed_retention=7_200_000, keep_output=True
    )
    assert (found.retention, found.timeout) == (3_600_000, 90_000)


def test_the_limits_of_a_queue_count_more_than_the_settings() -> None:
    limits = {
        "max_retry": 0,
        "ttl_completed": "2h",
        "ttl_archived": "3h",
        "pending_timeout": "4s",
        "active_timeout": "5s",
    }
    found = JobPolicies(Settings()).of(deployment(**limits))
    assert found.policy == Policy(tries=1, backoff=10_000, pending=4000, failed_retention=10_800_000, keep_output=False)
    assert (found.retention, found.timeout) == (7_200_000, 5000)


def test_nothing_is_kept_for_ever_nor_runs_for_ever() -> None:
    limits: dict[str, Any] = {"ttl_completed": 0, "ttl_archived": "0", "active_timeout": "0s"}
    found = JobPolicies(Settings()).of(deployment(**limits))
    assert (found.retention, found.policy.failed_retention, found.timeout) == (TTL_MS, TTL_MS, LONGEST_TIMEOUT_MS)
    found = JobPolicies(Settings()).of(deployment(**dict.fromkeys(limits, "87600h")))
    assert (found.retention, found.policy.failed_retention, found.timeout) == (TTL_MS, TTL_MS, TTL_MS)


def test_outputs_are_kept_by_a_deployment_that_says_so() -> None:
    assert JobPolicies(Settings()).of(deployment(redis_storage=True)).policy.keep_output


@pytest.mark.parametrize(("seconds", "ms"), [(0, 90_000), (-5, 90_000), (5, 5000), (10**12, TTL_MS)])
def test_the_timeout_of_a_request(seconds: int, ms: int) -> None:
    assert JobPolicies(Settings()).of(deployment(active_timeout="90s")).timeout_of(seconds) == ms


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("RUNQY_DEFAULT_TTL_COMPLETED", "1d", "unknown unit"), ("RUNQY_DEFAULT_TTL_ARCHIVED", "72", "missing unit"),
     ("RUNQY_DEFAULT_PENDING_TIMEOUT", "-5s", "negative"), ("RUNQY_DEFAULT_ACTIVE_TIMEOUT", "soon", "invalid duration"),
     ("RUNQY_DEFAULT_MAX_RETRY", "-1", "must be 0"), ("RUNQY_DEFAULT_MAX_RETRY", "many", "int")],
)  # fmt: skip
def test_a_server_with_a_wrong_setting_does_not_start(variable: str, value: str, says: str) -> None:
    with pytest.raises(StartupError, match=variable) as raised:
        load({variable: value})
    assert says in str(raised.value)
