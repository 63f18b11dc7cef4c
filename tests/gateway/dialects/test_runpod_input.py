"""Requests that are wrong: each is refused with the right status and body, and makes no job."""

import json
import string
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..clients import API_KEY, Target, Worker, bearer
from ..processes import Gateway

NOT_JSON = {
    "nothing": b"",
    "blanks": b" \n",
    "text": b"input=1",
    "cut off": b'{"input": [1, 2',
    "trailing text": b'{"input": 1} {"input": 2}',
    "trailing comma": b'{"input": 1,}',
    "single quotes": b"{'input': 1}",
    "comment": b'{"input": 1 /* one */}',
    "NaN": b'{"input": NaN}',
    "Infinity": b'{"input": [-Infinity]}',
    "leading zero": b'{"input": 012}',
    "lone high surrogate": rb'{"input": "\ud800"}',
    "lone low surrogate": rb'{"input": {"a": ["\udc00"]}}',
    "surrogates the wrong way round": rb'{"input": "\udc00\ud800"}',
    "lone surrogate in a key": rb'{"input": {"\ud83d": 1}}',
    "lone surrogate in another field": rb'{"input": 1, "webhook": "\ud800"}',
    "lone surrogate in a policy's key": rb'{"input": 1, "policy": {"\ud800": 1}}',
    "lone surrogate in a field's name": rb'{"input": 1, "\ud800": 1}',
    "invalid UTF-8": b'{"input": "\xff\xfe"}',
    "overlong UTF-8": b'{"input": "\xc0\xaf"}',
    "UTF-8 of a surrogate": b'{"input": "\xed\xa0\x80"}',
    "UTF-8 cut off": b'{"input": "\xe2\x82"}',
    "UTF-16": '{"input": 1}'.encode("utf-16"),
    "byte order mark": b'\xef\xbb\xbf{"input": 1}',
    "raw NUL in a string": b'{"input": "a\x00b"}',
    "raw NUL between": b'{"input":\x00 1}',
    "raw NUL at the end": b'{"input": 1}\x00',
    "raw NUL alone": b"\x00",
    "raw line feed in a string": b'{"input": "a\nb"}',
    "unknown escape": rb'{"input": "\x41"}',
    "short escape": rb'{"input": "\u12"}',
    "100,000 lists": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"input": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "100,000 open lists": b"[" * 100_000,
    "100,000 lists in another field": b'{"input": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 lists in the policy": b'{"input": 1, "policy": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}

NOT_A_REQUEST = {
    "null": b"null",
    "list": b'[{"input": 1}]',
    "string": b'"input"',
    "number": b"1",
    "true": b"true",
    "empty object": b"{}",
    "no input": b'{"Input": 1, "prompt": "x"}',
    "input further in": b'{"request": {"input": 1}}',
    "webhook is a number": b'{"input": 1, "webhook": 5}',
    "webhook is a list": b'{"input": 1, "webhook": ["https://example.com"]}',
    "policy is a string": b'{"input": 1, "policy": "low"}',
    "policy is a list": b'{"input": 1, "policy": []}',
    "policy is true": b'{"input": 1, "policy": true}',
    "ttl is a string": b'{"input": 1, "policy": {"ttl": "60000"}}',
}


@pytest.mark.parametrize("path", ["/run", "/runsync"])
@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in (NOT_JSON | NOT_A_REQUEST).items()])
async def test_a_wrong_body_is_refused_and_makes_no_job(target: Target, path: str, body: bytes) -> None:
    response = await target.post(path, body)
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert response.json()["error"]
    assert (await target.health())["jobs"]["inQueue"] == 0
    assert await target.listed() == []


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"{", "not valid JSON"), (b"[]", "must be a JSON object"), (b"{}", 'no "input"'), (b"\xff", "UTF-8"),
     (NOT_JSON["100,000 lists"], "nested too deeply"), (b'{"input": 1, "webhook": 1}', "webhook")],
)  # fmt: skip
async def test_the_error_says_what_is_wrong(target: Target, body: bytes, says: str) -> None:
    assert says in (await target.post("/run", body)).json()["error"]


async def test_the_content_type_does_not_matter(target: Target, worker: Worker) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data", ""):
        response = await target.post("/run", b'{"input": "x"}', headers={"Content-Type": kind})
        assert response.status_code == 200
    assert [job.input for job in worker.take(9)] == [b'"x"'] * 4


@pytest.mark.parametrize("key", ["é", "日本", "a b", '"', "\\", "{}", "*", "a\tb"])
async def test_any_idempotency_key_that_a_header_can_carry(target: Target, key: str) -> None:
    headers = {"Idempotency-Key": key.encode()}
    ids = {(await target.post("/run", {"input": 1}, headers=headers)).json()["id"] for _ in range(2)}
    assert len(ids) == 1


@pytest.mark.parametrize("query", ["ttl=%ff", "ttl=60000&ttl=x", "%00=1", "&&&", "=", "ttl", "a=" + "x" * 10_000])
async def test_a_strange_query_is_no_fault_of_the_gateway_s(target: Target, query: str) -> None:
    response = await target.post(f"/run?{query}", {"input": 1})
    assert response.status_code in (200, 400), response.text
    assert len(await target.listed()) == (response.status_code == 200)


# at random


@pytest.fixture(scope="module")
def endpoint_url(gateway: Gateway) -> Iterator[str]:
    """An endpoint for a module's worth of requests."""
    headers = bearer(API_KEY)
    created = httpx.post(f"{gateway.url}/v1/endpoints", json={}, headers=headers).json()
    yield f"{gateway.url}/v2/{created['id']}"
    httpx.delete(f"{gateway.url}/v1/endpoints/{created['id']}", headers=headers)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(headers=bearer(API_KEY)) as client:
        yield client


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
names = st.sampled_from(["input", "policy", "webhook", "webhookV2", "s3Config"]) | st.text(max_size=5)
policies = st.dictionaries(st.sampled_from(["ttl", "executionTimeout", "lowPriority", "x"]), values, max_size=3)
requests = st.dictionaries(names, values, max_size=4) | st.fixed_dictionaries(
    {"input": values}, optional={"policy": policies | values, "webhook": values}
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON, often of a request, whole or with a few bytes replaced, put in or cut off."""
    value = draw(requests | values)
    body = bytearray(json.dumps(value, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3) | st.sampled_from(TOKENS))
    return bytes(body)


TOKENS = [token.encode() for token in (*string.punctuation, "\\u", "\\ud800", "\x00", "1e9", "NaN", "[[[[", "}", '"')]

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def check(client: httpx.Client, url: str, body: bytes) -> None:
    """Sends the body; what the gateway takes is a request, and what it refuses makes no job."""
    before = client.get(f"{url}/health").json()["jobs"]["inQueue"]
    response = client.post(f"{url}/run", content=body)
    after = client.get(f"{url}/health").json()["jobs"]["inQueue"]
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code == 200:
        assert "input" in json.loads(body)
        assert after == before + 1
    else:
        assert response.json().keys() == {"error"}
        assert after == before


@FUZZ
@given(body=st.binary(max_size=200))
def test_any_bytes(client: httpx.Client, endpoint_url: str, body: bytes) -> None:
    check(client, endpoint_url, body)


@FUZZ
@given(body=bodies())
def test_anything_that_is_nearly_json(client: httpx.Client, endpoint_url: str, body: bytes) -> None:
    check(client, endpoint_url, body)


@FUZZ
@given(id=st.text(min_size=1, max_size=80), operation=st.sampled_from(["status", "stream", "cancel", "retry"]))
def test_any_id(client: httpx.Client, endpoint_url: str, id: str, operation: str) -> None:
    path = "".join(f"%{byte:02x}" for byte in id.encode(errors="surrogatepass"))
    for url in (f"{endpoint_url}/{operation}/{path}", f"{endpoint_url.rpartition('/')[0]}/{path}/{operation}/x"):
        response = client.post(url)
        assert response.status_code in (404, 405), response.text
        assert response.json().keys() == {"error"}
