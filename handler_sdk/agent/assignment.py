"""What the server says that an agent is to do: its answer to `POST /worker/register`."""

import json
import platform
import socket
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from .. import __version__
from ..links.http_connection import Answer, Request
from ..links.http_pool import Pool
from .configuration import Configuration
from .errors import NoServerError, RegistrationError

_SECONDS = 15.0

DEFAULT_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Assignment:
    """endpoint: the queue's, where its jobs are. queues: its sub-queues whose jobs alone are to be taken; none for all.
    startup_seconds: for the task to become ready. requirements: a file in the folder `code_path`. vaults: environment
    variables of the task's process, which are secret."""

    queue: str
    endpoint: str
    git_url: str = field(repr=False)  # may hold a password
    branch: str
    startup_command: str
    code_path: str = ""
    mode: Literal["long_running", "one_shot"] = "long_running"
    startup_seconds: float = 60.0
    requirements: str = DEFAULT_REQUIREMENTS
    vaults: dict[str, str] = field(default_factory=dict, repr=False)
    git_token: str = field(default="", repr=False)
    queues: tuple[str, ...] = ()


async def register(configuration: Configuration, queue: str, worker: str) -> Assignment:
    """Asks the server what to do for a queue, as the worker with this id.

    Raises:
        NoServerError: there is none, or it cannot register anybody now.
        RegistrationError: it refuses, or makes no sense.
    """
    body = {
        "queue": queue,
        "hostname": socket.gethostname(),
        "os": platform.system().lower(),
        "version": __version__,
        "worker_id": worker,
    }
    answer = await _post(configuration, "/worker/register", json.dumps(body).encode())
    if answer.status == 200:
        return read(answer.body, queue)
    text = f"{configuration.server} answers {answer.status}: {_error_in(answer.body)}"
    if answer.status in (408, 429) or answer.status >= 500:
        raise NoServerError(text)
    if answer.status == 401:
        text += "; set RUNLANE_WORKER_KEY or --key to the endpoint's worker key"
    raise RegistrationError(f"queue {queue} cannot be worked for: {text}")


def read(body: bytes, queue: str) -> Assignment:
    """The assignment in a good answer. Raises RegistrationError."""
    try:
        answer = json.loads(body)
        ours, deployment = answer.get("runlane"), answer.get("deployment") or {}
        if ours is None:
            raise RegistrationError("the server is not one of runlane, whose answers name an endpoint")
        if not deployment.get("git_url") or not deployment.get("startup_cmd"):
            raise RegistrationError(f"queue {queue} has no deployment: its git_url and startup_cmd are not set")
        mode = deployment.get("mode") or "long_running"
        if mode not in ("long_running", "one_shot"):
            raise RegistrationError(f"queue {queue} has the mode {mode!r}, which this agent does not know")
        return Assignment(
            queue=queue,
            endpoint=_text(ours["endpoint"]),
            queues=tuple(_text(name) for name in ours.get("queues", [])),
            git_url=_text(deployment["git_url"]),
            branch=_text(deployment.get("branch") or "main"),
            startup_command=_text(deployment["startup_cmd"]),
            code_path=_text(deployment.get("code_path") or ""),
            mode=cast(Literal["long_running", "one_shot"], mode),
            startup_seconds=float(deployment.get("startup_timeout_secs") or 60),
            requirements=_text(deployment.get("requirements_file") or DEFAULT_REQUIREMENTS),
            vaults={_text(name): _text(value) for name, value in (answer.get("vaults") or {}).items()},
            git_token=_text(answer.get("git_token") or ""),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RegistrationError(f"the server's answer makes no sense ({type(error).__name__})") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError
    return value


async def _post(configuration: Configuration, path: str, body: bytes) -> Answer:
    try:
        pool = Pool(configuration.server, configuration.key or "", _SECONDS, warm=0)
    except ValueError as error:
        raise RegistrationError(str(error)) from None
    try:
        return await pool.send(Request("POST", path, body)).answer
    except OSError as error:
        raise NoServerError(f"{configuration.server} cannot be reached: {error or type(error).__name__}") from None
    finally:
        await pool.close()


def _error_in(body: bytes) -> str:
    try:
        found = json.loads(body)
        return str(found.get("error") or found["errors"][0])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return body[:200].decode(errors="replace")
