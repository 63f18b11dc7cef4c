"""The master keys of vaults, and what they make of a value: AES-256-GCM with a random nonce.

What a value is encrypted for (whose it is, where it stands, whether it may be shown) is bound to it as associated data,
so that in another place it is refused. Whoever can write to the store can still bring back an older value of the same
entry, or take entries away.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import Error, StartupError

KEY_BYTES = 32
NONCE_BYTES = 12
ID_BYTES = 8
HOW_TO_MAKE = "Generate a key with: openssl rand -base64 32"


class Place(NamedTuple):
    """Where a value stands."""

    tenant: str
    vault: str
    entry: str


class Value(NamedTuple):
    """A value in the clear. `is_secret`: it is masked when it is shown."""

    text: str
    is_secret: bool


class _Sealed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A value as the store has it. `key`: the id of the master key that it is encrypted with."""

    key: bytes
    is_secret: bool
    nonce: bytes
    ciphertext: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Sealed).decode


class MasterKeys:
    """The keys of the settings: the first encrypts, and all decrypt."""

    def __init__(self, entries: Sequence[str] = ()) -> None:
        """`entries`: the keys in base64.

        Raises:
            StartupError: one of them is no key.
        """
        found = [_key(entry, number) for number, entry in enumerate(entries, 1)]
        self._ciphers = {_id(key): AESGCM(key) for key in found}
        self._newest = _id(found[0]) if found else b""

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._ciphers)

    def seal(self, place: Place, value: Value) -> bytes:
        """Encrypts a value for the place where it is to stand."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        data = _bound_to(place, value.is_secret)
        ciphertext = self._ciphers[self._newest].encrypt(nonce, value.text.encode(), data)
        return _encode(_Sealed(self._newest, value.is_secret, nonce, ciphertext))

    def open(self, place: Place, sealed: bytes) -> Value:
        """Decrypts what stands in a place.

        Raises:
            Error: it was encrypted with another key, or is not what was encrypted for this place.
        """
        try:
            return self._open(place, _decode(sealed))
        except (msgspec.MsgspecError, InvalidTag, ValueError):
            raise _undecipherable(
                place, "it was changed in the store, or moved from another place; set it anew, and find out by whom"
            ) from None  # fmt: skip

    def is_newest(self, sealed: bytes) -> bool:
        """Whether a value that could be opened is encrypted with the first key."""
        return _decode(sealed).key == self._newest

    def _open(self, place: Place, sealed: _Sealed) -> Value:
        cipher = self._ciphers.get(sealed.key)
        if cipher is None:
            raise _undecipherable(
                place, "it is encrypted with a key that is not in RUNQY_VAULT_MASTER_KEY; put that key there again, "
                "behind the first, or set the entry anew"
            )  # fmt: skip
        text = cipher.decrypt(sealed.nonce, sealed.ciphertext, _bound_to(place, sealed.is_secret))
        return Value(text.decode(), sealed.is_secret)


def _key(entry: str, number: int) -> bytes:
    try:
        key = base64.b64decode(entry, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise StartupError(
            f"RUNQY_VAULT_MASTER_KEY (vault_master_keys): key {number} is not the standard base64 of exactly "
            f"{KEY_BYTES} bytes. {HOW_TO_MAKE}"
        )
    return key


def _id(key: bytes) -> bytes:
    """A name for the key that tells nothing of it."""
    return hmac.digest(key, b"runlane: id of a vault's master key", hashlib.sha256)[:ID_BYTES]


def _bound_to(place: Place, is_secret: bool) -> bytes:
    return msgspec.json.encode(["runlane vault 1", *place, is_secret])


def _undecipherable(place: Place, reason: str) -> Error:
    return Error(f"entry {place.entry!r} of vault {place.vault!r} cannot be decrypted: {reason}")
