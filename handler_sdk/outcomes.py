"""How a run of the handler ended."""

import json
import os
import socket
import traceback
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from . import __version__
from .encoding import NotJsonError, to_json

State = Literal["COMPLETED", "FAILED", "RETRY", "STOPPED"]
Field = Literal["output", "error", ""]

# Beyond this an error text is cut: it is for people.
ERROR_LIMIT = 262144


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, as JSON."""

    output: int = 20 * 1024 * 1024
    chunk: int = 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """`field` is what `value` is; '' means that the job ends without output. `refresh` asks for a fresh process.

    RETRY: the attempt failed, and the job is tried again by its policy. STOPPED: it is nobody's concern any more.
    """

    state: State
    field: Field = ""
    value: bytes = b""
    refresh: bool = False

    @property
    def summary(self) -> str:
        """For people."""
        return f"{self.state}: {self.value[:200].decode(errors='replace')}" if self.field == "error" else self.state


class HandlerFailure(Exception):
    """The handler said that the job failed, or gave something that cannot be taken. The text is the job's error."""


def output_of(value: Any, limit: int) -> bytes:
    """The output's JSON. Raises HandlerFailure when it is not JSON or larger than `limit` bytes."""
    try:
        encoded = to_json(value)
    except NotJsonError as error:
        raise HandlerFailure(f"the handler's output is not JSON: {error}") from None
    check_size(len(encoded), limit)
    return encoded


def check_size(size: int, limit: int) -> None:
    if size > limit:
        raise HandlerFailure(f"the handler's output has {size} bytes; the limit is {limit} bytes")


def error_text(error: Any) -> str:
    """What a handler gave as an error, as text: itself when it is a string, else its JSON."""
    if isinstance(error, str):
        return error
    try:
        return to_json(error).decode()
    except NotJsonError:
        return str(error)


def describe_exception(error: BaseException, worker: str) -> str:
    """The error of a job whose handler raised, as JSON, in the fields that RunPod's SDK gives it."""
    return json.dumps(
        {
            "error_type": str(type(error)),
            "error_message": _shorten(str(error)),
            "error_traceback": _shorten("".join(traceback.format_exception(type(error), error, authors_part(error)))),
            "hostname": os.environ.get("RUNPOD_POD_HOSTNAME") or socket.gethostname(),
            "worker_id": worker,
            "runlane_version": __version__,
        }
    )


def _shorten(text: str) -> str:
    if len(text) <= ERROR_LIMIT // 8:
        return text
    return f"{text[: ERROR_LIMIT // 16]}\n…\n{text[-ERROR_LIMIT // 16 :]}"


def authors_part(error: BaseException) -> TracebackType | None:
    """The traceback without the frames of this package that lead to the handler."""
    ours = os.path.dirname(os.path.abspath(__file__))
    part = error.__traceback__
    while part is not None and os.path.dirname(part.tb_frame.f_code.co_filename) == ours:
        part = part.tb_next
    return part or error.__traceback__


def failed(text: str, refresh: bool = False, state: State = "FAILED") -> Outcome:
    value = text.encode(errors="backslashreplace")
    if len(value) > ERROR_LIMIT:
        kept = value[:ERROR_LIMIT].decode(errors="ignore")
        value = f"{kept}… ({len(value)} bytes in all)".encode()
    return Outcome(state, "error", value, refresh)
