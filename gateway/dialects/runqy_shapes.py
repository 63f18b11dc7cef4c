"""Tasks as Runqy's clients know them. Its documents and its server name some fields differently, and its client for
Python takes what the server sends: contracts of all three are kept by sending both."""

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson

from ..durations import format_duration
from ..engine.jobs import Payload, State, Task
from ..engine.keys import id_of
from ..engine.queue_config import sub_queue_of
from ..errors import NotFound
from ..http import Call

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which stands for none."""

_TASK_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_STATES = {State.IN_QUEUE: "pending", State.IN_PROGRESS: "active", State.COMPLETED: "completed"}
_ENDS = {State.CANCELLED: "the task was cancelled", State.TIMED_OUT: "the task's time was over"}


def name_of_queue(endpoint: str, queue: str) -> str:
    """PARENT.SUB_QUEUE, for an engine's queue of an endpoint."""
    return f"{id_of(endpoint)}.{sub_queue_of(queue)}"


def task_id(call: Call) -> str:
    """The id in the path.

    Raises:
        NotFound: it cannot be one.
    """
    id = call.parameters["task"]
    if not _TASK_ID.fullmatch(id):
        raise NotFound("task not found")
    return id


def state_of(state: State) -> str:
    """The state in Runqy's words, as far as it shows in ours."""
    return _STATES.get(state, "archived")


def added(id: str, queue: str, payload: Payload, data: bytes, state: str, max_retry: int, ready: int) -> bytes:
    """The answer to a request that has added a task.

    Args:
        id: the task's.
        queue: PARENT.SUB_QUEUE
        payload: what the worker gets; `data`: what was sent.
        state: Runqy's.
        max_retry: tries after the first one.
        ready: when it may begin, in ms since the epoch.
    """
    info = {
        "id": id, "type": queue, "payload": base64.b64encode(payload).decode(), "state": state, "queue": queue,
        "max_retry": max_retry, "retried": 0, "LastErr": "", "LastFailedAt": NEVER, "Deadline": NEVER, "Group": "",
        "NextProcessAt": rfc3339(ready), "IsOrphaned": False, "CompletedAt": NEVER, "Result": None,
    }  # fmt: skip
    return orjson.dumps({"info": info, "data": orjson.Fragment(data)})


def looked_up(task: Task, endpoint: str, max_retry: int) -> bytes:
    """The answer to a request for one task: `info` is the documents', with JSON as it is; `Info` is the server's, with
    JSON as text, which is never taken for anything else."""
    queue, error = name_of_queue(endpoint, task.queue), error_of(task)
    common = {
        "id": task.job.id, "type": queue, "queue": queue, "state": task.state, "max_retry": max_retry,
        "retried": retried(task),
    }  # fmt: skip
    completed = task.job.finished if task.state == "completed" else None
    info = common | {
        "payload": _fragment(task.payload), "last_err": error or None, "last_failed_at": _or(rfc3339, task.failed_at),
        "next_process_at": _or(rfc3339, task.next_at), "completed_at": _or(rfc3339, completed),
        "timeout": format_duration(task.timeout), "result": _fragment(task.job.output),
    }  # fmt: skip
    of_server = common | {
        "payload": _text(task.payload) or "", "LastErr": error, "LastFailedAt": _or(rfc3339, task.failed_at) or NEVER,
        "Deadline": NEVER, "Group": "", "NextProcessAt": _or(rfc3339, task.next_at) or NEVER, "IsOrphaned": False,
        "CompletedAt": _or(rfc3339, completed) or NEVER, "Result": _text(task.job.output),
    }  # fmt: skip
    return orjson.dumps({"info": info, "Info": of_server})


def task_object(task: Task, endpoint: str, max_retry: int) -> dict[str, Any]:
    """A task as the management API shows it; times are UTC."""
    queue = name_of_queue(endpoint, task.queue)
    shown: dict[str, Any] = {
        "id": task.job.id, "type": queue, "queue": queue, "state": task.state, "payload": _text(task.payload) or "",
        "max_retry": max_retry, "retried": retried(task), "timeout": format_duration(task.timeout),
    }  # fmt: skip
    further = {
        "last_err": error_of(task) or None,
        "next_process_at": _or(_plain, task.next_at),
        "completed_at": _or(_plain, task.job.finished),
        "result": _text(task.job.output),
    }
    return shown | {name: value for name, value in further.items() if value is not None}


def error_of(task: Task) -> str:
    """What went wrong last; empty when nothing did."""
    if task.state == "completed":
        return ""
    return task.job.error or task.last_error or _ENDS.get(task.job.state, "")


def max_retry(task: Task, attempts: int) -> int:
    """Tries of a task after the first one: its own, or those of an endpoint with so many `attempts`, if it came as one
    of RunPod's jobs."""
    return (task.policy.tries if task.policy is not None else attempts) - 1


def retried(task: Task) -> int:
    """How often it was tried again, with the time for which it waits now."""
    is_between = task.state in ("retry", "pending", "scheduled")
    return task.tries if is_between else max(0, task.tries - 1)


def rfc3339(ms: int) -> str:
    """A time in ms since the epoch, as Go and JSON have it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _or(shown: Callable[[int], str], ms: int | None) -> str | None:
    return None if ms is None else shown(ms)


def _fragment(value: bytes | None) -> orjson.Fragment | None:
    return None if value is None else orjson.Fragment(value)


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")
