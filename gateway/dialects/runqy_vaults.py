"""Vaults, as Runqy's clients manage them, and the rotation of their master key, which Runqy has not."""

from datetime import UTC, datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from ..access.keys import Scope
from ..described import described
from ..errors import BadRequest, Forbidden
from ..http import Answer, Call, Managed, Reply
from ..settings import Settings
from ..vault_keys import Value
from ..vaults import ENTRY, Entry, Vaults, check_entry
from . import runqy_types as types
from .manage import json_object


class NewVault(msgspec.Struct):
    """A vault to be made."""

    name: Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$"})]
    description: str = ""


class NewEntry(msgspec.Struct):
    """An entry to be made, or changed."""

    key: Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": f"^{ENTRY.pattern}$"})]
    value: Annotated[str, Meta(min_length=1, extra_json_schema={"pattern": r"^[^\x00]+$"})]
    is_secret: bool = True


_Wanted = TypeVar("_Wanted")


class RunqyVaults:
    """The operations under /api/vaults and /v1/vaults."""

    def __init__(self, vaults: Vaults, settings: Settings) -> None:
        self._vaults = vaults
        self._settings = settings

    def operations(self) -> dict[tuple[str, str], Managed]:
        """(path, method), and what is served there."""
        one, entries = "/api/vaults/{vault}", "/api/vaults/{vault}/entries"
        return {
            ("/api/vaults", "GET"): Managed(self.list, Scope.MANAGE),
            ("/api/vaults", "POST"): Managed(self.create, Scope.MANAGE, "vault.create"),
            (one, "GET"): Managed(self.show, Scope.MANAGE),
            (one, "DELETE"): Managed(self.delete, Scope.MANAGE, "vault.delete"),
            (entries, "GET"): Managed(self.list_entries, Scope.MANAGE),
            (entries, "POST"): Managed(self.set_entry, Scope.MANAGE, "vault.set"),
            (f"{entries}/{{entry}}", "DELETE"): Managed(self.unset_entry, Scope.MANAGE, "vault.unset"),
        }

    def own_operations(self) -> dict[tuple[str, str], Managed]:
        """Likewise, of those that are ours and not Runqy's."""
        return {("/v1/vaults/rotate", "POST"): Managed(self.rotate, Scope.MANAGE, "vault.rotate")}

    @described(types.VaultList)
    async def list(self, call: Call) -> Answer:
        """All vaults of the tenant, without what is in them."""
        found = await self._vaults.list(self._tenant(call))
        shown = [types.VaultSummary(each.name, each.description, each.entries) for each in found]
        return Reply(msgspec.json.encode(types.VaultList(shown, len(shown))))

    @described(types.MadeVault, status=201, body=NewVault, errors={409: "there is a vault of this name, or too many"})
    async def create(self, call: Call) -> Answer:
        """Makes an empty vault."""
        tenant = self._tenant(call)
        wanted = await self._wanted(call, NewVault)
        call.facts["vault"] = wanted.name[:100]
        await self._vaults.create(tenant, wanted.name, wanted.description)
        vault = types.VaultName(wanted.name, wanted.description)
        return Reply(msgspec.json.encode(types.MadeVault("vault created successfully", vault)), 201)

    @described(types.VaultObject)
    async def show(self, call: Call) -> Answer:
        """One vault with its entries; secrets are masked."""
        vault = await self._vaults.show(self._tenant(call), call.parameters["vault"])
        entries = [_shown(entry) for entry in vault.entries]
        shown = types.VaultObject(vault.name, vault.description, entries, _time(vault.created), _time(vault.updated))
        return Reply(msgspec.json.encode(shown))

    @described(types.Message)
    async def delete(self, call: Call) -> Answer:
        """Deletes a vault with its entries."""
        tenant, name = self._tenant(call), self._vault(call)
        await self._vaults.delete(tenant, name)
        return _said("vault deleted successfully")

    @described(types.VaultEntries)
    async def list_entries(self, call: Call) -> Answer:
        """The entries of a vault; secrets are masked."""
        vault = await self._vaults.show(self._tenant(call), call.parameters["vault"])
        entries = [_shown(entry) for entry in vault.entries]
        return Reply(msgspec.json.encode(types.VaultEntries(entries, len(entries))))

    @described(types.Message, body=NewEntry, errors={409: "there are too many entries"})
    async def set_entry(self, call: Call) -> Answer:
        """Makes an entry, or replaces its value."""
        tenant, name = self._tenant(call), self._vault(call)
        wanted = await self._wanted(call, NewEntry)
        check_entry(wanted.key)  # before it is logged: it may be a secret that stands in the wrong field
        call.facts["entry"] = wanted.key
        await self._vaults.set_entry(tenant, name, wanted.key, Value(wanted.value, wanted.is_secret))
        return _said("entry set successfully")

    @described(types.Message)
    async def unset_entry(self, call: Call) -> Answer:
        """Deletes an entry."""
        tenant, name, entry = self._tenant(call), self._vault(call), call.parameters["entry"]
        call.facts["entry"] = entry[:100]
        await self._vaults.unset_entry(tenant, name, entry)
        return _said("entry deleted successfully")

    @described(types.RotatedVaults)
    async def rotate(self, call: Call) -> Answer:
        """Encrypts all entries of the tenant with the first master key."""
        done = await self._vaults.rotate(self._tenant(call))
        call.facts["rotated"] = str(done.rotated)
        return Reply(msgspec.json.encode(types.RotatedVaults(*done)))

    def _tenant(self, call: Call) -> str:
        """The caller's tenant, of all of whose endpoints its vaults are; the first thing to be asked for."""
        if call.key.terms.endpoints:
            raise Forbidden("this key is not for all endpoints, as the vaults are")
        self._vaults.check_enabled()
        return call.tenant

    def _vault(self, call: Call) -> str:
        """The name in the path of a request that changes something."""
        call.facts["vault"] = call.parameters["vault"][:100]
        return call.parameters["vault"]

    async def _wanted(self, call: Call, kind: type[_Wanted]) -> _Wanted:
        try:
            return msgspec.convert(await json_object(call, self._settings), kind)
        except msgspec.ValidationError as error:
            raise BadRequest(str(error)) from None


def _said(message: str) -> Reply:
    return Reply(msgspec.json.encode(types.Message(message)))


def _shown(entry: Entry) -> types.VaultEntry:
    return types.VaultEntry(entry.name, entry.shown, entry.is_secret, _time(entry.created), _time(entry.updated))


def _time(ms: int) -> str:
    """RFC 3339, in whole seconds."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
