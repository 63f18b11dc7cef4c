"""What the gateway writes to its log, and how."""

import logging

TELL_OF_REQUESTS = ("httpx", "httpcore")
"""At the level debug these write what they send and get: headers with keys, and the outputs of jobs."""


def configure(level: str) -> None:
    """Has this process log to standard error. `level`: debug, info, warning or error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in TELL_OF_REQUESTS:
        logging.getLogger(name).setLevel(logging.WARNING)


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user and password, and without the query, which can hold one too. A password
    need not be quoted for that, though nobody could connect with it."""
    scheme, separator, rest = url.partition("://") if "://" in url else ("", "", url)
    _, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{'***@' if at else ''}{place.partition('?')[0]}"
