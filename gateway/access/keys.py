"""The keys of clients and of workers. Their SHA-256 is kept, and compared in constant time."""

import hashlib
import hmac
from collections.abc import Iterable

from ..errors import StartupError, Unauthorized


class ApiKeys:
    """The keys of clients, from the settings."""

    def __init__(self, keys: Iterable[str], insecure: bool) -> None:
        """Takes KEY or NAME:KEY; with `insecure` and without keys, everyone may do everything."""
        self._digests = [_digest(_not_empty(key.rpartition(":")[2], "api_keys")) for key in keys]
        if not self._digests and not insecure:
            raise StartupError(
                "no API keys: set RUNLANE_API_KEYS (or api_keys in the settings file), or --insecure to serve without"
            )

    def check(self, authorization: str) -> None:
        """Lets a request pass.

        Args:
            authorization: the header, "Bearer KEY" or a bare key as some of RunPod's clients send it.

        Raises:
            Unauthorized: no key, or not one of ours.
        """
        if self._digests and not _contains(self._digests, presented_key(authorization)):
            raise Unauthorized


class WorkerKeys:
    """The keys of workers: each is good for one endpoint and for nothing but working."""

    def __init__(self, keys: Iterable[str], insecure: bool) -> None:
        """Takes ENDPOINT:KEY, besides what each endpoint has of its own."""
        self._insecure = insecure
        self._digests: dict[str, list[bytes]] = {}
        for entry in keys:
            endpoint, colon, key = entry.partition(":")
            if not (endpoint and colon and key):
                raise StartupError("worker_keys must be ENDPOINT:KEY, separated by commas")
            self._digests.setdefault(endpoint, []).append(_digest(key))

    def check(self, endpoint: str, own: str, authorization: str) -> None:
        """Lets a worker pass.

        Args:
            endpoint: the endpoint's id.
            own: the SHA-256 of the endpoint's own worker key, in hex.
            authorization: the header.

        Raises:
            Unauthorized: no key, or not one for this endpoint.
        """
        accepted = [bytes.fromhex(own), *self._digests.get(endpoint, [])]
        if not self._insecure and not _contains(accepted, presented_key(authorization)):
            raise Unauthorized(f"missing or wrong worker key for endpoint {endpoint}")


def presented_key(authorization: str) -> str:
    """The key in an `Authorization` header, with or without "Bearer"."""
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else authorization.strip()


def _contains(digests: list[bytes], key: str) -> bool:
    presented = _accepted.get(key) or _digest(key)
    found = False
    for accepted in digests:  # all of them, so that the time says nothing
        found |= hmac.compare_digest(presented, accepted)
    if found:
        _accepted[key] = presented
    return found


_accepted: dict[str, bytes] = {}
"""Keys that were accepted, with their digests: OpenSSL takes longer for one than the rest of the check. What was
refused is not remembered, so this does not grow beyond the keys that there have been."""


def _not_empty(key: str, setting: str) -> str:
    if not key.strip():
        raise StartupError(f"{setting} has an empty key, which would let everyone in; each is KEY or NAME:KEY")
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
