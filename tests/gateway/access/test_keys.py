import httpx
import pytest

from gateway.access.keys import ApiKeys, WorkerKeys, presented_key
from gateway.engine.endpoints import digest
from gateway.errors import StartupError, Unauthorized

from ..clients import API_KEY, Target, Worker
from ..conftest import Make, client_of
from ..dialects.test_runpod import METHODS
from ..processes import Gateway

# by themselves


@pytest.mark.parametrize(
    ("header", "key"),
    [("Bearer k", "k"), ("bearer k", "k"), ("Bearer   k ", "k"), ("k", "k"), (" k ", "k"), ("", ""), ("Bearer", ""),
     ("Bearer ", ""), ("Basic k", "Basic k"), ("Bearer a b", "a b")],
)  # fmt: skip
def test_the_key_in_a_header(header: str, key: str) -> None:
    assert presented_key(header) == key


@pytest.mark.parametrize("keys", [("k",), ("name:k",), ("a:b:k",), ("other", "name:k")])
def test_a_key_of_ours_passes(keys: tuple[str, ...]) -> None:
    ApiKeys(keys, insecure=False).check("Bearer k")


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer x", "Bearer name", "Bearer name:k", "Bearer K", "k k", "Bearer k\0"]
)
def test_any_other_key_does_not(header: str) -> None:
    with pytest.raises(Unauthorized) as caught:
        ApiKeys(["name:k"], insecure=False).check(header)
    assert (caught.value.status, caught.value.headers) == (401, {"WWW-Authenticate": "Bearer"})


def test_no_keys_at_all_need_to_be_wanted() -> None:
    with pytest.raises(StartupError, match="RUNLANE_API_KEYS"):
        ApiKeys([], insecure=False)
    ApiKeys([], insecure=True).check("")


def test_keys_count_though_serving_without_is_allowed() -> None:
    with pytest.raises(Unauthorized):
        ApiKeys(["k"], insecure=True).check("")


@pytest.mark.parametrize("key", ["", " ", "name:", "name: "])
def test_an_empty_key_is_a_mistake_and_opens_nothing(key: str) -> None:
    with pytest.raises(StartupError):
        ApiKeys([key], insecure=False)


def test_a_worker_key_from_the_settings() -> None:
    keys = WorkerKeys(["e:k:1", "f:other"], insecure=False)
    keys.check("e", digest("own"), "Bearer k:1")
    keys.check("e", digest("own"), "Bearer own")
    for endpoint, key in (("e", "other"), ("f", "k:1"), ("e", "k"), ("e", "")):
        with pytest.raises(Unauthorized, match=endpoint):
            keys.check(endpoint, digest("own"), f"Bearer {key}")


@pytest.mark.parametrize("key", ["", "e", "e:", ":k", ":"])
def test_a_worker_key_that_names_no_endpoint(key: str) -> None:
    with pytest.raises(StartupError, match="ENDPOINT:KEY"):
        WorkerKeys([key], insecure=False)


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
    assert await target.listed() == [id]
    assert (await target.status(id))["status"] == "IN_QUEUE"


async def test_a_missing_header(gateway: Gateway, target: Target) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        assert (await http.get(f"{gateway.url}{target.path}/health")).status_code == 401


@pytest.mark.parametrize("header", [API_KEY, f"Bearer {API_KEY}", f"bearer {API_KEY}", "rl-other-key"])
async def test_a_key_may_come_bare(target: Target, header: str) -> None:
    response = await target.get("/health", headers={"Authorization": header})
    assert response.status_code == 200


async def test_without_a_key_nobody_learns_what_there_is(gateway: Gateway, target: Target) -> None:
    async with client_of(gateway, "wrong") as http:
        answers = [await http.get(f"/v2/{id}/health") for id in (target.id, "missing", "{}")]
    assert {answer.status_code for answer in answers} == {401}


async def test_a_worker_key_is_no_key_of_a_client(make_target: Make, gateway: Gateway) -> None:
    target = await make_target()
    async with client_of(gateway, target.worker_key) as http:
        assert (await http.post(f"{target.path}/run", json={"input": 1})).status_code == 401
        assert (await http.get("/v1/endpoints")).status_code == 401
    assert await target.listed() == []


async def test_a_worker_s_user_is_no_key_either(gateway: Gateway, target: Target, worker: Worker) -> None:
    password = worker.registered["redis"]["url"].partition("@")[0].rpartition(":")[2]
    async with client_of(gateway, password) as http:
        assert (await http.get(f"{target.path}/health")).status_code == 401
