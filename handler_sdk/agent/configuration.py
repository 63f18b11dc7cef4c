"""What an agent is told by its command line and its environment: flags win.

The variables are those of Runqy's worker (its documentation, "Configuration"), where they make sense here.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..settings import LinkSetting, Settings, SettingsError
from .errors import ConfigurationError

_QUEUE_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Configuration:
    """server: a URL. folder: where deployments are kept. sees_system: whether tasks see the agent's own packages behind
    theirs. worker: the id that the worker is to have; None for one of its own. Times in seconds."""

    server: str
    queues: tuple[str, ...]
    key: str | None = field(default=None, repr=False)
    concurrency: int = 1
    shutdown_seconds: float = 30.0
    stop_grace_seconds: float = 5.0
    retries: int = 3
    retry_seconds: float = 5.0
    git_ssh_key: str = field(default="", repr=False)
    git_token: str = field(default="", repr=False)
    folder: Path = Path(".runlane/deployments")
    sees_system: bool = True
    follows: bool = False
    follow_seconds: float = 60.0
    link: LinkSetting = ""
    ships_logs: bool = True
    worker: str | None = None

    @classmethod
    def of(cls, arguments: Sequence[str], environment: Mapping[str, str]) -> "Configuration":
        """Ends the process when the arguments make no sense, as argparse does, or ask for help. Raises
        ConfigurationError."""
        given = vars(_parser(environment).parse_args(arguments))
        if not given["server"]:
            raise ConfigurationError("say where the gateway is: --server URL or RUNQY_SERVER_URL")
        wanted = given.pop("queue") or [environment.get("RUNQY_QUEUES", "")]
        names = [name for each in wanted for name in each.split(",") if name]
        for name in names:
            if not _QUEUE_NAME.fullmatch(name):
                raise ConfigurationError(f"{name[:200]!r} cannot be the name of a queue")
        if not names:
            raise ConfigurationError("say which queue to work for: --queue NAME or RUNQY_QUEUES")
        try:
            ours = Settings.of({"RUNLANE_ENDPOINT": "-", **environment, "RUNLANE_URL": given["server"]})
        except SettingsError as error:
            raise ConfigurationError(str(error)) from None
        if ours.worker and len(names) > 1:
            raise ConfigurationError("RUNLANE_WORKER_ID is for one worker, and each queue has one of its own")
        return cls(
            **{**given, "server": given["server"].rstrip("/"), "key": given["key"] or None},
            queues=tuple(dict.fromkeys(names)),
            git_token=environment.get("RUNQY_GIT_TOKEN", ""),
            stop_grace_seconds=ours.stop_grace_seconds,
            link=ours.link,
            ships_logs=ours.ships_logs,
            worker=ours.worker,
        )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runlane agent",
        description="Deploy the task code of a queue from git on this machine, and work for the queue with it.",
        epilog="RUNQY_GIT_TOKEN is a token for https; it is not to stand on a command line. SIGHUP looks for new code "
        "and settings; SIGTERM lets what runs come to its end, and a second one ends at once.",
        allow_abbrev=False,
    )

    def add(flag: str, name: str, variables: tuple[str, ...], otherwise: str, about: str, **more: Any) -> None:
        text = next((environment[each] for each in variables if environment.get(each)), otherwise)
        more = {"default": text} | more
        parser.add_argument(flag, dest=name, help=f"{about}  [{' or '.join(variables)}]", **more)

    add("--server", "server", ("RUNQY_SERVER_URL", "RUNLANE_URL"), "", "the gateway", metavar="URL")
    add("--queue", "queue", ("RUNQY_QUEUES",), "", "queue to work for; several with commas between, or repeated",
        metavar="NAME", action="append", default=None)  # fmt: skip
    add("--key", "key", ("RUNLANE_WORKER_KEY", "RUNQY_API_KEY"), "",
        "the worker key; better in the variable, since process listings show command lines", metavar="KEY")  # fmt: skip
    add("--concurrency", "concurrency", ("RUNQY_CONCURRENCY",), "1",
        "jobs that a long_running task gets at once", type=_count(1), metavar="N")  # fmt: skip
    add("--shutdown-timeout", "shutdown_seconds", ("RUNQY_SHUTDOWN_TIMEOUT",), "30s",
        "time for what runs when the agent is to end", type=_seconds, metavar="TIME")  # fmt: skip
    add("--bootstrap-retries", "retries", ("RUNQY_BOOTSTRAP_RETRIES",), "3",
        "how often to try again to register or deploy, at the start", type=_count(0), metavar="N")  # fmt: skip
    add("--bootstrap-retry-delay", "retry_seconds", ("RUNQY_BOOTSTRAP_RETRY_DELAY",), "5s", "pause before that",
        type=_seconds, metavar="TIME")  # fmt: skip
    add("--git-ssh-key", "git_ssh_key", ("RUNQY_GIT_SSH_KEY",), "",
        "a deploy key's file; the variable may hold the key itself", metavar="FILE")  # fmt: skip
    add("--deployment-dir", "folder", ("RUNQY_DEPLOYMENT_DIR",), ".runlane/deployments", "where code is deployed",
        type=Path, metavar="FOLDER")  # fmt: skip
    add("--use-system-site-packages", "sees_system", ("RUNQY_USE_SYSTEM_SITE_PACKAGES",), "true",
        "whether tasks see the agent's own packages behind theirs", type=_yes_or_no, metavar="BOOL")  # fmt: skip
    add("--follow", "follows", ("RUNLANE_FOLLOW",), "false", "deploy again whenever the branch has moved",
        type=_yes_or_no, metavar="BOOL", nargs="?", const=True)  # fmt: skip
    add("--follow-interval", "follow_seconds", ("RUNLANE_FOLLOW_INTERVAL",), "60s", "pause between two looks at it",
        type=_seconds, metavar="TIME")  # fmt: skip
    return parser


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= 1000):
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to 1000")
        return int(text)

    return read


def _yes_or_no(text: str) -> bool:
    if text.lower() not in _YES + _NO:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in _YES


def _seconds(text: str) -> float:
    """A number of seconds, or a time as Go writes it, such as 90s or 1m30s."""
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"(?:{_TIME.pattern})+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in _TIME.findall(text))
