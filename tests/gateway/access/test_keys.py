import httpx
import pytest

from gateway.access.access import configured_keys
from gateway.access.keys import CLIENT_SCOPES, TENANT_SCOPES, Key, Scope, digest, hashed, presented_key
from gateway.errors import StartupError
from gateway.settings import Settings, load

from ..clients import API_KEY, Target, Worker
from ..conftest import Make, client_of
from ..dialects.test_runpod import METHODS
from ..processes import Gateway

# by themselves


@pytest.mark.parametrize(
    ("authorization", "api_key", "key"),
    [("Bearer k", "", "k"), ("bearer k", "", "k"), ("Bearer   k ", "", "k"), ("k", "", "k"), (" k ", "", "k"),
     ("", "", ""), ("Bearer", "", ""), ("Bearer ", "", ""), ("Basic k", "", "Basic k"), ("Bearer a b", "", "a b"),
     ("", "x", "x"), ("", " x ", "x"), ("Bearer k", "x", "k"), ("k", "x", "k"), ("Basic k", "x", "x"),
     ("Bearer", "x", "")],
)  # fmt: skip
def test_the_key_in_the_headers(authorization: str, api_key: str, key: str) -> None:
    assert presented_key(authorization, api_key) == key


HEX = digest("k")


@pytest.mark.parametrize(
    ("entry", "kept"),
    [("k", f"sha256:{HEX}"), ("a:k", f"a:sha256:{HEX}"), (" a : k ", f"a:sha256:{HEX}"),
     ("a:b:c", f"a:sha256:{digest('b:c')}"), (f"sha256:{HEX}", f"sha256:{HEX}"), (f"a:sha256:{HEX}", f"a:sha256:{HEX}"),
     (f"e:f:sha256:{HEX}", f"e:f:sha256:{HEX}"), ("", ""), ("a:", "a:"), ("a: ", "a: ")],
)  # fmt: skip
def test_what_is_kept_of_a_key_of_the_settings(entry: str, kept: str) -> None:
    assert hashed(entry) == kept


def found(key: str, **settings: object) -> Key | None:
    return configured_keys(Settings(**settings)).find(digest(key))  # type: ignore[arg-type]


def held(key: Key | None) -> tuple[str, frozenset[Scope]]:
    assert key is not None
    return key.tenant, key.terms.scopes


@pytest.mark.parametrize(
    ("settings", "tenant", "scopes"),
    [({"api_keys": ("k",)}, "default", TENANT_SCOPES), ({"api_keys": ("x", "acme:k")}, "acme", TENANT_SCOPES),
     ({"admin_keys": ("acme:k",)}, "acme", frozenset(Scope)), ({"runqy_api_key": "k"}, "default", TENANT_SCOPES),
     ({"runqy_client_api_key": "k"}, "default", CLIENT_SCOPES),
     ({"runqy_worker_api_key": "k"}, "default", frozenset({Scope.WORKER})),
     ({"rune_api_tokens": ("bad", "c:k")}, "c", TENANT_SCOPES)],
)  # fmt: skip
def test_whose_key_of_the_settings_it_is(settings: dict[str, object], tenant: str, scopes: frozenset[Scope]) -> None:
    assert held(found("k", **settings)) == (tenant, scopes)
    assert found("K", **settings) is None


def test_a_tenant_may_have_several_keys() -> None:
    for key in ("one", "two"):
        assert held(found(key, api_keys=("a:one", "a:two")))[0] == "a"


def test_a_worker_key_of_the_settings() -> None:
    key = found("k:1", api_keys=("x",), worker_keys=("e:k:1", "f:other", "acme/g:third"))
    assert key is not None
    assert (held(key), key.terms.endpoints) == (("default", frozenset({Scope.WORKER})), ("e",))
    third = found("third", api_keys=("x",), worker_keys=("acme/g:third",))
    assert third is not None
    assert (third.tenant, third.terms.endpoints) == ("acme", ("g",))


@pytest.mark.parametrize("key", ["", " ", "name:", "name: ", "a b:k", "-a:k", "é:k"])
def test_a_key_that_cannot_be_one_is_a_mistake_and_opens_nothing(key: str) -> None:
    with pytest.raises(StartupError, match="api_keys"):
        configured_keys(Settings(api_keys=(key,)))


@pytest.mark.parametrize("key", ["", "e", "e:", ":k", ":", "a b/e:k", "/e:k"])
def test_a_worker_key_that_names_no_endpoint(key: str) -> None:
    with pytest.raises(StartupError, match="ENDPOINT:KEY"):
        configured_keys(Settings(api_keys=("x",), worker_keys=(key,)))


def test_rune_s_tokens_are_read_as_rune_does() -> None:
    keys = configured_keys(load({"RUNE_API_TOKENS": "a:b,c:d:e, f : g ,bad,:x,y:"}))
    held_by = {token: key and key.tenant for token in ("b", "d:e", "g") for key in [keys.find(digest(token))]}
    assert held_by == {"b": "a", "d:e": "c", "g": "f"}
    assert [keys.find(digest(token)) for token in ("bad", "x", ":x", "")] == [None] * 4


def test_one_key_in_several_settings_may_do_what_each_of_them_says() -> None:
    runqy = {"runqy_api_key": "k", "runqy_client_api_key": "k", "runqy_worker_api_key": "k"}
    assert held(found("k", **runqy)) == ("default", TENANT_SCOPES)
    assert held(found("k", admin_keys=("a:k",), api_keys=("a:k",))) == ("a", frozenset(Scope))
    both = found("k", runqy_worker_api_key="k", worker_keys=("e:k",))
    assert both is not None
    assert both.terms.endpoints == ()  # as the first one says


@pytest.mark.parametrize(
    "settings",
    [{"api_keys": ("a:k", "b:k")}, {"api_keys": ("a:k",), "admin_keys": ("b:k",)},
     {"worker_keys": ("a/e:k", "b/f:k")}, {"api_keys": ("a:k",), "worker_keys": ("b/f:k",)}],
)  # fmt: skip
def test_one_key_of_two_tenants_is_a_mistake(settings: dict[str, object]) -> None:
    with pytest.raises(StartupError, match="two tenants"):
        found("k", **settings)


# through the gateway


@pytest.mark.parametrize("key", ["", "wrong", API_KEY[:-1], API_KEY + "x", "tests", f"tests:{API_KEY}", "é"])
async def test_without_a_key_of_ours_nothing_is_answered(gateway: Gateway, target: Target, key: str) -> None:
    id = await target.run(1)
    async with client_of(gateway, key) as http:
        for path, methods in METHODS.items():
            path = path.replace("/x", f"/{id}")
            response = await http.request(min(methods), f"{target.path}/{path}", json={"input": 1})
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json().keys() == {"error"}
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", f"/{target.id}"), ("PATCH", f"/{target.id}")):
            assert (await http.request(method, f"/v1/endpoints{path}", json={})).status_code == 401
        for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/k"), ("POST", "/k/rotate")):
            assert (await http.request(method, f"/v1/keys{path}", json={})).status_code == 401
    assert await target.listed() == [id]
    assert (await target.status(id))["status"] == "IN_QUEUE"


async def test_a_missing_header(gateway: Gateway, target: Target) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        assert (await http.get(f"{gateway.url}{target.path}/health")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": API_KEY}, {"Authorization": f"Bearer {API_KEY}"}, {"Authorization": f"bearer {API_KEY}"},
     {"Authorization": "rl-other-key"}, {"X-API-Key": API_KEY}, {"Authorization": "Basic x", "X-API-Key": API_KEY}],
)  # fmt: skip
async def test_where_a_key_may_stand(gateway: Gateway, target: Target, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        assert (await http.get(f"{gateway.url}{target.path}/health", headers=headers)).status_code == 200


async def test_without_a_key_nobody_learns_what_there_is(gateway: Gateway, target: Target) -> None:
    async with client_of(gateway, "wrong") as http:
        answers = [await http.get(f"/v2/{id}/health") for id in (target.id, "missing", "{}")]
    assert {answer.status_code for answer in answers} == {401}


async def test_a_worker_key_is_no_key_of_a_client(make_target: Make, gateway: Gateway) -> None:
    target = await make_target()
    async with client_of(gateway, target.worker_key) as http:
        assert (await http.post(f"{target.path}/run", json={"input": 1})).status_code == 403
        assert (await http.get("/v1/endpoints")).status_code == 403
    assert await target.listed() == []


async def test_a_worker_s_user_is_no_key_either(gateway: Gateway, target: Target, worker: Worker) -> None:
    password = worker.registered["redis"]["url"].partition("@")[0].rpartition(":")[2]
    async with client_of(gateway, password) as http:
        assert (await http.get(f"{target.path}/health")).status_code == 401
