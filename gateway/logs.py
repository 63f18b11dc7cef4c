"""What the gateway writes to its log, and how."""

import logging

TELL_OF_REQUESTS = ("httpx", "httpcore")
"""At the level debug these write the headers of what they send and get."""


def configure(level: str) -> None:
    """Has this process log to standard error. `level`: debug, info, warning or error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in TELL_OF_REQUESTS:
        logging.getLogger(name).setLevel(logging.WARNING)
