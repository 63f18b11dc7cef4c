"""What a worker is told by its environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

LinkSetting = Literal["", "redis", "http"]

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class SettingsError(Exception):
    """The environment lacks something, or has something that cannot be understood; the text says what."""


@dataclass(frozen=True)
class Settings:
    """url: the gateway's, without a path behind. link: what is to carry the worker's calls; "" for whatever works.
    ships_logs: whether what is printed can be read at the gateway. queues: the endpoint's sub-queues whose jobs alone
    it takes; none for all. Times in seconds."""

    url: str
    endpoint: str
    key: str | None = None
    worker: str | None = None
    link: LinkSetting = ""
    drain_seconds: float = 30.0
    stop_grace_seconds: float = 5.0
    ships_logs: bool = True
    queues: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Settings":
        return cls(
            url=_required(environment, "RUNLANE_URL").rstrip("/").removesuffix("/v2"),
            endpoint=_required(environment, "RUNLANE_ENDPOINT"),
            key=environment.get("RUNLANE_WORKER_KEY") or None,
            worker=environment.get("RUNLANE_WORKER_ID") or None,
            link=_link(environment),
            drain_seconds=_seconds(environment, "RUNLANE_DRAIN_SECONDS", 30.0),
            stop_grace_seconds=_seconds(environment, "RUNLANE_STOP_GRACE_SECONDS", 5.0),
            ships_logs=_is_on(environment, "RUNLANE_SHIP_LOGS"),
            queues=tuple(filter(None, (name.strip() for name in environment.get("RUNLANE_QUEUES", "").split(",")))),
        )


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name)
    if not value:
        raise SettingsError(f"{name} is not set; a worker needs RUNLANE_URL (the gateway) and RUNLANE_ENDPOINT")
    return value


def _link(environment: Mapping[str, str]) -> LinkSetting:
    link = environment.get("RUNLANE_LINK", "")
    if link not in ("", "redis", "http"):
        raise SettingsError(f"RUNLANE_LINK must be redis, http, or empty for whichever works, not {link!r}")
    return cast(LinkSetting, link)


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "on")
    if value not in ("", "on", "off"):
        raise SettingsError(f"{name} must be on or off, not {value!r}")
    return value != "off"


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise SettingsError(f"{name} must be a number of seconds, not {text!r}")
    return seconds
