"""Vaults over a real store: what goes in comes out for the workers, and what somebody has tampered with does not."""

import base64
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from gateway.engine import keys
from gateway.engine.batching import Batcher
from gateway.errors import BadRequest, Conflict, Error, NotFound, NotSetUp, StartupError, Unavailable
from gateway.store import Store
from gateway.vault_keys import MasterKeys, Place, Value
from gateway.vaults import MOST_VALUE_BYTES, RESERVED, Entry, Listed, Rotated, Vaults, check_entry, masked

from ..stores import Server

SECRET = "sk-the-secret-of-somebody"


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


OLD, NEW = new_key(), new_key()


@pytest.fixture
async def batcher(store: Store) -> AsyncIterator[Batcher]:
    batcher = Batcher(store)
    yield batcher
    await batcher.close()


class Tenant:
    """The vaults of a tenant, at a gateway with these master keys."""

    def __init__(self, name: str, batcher: Any, *master_keys: str) -> None:
        self.name = name
        self.batcher = batcher
        self.vaults = Vaults(batcher, MasterKeys(master_keys))

    def with_keys(self, *master_keys: str) -> "Tenant":
        """The same tenant at another gateway."""
        return Tenant(self.name, self.batcher, *master_keys)

    async def make(self, vault: str, **values: str) -> None:
        """A vault with secrets."""
        await self.vaults.create(self.name, vault)
        for entry, value in values.items():
            await self.set(vault, entry, value)

    async def set(self, vault: str, entry: str, value: str, is_secret: bool = True) -> None:
        await self.vaults.set_entry(self.name, vault, entry, Value(value, is_secret))

    async def environment(self, *vaults: str) -> dict[str, str]:
        return await self.vaults.environment(self.name, vaults)

    async def entries(self, vault: str) -> list[Entry]:
        return (await self.vaults.show(self.name, vault)).entries

    async def shown(self, vault: str) -> dict[str, str]:
        return {entry.name: entry.shown for entry in await self.entries(vault)}


@pytest.fixture
def tenant(batcher: Batcher, endpoint: str) -> Tenant:
    """A tenant that no other test uses, called as an endpoint."""
    return Tenant(endpoint, batcher, OLD)


class TestEnvironment:
    @pytest.mark.every_store
    async def test_values_come_out_as_they_went_in(self, tenant: Tenant) -> None:
        values = {"A": SECRET, "B": "a\nb\t=é€😀", "C": "x" * MOST_VALUE_BYTES, "_d1": " "}
        await tenant.make("v", **values)
        assert await tenant.environment("v") == values

    async def test_later_vaults_count_more(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1", B="1")
        await tenant.make("w", B="2", C="2")
        assert await tenant.environment("v", "w") == {"A": "1", "B": "2", "C": "2"}
        assert await tenant.environment("w", "v", "w") == {"A": "1", "B": "2", "C": "2"}
        assert await tenant.environment("w", "v") == {"A": "1", "B": "1", "C": "2"}
        assert await tenant.environment() == {}

    async def test_values_that_are_no_secrets_come_too(self, tenant: Tenant) -> None:
        await tenant.make("v")
        await tenant.set("v", "A", "plain", is_secret=False)
        assert await tenant.environment("v") == {"A": "plain"}

    @pytest.mark.parametrize("missing", ["w", "../v", "v:A", ""])
    async def test_a_vault_that_there_is_not(self, tenant: Tenant, missing: str) -> None:
        await tenant.make("v", A="1")
        with pytest.raises(Error) as caught:
            await tenant.environment("v", missing)
        assert caught.value.message == f"failed to resolve vaults [v {missing}]: vault '{missing}': vault not found"
        assert caught.value.status == 500

    async def test_one_value(self, tenant: Tenant) -> None:
        await tenant.make("v", A=SECRET)
        assert await tenant.vaults.value(tenant.name, "v", "A") == SECRET
        for vault, entry in (("v", "B"), ("w", "A")):
            with pytest.raises(NotFound):
                await tenant.vaults.value(tenant.name, vault, entry)


async def test_a_store_that_is_away_is_nothing_wrong_with_a_vault(own_server: Server, own_store: Store) -> None:
    tenant = Tenant("t", Batcher(own_store), OLD)
    await tenant.make("v", A="1")
    own_server.stop()
    with pytest.raises(Unavailable):
        await tenant.environment("v")
    await tenant.batcher.close()


class TestShown:
    async def test_secrets_are_masked_and_others_are_not(self, tenant: Tenant) -> None:
        await tenant.make("v", B="mysecret", C="abcd")
        await tenant.set("v", "A", "mysecret", is_secret=False)
        assert await tenant.shown("v") == {"A": "mysecret", "B": "my****et", "C": "****"}
        assert [entry.name for entry in await tenant.entries("v")] == ["A", "B", "C"]
        assert [entry.is_secret for entry in await tenant.entries("v")] == [False, True, True]

    async def test_the_list_is_by_name(self, tenant: Tenant) -> None:
        await tenant.make("w", A="1", B="2")
        await tenant.vaults.create(tenant.name, "v", "what it is für")
        assert await tenant.vaults.list(tenant.name) == [Listed("v", "what it is für", 0), Listed("w", "", 2)]

    async def test_a_value_that_is_set_again(self, tenant: Tenant) -> None:
        await tenant.make("v", A="first value")
        (before,) = await tenant.entries("v")
        await tenant.set("v", "A", "second", is_secret=False)
        (after,) = await tenant.entries("v")
        assert (after.shown, after.is_secret, after.created) == ("second", False, before.created)
        assert after.updated >= before.updated

    async def test_what_is_deleted_is_gone(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1", B="2")
        await tenant.vaults.unset_entry(tenant.name, "v", "A")
        assert await tenant.environment("v") == {"B": "2"}
        await tenant.vaults.delete(tenant.name, "v")
        assert await tenant.vaults.list(tenant.name) == []

    async def test_what_is_not_there(self, tenant: Tenant) -> None:
        await tenant.make("v")
        vaults, name = tenant.vaults, tenant.name
        for call in (
            vaults.show(name, "w"), vaults.delete(name, "w"), tenant.set("w", "A", "1"),
            vaults.unset_entry(name, "w", "A"), vaults.unset_entry(name, "v", "A"),
        ):  # fmt: skip
            with pytest.raises(NotFound):
                await call

    async def test_a_second_vault_of_a_name(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1")
        with pytest.raises(Conflict, match=r"^vault already exists$"):
            await tenant.vaults.create(tenant.name, "v")


class TestBounds:
    @pytest.mark.parametrize("name", ["", "a b", "a/b", "é", "a:b", "{v}", ".", "..", "x" * 65, "v\n", "PATH", "path",
                                      "Home", "virtual_env"])  # fmt: skip
    async def test_names_of_vaults(self, tenant: Tenant, name: str) -> None:
        with pytest.raises(BadRequest, match="vault name"):
            await tenant.vaults.create(tenant.name, name)
        assert await tenant.vaults.list(tenant.name) == []

    @pytest.mark.parametrize(
        "name", ["v", "-", "_", "...", ".v", "api-keys", "A.b_c-9", "x" * 64, "pathways", "env", "python-app"]
    )
    async def test_names_that_vaults_may_have(self, tenant: Tenant, name: str) -> None:
        await tenant.make(name, A="1")
        assert await tenant.environment(name) == {"A": "1"}

    @pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "é", "A\n", "A\0", "x" * 129])
    def test_names_of_entries(self, name: str) -> None:
        with pytest.raises(BadRequest, match="invalid key") as caught:
            check_entry(name)
        assert not name or name not in caught.value.message  # it may be a secret in the wrong place

    @pytest.mark.parametrize(
        "name",
        [*sorted(RESERVED), "Path", "home", "virtual_env", "PythonPath", "PYTHONSTARTUP", "PYTHONHOME",
         "pythonwarnings", "LD_PRELOAD", "ld_library_path", "LD_AUDIT", "DYLD_INSERT_LIBRARIES", "RUNLANE_URL",
         "runlane_worker_key", "RUNQY_API_KEY", "RUNQY_VAULT_MASTER_KEY"],
    )  # fmt: skip
    async def test_variables_that_would_take_over_a_worker(self, tenant: Tenant, name: str) -> None:
        await tenant.make("v")
        with pytest.raises(BadRequest, match="reserved"):
            await tenant.set("v", name, "x")
        assert await tenant.environment("v") == {}

    @pytest.mark.parametrize("name", ["A", "_", "PATHS", "MY_PATH", "OPENAI_API_KEY", "RUNPOD_API_KEY", "a1", "LDX"])
    def test_variables_that_a_task_may_have(self, name: str) -> None:
        check_entry(name)

    @pytest.mark.parametrize("value", ["x" * (MOST_VALUE_BYTES + 1), "é" * (MOST_VALUE_BYTES // 2 + 1), "a\0b", "\0"])
    async def test_values_that_no_variable_should_have(self, tenant: Tenant, value: str) -> None:
        await tenant.make("v")
        with pytest.raises(BadRequest):
            await tenant.set("v", "A", value)
        assert await tenant.environment("v") == {}

    async def test_a_vault_is_full(self, tenant: Tenant) -> None:
        await tenant.make("v", **{f"A{i}": "x" * MOST_VALUE_BYTES for i in range(15)})
        with pytest.raises(Conflict, match="full"):
            await tenant.set("v", "B", "x" * MOST_VALUE_BYTES)
        assert len(await tenant.environment("v")) == 15

    async def test_a_description_has_an_end(self, tenant: Tenant) -> None:
        await tenant.vaults.create(tenant.name, "v", "é" * 500)
        with pytest.raises(BadRequest, match="description"):
            await tenant.vaults.create(tenant.name, "w", "x" * 501)


class TestMask:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [("", ""), ("a", "****"), ("abcd", "****"), ("é", "****"), ("éé", "****"), ("😀", "****"),
         ("abcde", "ab****de"), ("mysecret", "my****et"), ("sk-0123456789-xyz", "sk****yz"), ("éaé", "é****é"),
         ("a€b€c", "a****c"), ("€€", "****"), ("aéb", "****"), ("aébc", "a****bc"), ("😀a", "****a")],
    )  # fmt: skip
    def test_by_bytes(self, value: str, shown: str) -> None:
        assert masked(value) == shown

    @given(st.text() | st.text("aé€😀", max_size=6))
    def test_never_more_than_the_first_two_bytes_and_the_last(self, value: str) -> None:
        data, shown = value.encode(), masked(value)
        shown.encode()  # it is Unicode
        if len(data) < 5:
            assert shown == ("****" if data else "")
            return
        # Where it begins or ends with asterisks of its own, they are as good as those of the mask.
        assert any(
            data[:2].startswith(shown[:at].encode()) and data[-2:].endswith(shown[at + 4 :].encode())
            for at in range(len(shown) - 3)
            if shown[at : at + 4] == "****"
        )

    @given(st.text(st.characters(max_codepoint=127), min_size=5))
    def test_exactly_those_of_ascii(self, value: str) -> None:
        assert masked(value) == f"{value[:2]}****{value[-2:]}"


class TestMasterKeys:
    @pytest.mark.parametrize(
        "entry",
        ["", "x", "not base64!", base64.b64encode(b"x" * 31).decode(), base64.b64encode(b"x" * 33).decode(),
         "A" * 43, base64.urlsafe_b64encode(b"\xff" * 32).decode(), "é" * 44, f"{'A' * 20} {'A' * 23}="],
    )  # fmt: skip
    def test_one_that_is_none_ends_the_start(self, entry: str) -> None:
        with pytest.raises(StartupError) as caught:
            MasterKeys((OLD, entry))
        says = str(caught.value)
        assert "RUNQY_VAULT_MASTER_KEY" in says
        assert "openssl rand -base64 32" in says
        assert "key 2 is not" in says
        assert "\n" not in says
        assert OLD not in says
        assert len(entry) < 3 or entry not in says

    @pytest.mark.parametrize("call", ["create", "delete", "list", "show", "set", "unset", "environment", "value",
                                      "rotate"])  # fmt: skip
    async def test_without_any_there_are_no_vaults(self, tenant: Tenant, call: str) -> None:
        none, name = tenant.with_keys(), tenant.name
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "create": lambda: none.vaults.create(name, "v"), "delete": lambda: none.vaults.delete(name, "v"),
            "list": lambda: none.vaults.list(name), "show": lambda: none.vaults.show(name, "v"),
            "set": lambda: none.set("v", "A", "1"), "unset": lambda: none.vaults.unset_entry(name, "v", "A"),
            "environment": lambda: none.environment("v"), "value": lambda: none.vaults.value(name, "v", "A"),
            "rotate": lambda: none.vaults.rotate(name),
        }  # fmt: skip
        await tenant.make("v", A="1")
        assert not none.vaults.enabled
        with pytest.raises(NotSetUp) as caught:
            await calls[call]()
        assert (caught.value.status, caught.value.message) == (
            503, "vaults not enabled. Set RUNQY_VAULT_MASTER_KEY environment variable. Generate a key with: openssl "
            "rand -base64 32",
        )  # fmt: skip
        assert await tenant.environment("v") == {"A": "1"}

    async def test_another_key_is_a_loud_error(self, tenant: Tenant, caplog: pytest.LogCaptureFixture) -> None:
        await tenant.make("vault-1", A_KEY=SECRET)
        other = tenant.with_keys(NEW)
        for call in (
            other.environment("vault-1"), other.shown("vault-1"), other.vaults.value(tenant.name, "vault-1", "A_KEY"),
            other.vaults.rotate(tenant.name),
        ):  # fmt: skip
            caplog.clear()
            with caplog.at_level(logging.ERROR), pytest.raises(Error) as caught:
                await call
            assert caught.value.status == 500
            for said in (caught.value.message, caplog.text):
                assert "entry 'A_KEY' of vault 'vault-1' cannot be decrypted" in said
                assert "RUNQY_VAULT_MASTER_KEY" in said
                assert not [hidden for hidden in (SECRET, OLD, NEW) if hidden in said]

    async def test_what_cannot_be_decrypted_can_be_set_anew_or_deleted(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1", B="2")
        other = tenant.with_keys(NEW)
        await other.set("v", "A", "3")
        await other.vaults.unset_entry(tenant.name, "v", "B")
        assert await other.environment("v") == {"A": "3"}


class Rows:
    """What the store has of a tenant's entries, without the times before it."""

    def __init__(self, server: Any, tenant: str, vault: str = "v") -> None:
        self.client: Any = redis.Redis.from_url(server.url)
        self.key = f"{keys.vaults(tenant)}:{vault}"

    def get(self, entry: str = "A") -> bytes:
        sealed: bytes = self.client.hget(self.key, entry).split(b" ", 2)[2]
        return sealed

    def put(self, sealed: bytes, entry: str = "A") -> None:
        self.client.hset(self.key, entry, b"1 1 " + sealed)


TAMPERED = "was changed in the store, or moved from another place"


class TestTampering:
    async def test_a_value_is_good_in_its_place_alone(self, tenant: Tenant, batcher: Batcher, server: Server) -> None:
        stranger = Tenant(f"{tenant.name}-2", batcher, OLD)
        for owner in (tenant, stranger):
            for vault in ("v", "w"):
                await owner.make(vault, A=f"{owner.name} {vault} A", B=f"{owner.name} {vault} B")
        own = Rows(server, tenant.name)
        moved = [own.get("B"), Rows(server, tenant.name, "w").get(), Rows(server, stranger.name).get()]
        for sealed in moved:
            own.put(sealed)
            with pytest.raises(Error, match=TAMPERED):
                await tenant.vaults.value(tenant.name, "v", "A")
        assert await tenant.vaults.value(tenant.name, "v", "B") == f"{tenant.name} v B"

    async def test_names_do_not_run_into_each_other(self, tenant: Tenant, server: Server) -> None:
        await tenant.make("v", AB="1")
        await tenant.make("vA", B="2")
        Rows(server, tenant.name).put(Rows(server, tenant.name, "vA").get("B"), "AB")
        with pytest.raises(Error, match=TAMPERED):
            await tenant.environment("v")

    async def test_a_secret_cannot_be_made_one_that_is_shown(self, tenant: Tenant, server: Server) -> None:
        await tenant.make("v", A=SECRET)
        rows = Rows(server, tenant.name)
        sealed = rows.get()
        assert sealed.count(b"\xc3") >= 1  # MessagePack's true
        for at in [i for i, byte in enumerate(sealed) if byte == 0xC3]:
            rows.put(sealed[:at] + b"\xc2" + sealed[at + 1 :])
            with pytest.raises(Error, match="cannot be decrypted"):
                await tenant.shown("v")
        rows.put(sealed)
        assert await tenant.shown("v") == {"A": "sk****dy"}

    @pytest.mark.parametrize(
        "written", [b"", b"x", b"1 1 ", b"1 1 x", b"x y z", b"1 1 \x94\xc4\x00\xc3\xc4\x00\xc4\x00"]
    )
    async def test_garbage(self, tenant: Tenant, server: Server, written: bytes) -> None:
        await tenant.make("v", A="1")
        rows = Rows(server, tenant.name)
        rows.client.hset(rows.key, "A", written)
        for call in (tenant.shown("v"), tenant.environment("v"), tenant.vaults.rotate(tenant.name)):
            with pytest.raises(Error, match="entry 'A' of vault 'v' cannot be decrypted"):
                await call

    async def test_an_entry_that_was_slipped_in(self, tenant: Tenant, server: Server) -> None:
        await tenant.make("v", A="/tmp/evil.so")
        rows = Rows(server, tenant.name)
        rows.put(rows.get(), "LD_PRELOAD")
        with pytest.raises(Error, match="entry 'LD_PRELOAD' of vault 'v' cannot be decrypted"):
            await tenant.environment("v")

    @given(st.data())
    def test_each_bit_counts(self, data: st.DataObject) -> None:
        master_keys, place = MasterKeys((OLD, NEW)), Place("t", "v", "A")
        sealed = master_keys.seal(place, Value(SECRET, True))
        at = data.draw(st.integers(0, len(sealed) * 8 - 1))
        changed = bytearray(sealed)
        changed[at // 8] ^= 1 << at % 8
        with pytest.raises(Error, match="cannot be decrypted"):
            master_keys.open(place, bytes(changed))
        with pytest.raises(Error, match="cannot be decrypted"):
            master_keys.open(place, sealed[: at // 8])

    def test_no_two_are_alike(self) -> None:
        master_keys, place = MasterKeys((OLD,)), Place("t", "v", "A")
        sealed = [master_keys.seal(place, Value("the same", True)) for _ in range(50)]
        assert len({each[-24:] for each in sealed}) == len({each[:30] for each in sealed}) == 50


class TestTenants:
    async def test_each_has_its_own(self, tenant: Tenant, batcher: Batcher) -> None:
        other = Tenant(f"{tenant.name}-2", batcher, OLD)
        for owner in (tenant, other):
            await owner.make("v", A=owner.name)
        await other.vaults.delete(other.name, "v")
        assert await tenant.environment("v") == {"A": tenant.name}
        assert await other.vaults.list(other.name) == []
        with pytest.raises(Error, match="vault not found"):
            await other.environment("v")


class Meanwhile:
    """A batcher by which something happens just before the first call of a function."""

    def __init__(self, batcher: Batcher, function: str, action: Callable[[], Awaitable[Any]]) -> None:
        self._batcher = batcher
        self._function = function
        self._actions = [action]

    async def call(self, base: str, function: str, *arguments: Any) -> Any:
        if function == self._function and self._actions:
            await self._actions.pop()()
        return await self._batcher.call(base, function, *arguments)


class TestRotation:
    async def test_all_are_encrypted_with_the_first_key(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1", B="2")
        await tenant.make("w", C=SECRET)
        await tenant.set("w", "D", "plain", is_secret=False)
        await tenant.make("empty")
        both, new = tenant.with_keys(NEW, OLD), tenant.with_keys(NEW)
        before = [await both.entries(vault) for vault in ("v", "w")]
        await both.set("v", "B", "3")
        assert await both.vaults.rotate(tenant.name) == Rotated(3, 1)
        assert await both.vaults.rotate(tenant.name) == Rotated(0, 4)
        assert await new.environment("v", "w") == {"A": "1", "B": "3", "C": SECRET, "D": "plain"}
        assert await new.entries("w") == before[1]  # with the times at which their owner changed them
        with pytest.raises(Error, match="cannot be decrypted"):
            await tenant.environment("w")

    async def test_before_it_both_keys_are_good(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1")
        both = tenant.with_keys(NEW, OLD)
        await both.set("v", "B", "2")
        assert await both.environment("v") == {"A": "1", "B": "2"}
        assert await tenant.with_keys(OLD, NEW).environment("v") == {"A": "1", "B": "2"}

    async def test_it_is_one_tenant_s(self, tenant: Tenant, batcher: Batcher) -> None:
        other = Tenant(f"{tenant.name}-2", batcher, OLD)
        for owner in (tenant, other):
            await owner.make("v", A="1")
        assert await tenant.with_keys(NEW, OLD).vaults.rotate(tenant.name) == Rotated(1, 0)
        assert await other.environment("v") == {"A": "1"}

    @pytest.mark.parametrize("by", [(NEW, OLD), (OLD,)])
    async def test_what_is_set_meanwhile_stays_set(self, tenant: Tenant, batcher: Batcher, by: tuple[str, ...]) -> None:
        """By a gateway that has both keys, and by one that has the old one alone."""
        await tenant.make("v", A="1", B="2")
        setting = tenant.with_keys(*by)
        meanwhile = Meanwhile(batcher, "vault_replace", lambda: setting.set("v", "A", "set meanwhile"))
        rotating = Tenant(tenant.name, meanwhile, NEW, OLD)
        assert await rotating.vaults.rotate(tenant.name) == (Rotated(1, 1) if NEW in by else Rotated(2, 0))
        assert await tenant.with_keys(NEW).environment("v") == {"A": "set meanwhile", "B": "2"}

    @pytest.mark.parametrize("function", ["vault_read", "vault_replace"])
    async def test_what_is_deleted_meanwhile_stays_deleted(
        self, tenant: Tenant, batcher: Batcher, function: str
    ) -> None:
        await tenant.make("v", A="1")
        await tenant.make("w", B="2")
        meanwhile = Meanwhile(batcher, function, lambda: tenant.vaults.delete(tenant.name, "v"))
        assert await Tenant(tenant.name, meanwhile, NEW, OLD).vaults.rotate(tenant.name) == Rotated(1, 0)
        assert await tenant.vaults.list(tenant.name) == [Listed("w", "", 1)]

    async def test_with_one_key_there_is_nothing_to_do(self, tenant: Tenant) -> None:
        await tenant.make("v", A="1")
        assert await tenant.vaults.rotate(tenant.name) == Rotated(0, 1)


async def test_nothing_is_in_the_store_in_the_clear(own_server: Server, own_store: Store) -> None:
    batcher = Batcher(own_store)
    tenant = Tenant("t", batcher, OLD)
    values = [SECRET, "plain-but-encrypted-too", "replaced-by-another"]
    await tenant.make("v", A=values[2])
    await tenant.set("v", "A", SECRET)
    await tenant.set("v", "B", values[1], is_secret=False)
    await tenant.with_keys(NEW, OLD).vaults.rotate("t")
    await tenant.with_keys(NEW).environment("v")
    await batcher.close()
    client: Any = own_server.client
    names = list(client.scan_iter(count=1000))
    assert f"{keys.vaults('t')}:v".encode() in names
    assert {client.type(name) for name in names} == {b"hash"}
    rows = [part for name in names for pair in client.hgetall(name).items() for part in pair]
    own_server.stop()
    files = b"".join(path.read_bytes() for path in own_server.folder.rglob("*") if path.is_file())
    assert not [row for row in rows if row not in files]  # it is where to look, and not compressed
    for value in (*values, OLD, NEW):
        forms = [value.encode(), base64.b64encode(value.encode())[:-4], value.encode().hex().encode()]
        assert not [form for form in forms if form in files]
