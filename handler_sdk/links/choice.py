"""What carries a worker's calls: the store itself, or HTTP to the gateway where the store cannot be reached.

The worker's own process decides when it joins, once; the handler's process is told with the registration.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..settings import Settings
from . import Backoff, Link, Membership, Register, Registered, UnreachableError

if TYPE_CHECKING:
    from .registration import Registration

logger = logging.getLogger("runlane.link")

PROBE_SECONDS = 3.0
PROBE_PAUSES = (0.0, 0.2, 0.5)


async def join(settings: Settings, on_registered: Callable[[], None]) -> Membership:
    """Makes the worker a member of its endpoint, however long the gateway takes to come up. What an earlier one of its
    id held goes back, as if that had left.

    Args:
        on_registered: called when there may be another registration than before.

    Raises:
        RefusedError: the gateway does not want this worker.
    """
    from .registration import Registration

    registration = Registration(settings)
    backoff, told = Backoff(0.2, 5.0), False
    while True:
        try:
            return await _enter(await _register(registration, settings), registration, on_registered)
        except UnreachableError as error:
            if not told:
                logger.warning("waiting for the gateway at %s: %s", settings.url, error)
            told = True
            await asyncio.sleep(backoff.next())


def make_link(registered: Registered, register: Register) -> Link:
    """The handler's process's end of what the worker's own process has decided."""
    if registered.link == "http":
        from .http import HttpLink

        return HttpLink(register)
    from .redis import RedisLink

    return RedisLink(register)


async def _register(registration: "Registration", settings: Settings) -> Registered:
    registered = await registration.join(settings.link)
    if settings.link:
        return registered
    if registered.link == "http":
        logger.info("the gateway gives no access to the store: working over HTTP through the gateway")
    elif reason := await _hindrance(registered):
        place = urlsplit(registered.url)
        logger.info(
            "the store at %s cannot be reached from here (%s): working over HTTP through the gateway",
            place.netloc.rpartition("@")[2] or place.path,
            reason,
        )
        registered = await registration.join("http", registered.worker)
    return registered


async def _hindrance(registered: Registered) -> str:
    """Why the store cannot be reached from this machine; "" when it can. One try says too little for a choice that
    lasts: a connection may just have been cut."""
    reason = ""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            for pause in PROBE_PAUSES:
                await asyncio.sleep(pause)
                if not (reason := await _trouble(registered)):
                    break
    except TimeoutError:
        return reason or "no answer in time"
    return reason


async def _trouble(registered: Registered) -> str:
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        NoPermissionError,
        RedisClusterException,
        RedisError,
        ResponseError,
    )

    from .store import probe

    try:
        await probe(registered)
    except (AuthenticationError, NoPermissionError) as error:  # another one has this address here
        return str(error)
    except (BusyLoadingError, ResponseError):
        return ""  # it will pass
    except (RedisError, RedisClusterException, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


async def _enter(registered: Registered, registration: "Registration", on_registered: Callable[[], None]) -> Membership:
    if registered.link == "http":
        from .http_membership import HttpMembership

        http = HttpMembership(registration, on_registered)
        await http.enter(registered)
        return http
    from .membership import RedisMembership

    redis = RedisMembership(registration, on_registered)
    await redis.enter(registered)
    return redis
