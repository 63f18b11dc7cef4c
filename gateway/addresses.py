"""Which addresses the gateway may go to when a tenant names them: every public one, and those that the operator lists.

A URL is checked twice. `Guard.target` reads it in the one way in which it will be used, and refuses what is wrong at
sight: an address in whatever notation, `localhost`. What a name stands for is looked up when the connection is made;
`Guard.may_reach` is asked about the very address that is then connected to, so that a later answer changes nothing.
"""

import ipaddress
import re
import socket
import string
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import idna

from .errors import BadRequest, StartupError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LONGEST_URL = 2048
PORTS = {"http": 80, "https": 443}

# What IANA lists as special purpose, multicast or reserved (iana-ipv4-special-registry), be it called globally
# reachable or not; `is_global` of Python's own `ipaddress` means different things in different releases. 168.63.129.16
# is Azure's metadata service; those of others are link-local, shared (Alibaba) or in 192.0.0.0/24 (Oracle).
SPECIAL_IPV4 = tuple(map(ipaddress.IPv4Network, (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16",
    "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
)))  # fmt: skip

# Of IPv6 only global unicast is public at all. That leaves out what is local, and IPv4 addresses that are mapped
# (::ffff:0:0/96), compatible (::/96) or translated (64:ff9b::/96, 64:ff9b:1::/48). Inside it, by
# iana-ipv6-special-registry: 2001::/23 has Teredo, ORCHID and benchmarks, 2002::/16 is 6to4.
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
SPECIAL_IPV6 = tuple(map(ipaddress.IPv6Network, (
    "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
)))  # fmt: skip

LOOPBACK = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))

_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(?::(?P<port>[0-9]*))?")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_UNSEEN = re.compile(r"[\x00-\x20\x7f-\xa0\\]")


@dataclass(frozen=True)
class Target:
    """A URL, as it is asked for."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """Host and port, as in a URL or a `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True)
class _Entry:
    """One entry of the allow-list: a network, or else a name, at one port or (0) at every one."""

    network: Network | None
    name: str
    port: int

    def allows(self, host: str, port: int, address: Address) -> bool:
        if self.port not in (0, port):
            return False
        return host == self.name if self.network is None else address in self.network


class Guard:
    """Says what may be reached.

    Args:
        allow: what may be reached besides public addresses: networks (`10.0.0.0/8`), addresses or host names, each
            alone or with a port (`[::1]:8080`). A network allows every name that resolves into it, a name all that it
            resolves to.

    Raises:
        StartupError: an entry is none of these.
    """

    def __init__(self, allow: Iterable[str] = ()) -> None:
        self._entries = [_entry(text) for text in allow]

    def target(self, url: str) -> Target:
        """Reads a URL.

        Raises:
            BadRequest: it is not one of http or https, has no host or user information, is too long, or names an
                address that may not be reached.
        """
        target = _parse(url)
        stated = _stated_addresses(target.host)
        if stated and not any(self.may_reach(target.host, target.port, address) for address in stated):
            raise BadRequest(f"the URL's host {target.host} is an address that may not be reached from here")
        return target

    def may_reach(self, host: str, port: int, address: Address) -> bool:
        """Whether a connection to this address may be made for this host."""
        return is_public(address) or any(entry.allows(host, port, address) for entry in self._entries)


def is_public(address: Address) -> bool:
    """Whether an address belongs to somebody on the internet, and to no machine or network around here."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in SPECIAL_IPV4)
    return address in GLOBAL_IPV6 and not _is_isatap(address) and not any(address in net for net in SPECIAL_IPV6)


def _is_isatap(address: ipaddress.IPv6Address) -> bool:
    """Whether its lower half has an IPv4 address in it as RFC 5214 (6.1) puts it there, under any prefix."""
    return int(address) >> 32 & 0xFDFFFFFF == 0x00005EFE


def _stated_addresses(host: str) -> tuple[Address, ...]:
    """The addresses that a host stands for by itself; none for a name that has to be looked up."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return LOOPBACK
    try:
        return (ipaddress.ip_address(host),)
    except ValueError:
        return ()


def _parse(url: str) -> Target:
    if len(url) > LONGEST_URL:
        raise BadRequest(f"the URL is longer than {LONGEST_URL} characters")
    if _UNSEEN.search(url):
        raise BadRequest("the URL has spaces, control characters or backslashes in it")
    try:
        parts = urlsplit(url)
        if parts.scheme not in PORTS:
            raise BadRequest("the URL must begin with http:// or https://")
        if "@" in parts.netloc:
            raise BadRequest("the URL must have no user or password in it")
        written, port = _authority(parts.netloc)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        path = quote(path, safe=string.punctuation)
        target = Target(parts.scheme, _host(written), port or PORTS[parts.scheme], path)
    except ValueError as error:
        raise BadRequest(f"the URL is not valid: {error}") from None
    if len(target.url) > LONGEST_URL:
        raise BadRequest(f"the URL is longer than {LONGEST_URL} characters when it is encoded")
    return target


def _authority(text: str) -> tuple[str, int]:
    """Host and port as they are written, the port 0 when there is none. Raises ValueError."""
    found = _AUTHORITY.fullmatch(text)
    if not found or not found["host"]:
        raise ValueError("it has no host, or one that is not well formed")
    if "%" in found["host"]:
        raise ValueError("its host must have no percent sign in it")
    if not found["port"]:
        return found["host"], 0
    if len(found["port"]) > 5 or not 0 < int(found["port"]) < 65536:
        raise ValueError("its port must be 1 to 65535")
    return found["host"], int(found["port"])


def _host(text: str) -> str:
    """A host in its one notation: a name in lower case and ASCII, or an address as `ipaddress` writes it.

    What ends in a number is an IPv4 address or nothing (https://url.spec.whatwg.org/#ends-in-a-number-checker), read as
    the system's own resolver would: decimal, octal, hexadecimal, with one to four parts.

    Raises:
        ValueError: it is neither, with a text for who has written it.
    """
    if text.startswith("["):
        return str(_ipv6(text[1:-1]))
    try:
        name = text if text.isascii() else idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("its host is not a valid name") from None
    name = name.lower().removesuffix(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, name.split("."))):
        raise ValueError("its host is not a valid name")
    if not _ends_in_number(name):
        return name
    try:
        return str(ipaddress.IPv4Address(socket.inet_aton(name)))
    except OSError:
        raise ValueError("its host ends in a number and is no IPv4 address") from None


def _ends_in_number(name: str) -> bool:
    return bool(_NUMBER.fullmatch(name.rpartition(".")[2]))


def _ipv6(text: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(text)
    except ValueError:
        raise ValueError("its host is no IPv6 address") from None


def _entry(text: str) -> _Entry:
    try:
        bare_ipv6 = text.count(":") > 1 and not text.startswith("[")
        host, port = (text, 0) if bare_ipv6 else _authority(text)
        network = _network(host)
        return _Entry(network, "" if network else _host(host), port)
    except ValueError as error:
        raise StartupError(
            f"outbound_allow (RUNLANE_OUTBOUND_ALLOW) has {text!r}: {error}; an entry is a network (10.0.0.0/8), an "
            "address or a host name, with or without a port ([::1]:8080)"
        ) from None


def _network(text: str) -> Network | None:
    """The network or address of an entry, None when it is a name. Raises ValueError."""
    if "%" in text:
        raise ValueError("there are no networks with a zone")
    if text.startswith("["):
        return ipaddress.IPv6Network(text[1:-1])
    if ":" in text or "/" in text or _ends_in_number(text):
        return ipaddress.ip_network(text)
    return None
