"""A server without keys on the loopback address must not serve the web pages that its user happens to have open.

A page from elsewhere can send requests here: directly, which the browser marks with the page's origin, or under a name
of its own that it lets point to the loopback address, which shows in the `Host` header.
"""

import re

from ..errors import Forbidden

_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?", re.ASCII | re.IGNORECASE)


def is_loopback(host: str) -> bool:
    """Whether a host, with or without a port, is this machine's loopback address or its name."""
    return _LOOPBACK.fullmatch(f"[{host}]" if host == "::1" else host) is not None


def check_local(host: str, origin: str) -> None:
    """Lets a request pass that was meant for this machine.

    Args:
        host: the `Host` header.
        origin: the `Origin` header; empty when there is none, as for every client but a browser.

    Raises:
        Forbidden: it was sent under another name, or by a page from elsewhere.
    """
    if not is_loopback(host):
        raise Forbidden(f"this server has no keys and serves localhost only, not {host[:80]!r}")
    if origin and not is_loopback(origin.partition("://")[2]):
        raise Forbidden(f"this server has no keys and serves no pages from {origin[:80]!r}")
