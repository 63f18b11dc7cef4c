"""Errors in OpenAI's shape, {"error": {"message", "type", "param", "code"}}: https://platform.openai.com/docs/guides/error-codes"""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import orjson

from ..described import telling
from ..engine.engine import Job, State
from ..errors import Error
from ..http import Reply

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 504: "timeout"}

_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "timeout": 504,
}

DO_NOT_RETRY = {"x-should-retry": "false"}
"""OpenAI's clients obey this header: https://github.com/openai/openai-python, `_should_retry`."""


UNEXPLAINED = "the worker failed and did not say why"


class JobError(Error):
    """The job ended in an error. `fields`: "type", "param" and "code", as far as the handler gave them."""

    def __init__(
        self, message: str, status: int = 500, fields: Mapping[str, Any] = {}, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message, headers)
        self.status = status
        self.fields = fields


def body_of(error: Error) -> bytes:
    """The error as OpenAI's clients know it."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    fields = {"message": error.message, "type": kind, "param": None, "code": None}
    if isinstance(error, JobError):
        fields.update(error.fields)
    return orjson.dumps({"error": fields})


class OpenAIErrorDetails(msgspec.Struct):
    """What went wrong."""

    message: str
    type: str | int
    param: str | int | None
    code: str | int | None


class OpenAIError(msgspec.Struct):
    """An error as OpenAI has them."""

    error: OpenAIErrorDetails


@telling(OpenAIError)
def error_reply(error: Error) -> Reply:
    """The whole answer that tells of it."""
    return Reply(body_of(error), error.status, error.headers)


def error_of_job(job: Job) -> Error:
    """Why a job that is not COMPLETED has no answer."""
    if job.state is State.FAILED:
        return _error_of_text(job.error or "")
    if job.state is State.TIMED_OUT:
        return JobError("the job has run for longer than its execution timeout", 504, {"type": "timeout"}, DO_NOT_RETRY)
    # By someone who would not want to see it again.
    return JobError("the job was cancelled", 503, headers=DO_NOT_RETRY)


def error_in(value: bytes) -> JobError | None:
    """The error that a handler gave instead of an answer; None when it is an answer. Of the answers, a response of the
    Responses API has a field "error" too."""
    fields = _parse(value) if b'"error"' in value else None
    if not isinstance(fields, dict) or "id" in fields:
        return None
    if fields.get("object") == "error":  # as vLLM once wrote it
        return _error_of(fields)
    return _error_of(fields["error"]) if fields.get("error") else None


def _error_of_text(text: str) -> JobError:
    """The error of a FAILED job: what a handler gave as "error", an exception as SDKs describe it, or plain text."""
    found = _parse(text.encode())
    if isinstance(found, dict) and "error_message" in found:
        return _error_of(found["error_message"] or found.get("error_type"))
    if isinstance(found, dict):
        return _error_of(found.get("error") or found)
    return _error_of(found if isinstance(found, str) else text)


def _error_of(given: Any) -> JobError:
    if not isinstance(given, dict):
        return JobError(str(given or UNEXPLAINED))
    text = given.get("message") or (json.dumps(given, ensure_ascii=False) if given else UNEXPLAINED)
    after = str(given.get("retry_after") or "")
    headers = {"Retry-After": after} if after.isascii() and after.isdigit() and len(after) < 6 else None
    fields = {name: given[name] for name in ("type", "param", "code") if isinstance(given.get(name), str | int)}
    return JobError(str(text), _status_of(given), fields, headers)


def _status_of(given: dict[str, Any]) -> int:
    for name in ("status", "status_code", "code"):
        value = given.get(name)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) == 3:
            value = int(value)
        if type(value) is int and 400 <= value <= 599:
            return value
    kind = given.get("type")
    return _STATUSES.get(kind, 500) if isinstance(kind, str) else 500


def _parse(value: bytes) -> Any:
    """The value, or None when it is not JSON."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None
