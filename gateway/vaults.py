"""Vaults: values that workers get with the code that they run. The store has them encrypted, each tenant's for itself,
and nobody but the workers is shown those that are secret."""

import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from .engine import keys
from .engine.batching import Batcher
from .errors import BadRequest, Conflict, Error, NotFound, NotSetUp, Unavailable
from .vault_keys import HOW_TO_MAKE, MasterKeys, Place, Value

logger = logging.getLogger(__name__)

MOST_VALUE_BYTES = 64 * 1024
"""Linux takes 128 KiB for one variable: execve(2), MAX_ARG_STRLEN."""

MOST_DESCRIPTION = 500

VAULT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,64}", re.ASCII)
ENTRY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)

_ROW = re.compile(rb"(\d{1,15}) (\d{1,15}) (.*)", re.DOTALL)

LEAST_BYTES_SHOWN = 5
"""A secret of fewer is masked altogether."""

RESERVED_BY_RUNQY = frozenset({"PATH", "HOME", "VIRTUAL_ENV", "PYTHONPATH"})
RESERVED = RESERVED_BY_RUNQY | {
    "SHELL", "IFS", "ENV", "BASH_ENV", "BASHOPTS", "SHELLOPTS", "PS4", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH",
}  # fmt: skip
RESERVED_BEGINNINGS = ("PYTHON", "LD_", "DYLD_", "RUNLANE_", "RUNQY_")
"""Variables that say which code runs, or how a worker does: not for a vault to set, in upper or lower case."""

_NO_VAULT, _NO_ENTRY = "vault not found", "entry not found"
_HINT = f"vaults not enabled. Set RUNQY_VAULT_MASTER_KEY environment variable. {HOW_TO_MAKE}"


class Listed(NamedTuple):
    """A vault in a list."""

    name: str
    description: str
    entries: int


class Entry(NamedTuple):
    """An entry as it may be shown: `shown` is the value, masked when it is secret. Times are in ms since the epoch."""

    name: str
    shown: str
    is_secret: bool
    created: int
    updated: int


class Vault(NamedTuple):
    """A vault with its entries, by their names."""

    name: str
    description: str
    created: int
    updated: int
    entries: list[Entry]


class Rotated(NamedTuple):
    """What a rotation came to, in entries."""

    rotated: int
    unchanged: int


class _Row(NamedTuple):
    """What functions/vaults.lua keeps of a vault or an entry. `raw`: all of it; `rest`: the description, or the sealed
    value."""

    raw: bytes
    created: int
    updated: int
    rest: bytes


class Vaults:
    """The vaults of all tenants."""

    def __init__(self, batcher: Batcher, master_keys: MasterKeys) -> None:
        self._batcher = batcher
        self._keys = master_keys

    @property
    def enabled(self) -> bool:
        """Whether there is a master key; without, all of it raises `NotSetUp`."""
        return bool(self._keys)

    def check_enabled(self) -> None:
        """Has to be asked before anything else of a request is looked at.

        Raises:
            NotSetUp: there is no master key.
        """
        if not self.enabled:
            raise NotSetUp(_HINT)

    async def create(self, tenant: str, name: str, description: str = "") -> None:
        """Makes an empty vault.

        Raises:
            BadRequest: a name that a vault cannot have, or a description that is too long.
            Conflict: there is one of this name, or the tenant has too many.
        """
        self.check_enabled()
        if not VAULT.fullmatch(name) or name.upper() in RESERVED_BY_RUNQY:
            raise BadRequest("invalid vault name: 1 to 64 letters, digits, '.', '_' or '-', and no reserved name")
        if len(description) > MOST_DESCRIPTION:
            raise BadRequest(f"the description is over {MOST_DESCRIPTION} characters")
        reply = await self._call(tenant, "vault_create", name, description)
        if reply == b"EXISTS":
            raise Conflict("vault already exists")
        if reply == b"FULL":
            raise Conflict("there are as many vaults as there may be; delete one first")

    async def delete(self, tenant: str, name: str) -> None:
        """Deletes a vault with all that is in it.

        Raises:
            NotFound: there is none.
        """
        if not await self._call(tenant, "vault_delete", _known(name)):
            raise NotFound(_NO_VAULT)

    async def list(self, tenant: str) -> list[Listed]:
        """All vaults of a tenant, by their names."""
        found = await self._call(tenant, "vault_list")
        return sorted(Listed(_text(name), _text(_row(raw).rest), count) for name, raw, count in found)

    async def show(self, tenant: str, name: str) -> Vault:
        """One vault.

        Raises:
            NotFound: there is none.
            Error: an entry cannot be decrypted.
        """
        row, rows = await self._read(tenant, name)
        shown = []
        for entry, found in sorted(rows.items()):
            value = self._open(Place(tenant, name, entry), found.rest)
            text = masked(value.text) if value.is_secret else value.text
            shown.append(Entry(entry, text, value.is_secret, found.created, found.updated))
        return Vault(name, _text(row.rest), row.created, row.updated, shown)

    async def set_entry(self, tenant: str, vault: str, entry: str, value: Value) -> None:
        """Makes an entry, or replaces its value.

        Raises:
            BadRequest: a name that an entry cannot have, or a value that a variable cannot.
            NotFound: no such vault.
            Conflict: the vault is full.
        """
        self.check_enabled()
        check_entry(entry)
        if len(value.text.encode()) > MOST_VALUE_BYTES:
            raise BadRequest(f"the value is over {MOST_VALUE_BYTES} bytes")
        if "\0" in value.text:
            raise BadRequest("the value has a zero byte, which no environment variable can have")
        sealed = self._keys.seal(Place(tenant, _known(vault), entry), value)
        reply = await self._call(tenant, "vault_set", vault, entry, sealed)
        if reply == b"NO_VAULT":
            raise NotFound(_NO_VAULT)
        if reply == b"FULL":
            raise Conflict("the vault is full: it has too many entries, or too large ones; use another one")

    async def unset_entry(self, tenant: str, vault: str, entry: str) -> None:
        """Deletes an entry.

        Raises:
            NotFound: no such vault, or no such entry.
        """
        reply = await self._call(tenant, "vault_unset", _known(vault), entry)
        if reply == b"NO_VAULT":
            raise NotFound(_NO_VAULT)
        if reply == b"NO_ENTRY":
            raise NotFound(_NO_ENTRY)

    async def environment(self, tenant: str, names: Sequence[str]) -> dict[str, str]:
        """The values of all entries of these vaults by the entries' names, of later vaults over those of earlier ones.

        Raises:
            Error: a vault that there is not, or an entry that cannot be decrypted.
        """
        self.check_enabled()
        found: dict[str, str] = {}
        for name in names:
            try:
                found |= await self._values(tenant, name)
            except Unavailable:
                raise
            except Error as error:
                raise Error(f"failed to resolve vaults [{' '.join(names)}]: vault '{name}': {error.message}") from None
        return found

    async def value(self, tenant: str, vault: str, entry: str) -> str:
        """One value.

        Raises:
            NotFound: no such vault, or no such entry.
            Error: it cannot be decrypted.
        """
        _, rows = await self._read(tenant, vault)
        if entry not in rows:
            raise NotFound(_NO_ENTRY)
        return self._open(Place(tenant, vault, entry), rows[entry].rest).text

    async def rotate(self, tenant: str) -> Rotated:
        """Encrypts with the first master key what is encrypted with another, one vault after the other. What is set
        meanwhile is left as it was set.

        Raises:
            Error: an entry cannot be decrypted; vaults before it are done.
        """
        done = [await self._rotate(tenant, vault.name) for vault in await self.list(tenant)]
        return Rotated(sum(each.rotated for each in done), sum(each.unchanged for each in done))

    async def _rotate(self, tenant: str, vault: str) -> Rotated:
        rotated = 0
        while True:
            try:
                _, rows = await self._read(tenant, vault)
            except NotFound:  # it was deleted meanwhile
                return Rotated(rotated, 0)
            replacements = [part for entry, row in rows.items() for part in self._rotation(tenant, vault, entry, row)]
            if not replacements:
                return Rotated(rotated, max(0, len(rows) - rotated))
            # Those that it leaves may have been set by a gateway that has the keys of before.
            rotated += await self._call(tenant, "vault_replace", vault, *replacements)

    def _rotation(self, tenant: str, vault: str, entry: str, row: _Row) -> tuple[str | bytes, ...]:
        """The entry, its row and the row that is to stand there; nothing when that is good as it is."""
        place = Place(tenant, vault, entry)
        value = self._open(place, row.rest)
        if self._keys.is_newest(row.rest):
            return ()
        return entry, row.raw, b"%d %d %b" % (row.created, row.updated, self._keys.seal(place, value))

    async def _values(self, tenant: str, vault: str) -> dict[str, str]:
        _, rows = await self._read(tenant, vault)
        return {entry: self._open(Place(tenant, vault, entry), row.rest).text for entry, row in rows.items()}

    async def _read(self, tenant: str, vault: str) -> tuple[_Row, dict[str, _Row]]:
        """A vault's row, and those of its entries by their names."""
        reply = await self._call(tenant, "vault_read", _known(vault))
        if reply is None:
            raise NotFound(_NO_VAULT)
        row, flat = reply
        return _row(row), dict(zip(map(_text, flat[::2]), map(_row, flat[1::2]), strict=True))

    def _open(self, place: Place, sealed: bytes) -> Value:
        try:
            return self._keys.open(place, sealed)
        except Error as error:
            logger.error("tenant %s: %s", place.tenant, error.message)  # noqa: TRY400  # where it was found says nothing
            raise

    async def _call(self, tenant: str, function: str, *arguments: str | bytes) -> Any:
        self.check_enabled()
        return await self._batcher.call(keys.vaults(tenant), function, *arguments)


def check_entry(name: str) -> None:
    """Whether an entry may be called so. What is said of a name that cannot be one does not repeat it.

    Raises:
        BadRequest: it may not.
    """
    if not ENTRY.fullmatch(name):
        raise BadRequest("invalid key: 1 to 128 letters, digits or '_', and no digit first")
    if name.upper() in RESERVED or name.upper().startswith(RESERVED_BEGINNINGS):
        raise BadRequest(f"{name} is reserved: it would change how the worker runs, or which code")


def masked(value: str) -> str:
    """A secret as it is shown: of five bytes or more the first two and the last two, without a part of a character."""
    data = value.encode()
    if not data:
        return ""
    if len(data) < LEAST_BYTES_SHOWN:
        return "****"
    return f"{data[:2].decode(errors='ignore')}****{data[-2:].decode(errors='ignore')}"


def _known(vault: str) -> str:
    """The name of a vault that there may be."""
    if not VAULT.fullmatch(vault):
        raise NotFound(_NO_VAULT)
    return vault


def _text(written: bytes) -> str:
    """A name or a description, whoever wrote it."""
    return written.decode(errors="replace")


def _row(raw: bytes) -> _Row:
    """What was written by somebody else has nothing in it that could be decrypted."""
    found = _ROW.fullmatch(raw)
    return _Row(raw, int(found[1]), int(found[2]), found[3]) if found else _Row(raw, 0, 0, b"")
