"""The OpenAPI document, and the page to read it on."""

import re
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from msgspec.structs import fields
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.app import App
from gateway.dialects.runpod import parse_submission
from gateway.dialects.runpod_types import JobRequest
from gateway.errors import BadRequest
from gateway.http import Call
from gateway.job_object import JobObject
from gateway.openapi import document
from gateway.settings import Settings

from ..stores import Server
from .clients import API_KEY, Target, Worker
from .processes import Gateway

PAGE = "/swagger/index.html"


@pytest.fixture
async def app(backing: Server) -> AsyncIterator[App]:
    """An app with all its operations."""
    app = App(Settings(redis_url=backing.url, insecure=True))
    async with app.connected():
        yield app


@pytest.fixture
async def anyone(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        yield client


def operations(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation for path, item in found["paths"].items() for method, operation in item.items()
    }


class TestDocument:
    async def test_has_every_route(self, app: App) -> None:
        served = {(method, path.replace(":path", "")) for path, methods in app.served.items() for method in methods}
        assert operations(document(app.documented)).keys() == served

    async def test_is_valid(self, app: App) -> None:
        OpenAPIV31SpecValidator(document(app.documented)).validate()

    async def test_says_what_each_operation_does_and_needs(self, app: App) -> None:
        for operation, said in operations(document(app.documented)).items():
            assert re.fullmatch(r"[A-Z][^.]+", said["summary"]), operation
            assert bool(said["security"]) == ("Needs a key with the scope" in said["description"]), operation
            if said["security"]:
                assert {"401", "403", "503"} <= said["responses"].keys(), operation

    async def test_names_types_in_words(self, app: App) -> None:
        names = document(app.documented)["components"]["schemas"].keys()
        assert [name for name in names if not re.fullmatch("[A-Z][A-Za-z]+", name)] == []

    async def test_is_served_to_anyone(self, anyone: httpx.AsyncClient) -> None:
        for path in ("/openapi.json", "/swagger/doc.json"):
            answer = await anyone.get(path)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
            assert answer.json()["openapi"] == "3.1.1"
            again = await anyone.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")


class References(HTMLParser):
    """What a page refers to, and what stands in its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.scripts = ""
        self._is_script = False
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._is_script = tag == "script"
        self.found += [value for name, value in attributes if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.scripts += data.strip() if self._is_script else ""


class TestPage:
    @pytest.mark.parametrize("path", ["/swagger", "/swagger/"])
    async def test_is_led_to(self, anyone: httpx.AsyncClient, path: str) -> None:
        answer = await anyone.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, PAGE)

    async def test_all_that_it_refers_to_is_served_here(self, anyone: httpx.AsyncClient) -> None:
        page = await anyone.get(PAGE)
        references = References(page.text)
        assert references.scripts == ""  # which its policy would not let run
        paths = [urljoin(PAGE, reference) for reference in references.found if not reference.startswith("data:")]
        assert len(paths) == 4
        script = (await anyone.get("/swagger/initializer.js")).text
        paths.append(urljoin(PAGE, re.findall(r'url: "([^"]+)"', script)[0]))
        assert not re.search(r"https?://|(src|href)=.?//", page.text + script)
        for path in paths:
            assert path.startswith("/")
            answer = await anyone.get(path)
            assert answer.status_code == 200, path
            kind = {"js": "text/javascript", "css": "text/css", "json": "application/json"}[path.rpartition(".")[2]]
            assert answer.headers["content-type"].partition(";")[0] == kind

    async def test_its_style_sheet_asks_no_other_host(self, anyone: httpx.AsyncClient) -> None:
        style = (await anyone.get("/swagger/swagger-ui.css")).text
        assert {url[:5] for url in re.findall(r"url\([\"']?([^)]*)", style)} == {"data:"}
        assert "@import" not in style

    async def test_its_policy_allows_no_other_host(self, anyone: httpx.AsyncClient) -> None:
        policy = (await anyone.get(PAGE)).headers["content-security-policy"]
        rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
        assert rules["default-src"] == ["'none'"]
        assert rules["script-src"] == rules["connect-src"] == ["'self'"]
        assert {source for sources in rules.values() for source in sources} <= {
            "'none'", "'self'", "data:", "'unsafe-inline'",
        }  # fmt: skip


@pytest.fixture
def closed_gateway(backing: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One that tells nobody."""
    gateway = Gateway(tmp_path_factory.mktemp("closed"), backing.url, api_keys=API_KEY, api_docs="false")
    yield gateway
    gateway.stop()


async def test_it_can_be_turned_off(closed_gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=closed_gateway.url) as client:
        for path in ("/openapi.json", "/swagger", "/swagger/doc.json", PAGE):
            assert (await client.get(path)).status_code == 404


class TestTypesOfJobs:
    """Where the types of the document do not make what is sent, since bytes are passed on as they are."""

    @examples(deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        st.dictionaries(
            st.sampled_from(["input", "policy", "webhook", "webhookV2", "other"]),
            st.one_of(
                st.none(),
                st.text(max_size=3),
                st.integers(),
                st.dictionaries(
                    st.sampled_from(["executionTimeout", "ttl", "lowPriority", "x"]),
                    st.one_of(st.none(), st.booleans(), st.sampled_from([0, 4_999, 5_000, 10_000, 604_800_001, 1.5])),
                    max_size=3,
                ),
            ),
        )
    )
    def test_a_request_is_taken_when_its_type_says_so(self, found: dict[str, Any]) -> None:
        body = msgspec.json.encode(found)
        call = Call({"headers": [], "query_string": b"", "path_params": {}}, None)  # type: ignore[arg-type]
        try:
            msgspec.json.decode(body, type=JobRequest)
            is_right = True
        except msgspec.ValidationError:
            is_right = False
        try:
            parse_submission(call, body, "id", 1, str)
            is_taken = True
        except BadRequest:
            is_taken = False
        assert is_taken == is_right

    async def test_a_job_has_the_fields_of_its_type_in_every_state(self, target: Target, worker: Worker) -> None:
        names = {field.encode_name for field in fields(JobObject)}
        seen: set[str] = set()

        async def look(job: str) -> str:
            answer = await target.get(f"/status/{job}")
            msgspec.json.decode(answer.content, type=JobObject)
            shown = answer.json()
            seen.update(shown)
            assert shown.keys() <= names
            return str(shown["status"])

        worker.ready()
        done, failed = [await target.run(1) for _ in range(2)]
        assert await look(failed) == "IN_QUEUE"
        taken = await worker.next()
        worker.progress(taken, b"1")
        assert await look(done) == "IN_PROGRESS"
        worker.finish(taken)
        worker.fail(await worker.next())
        assert (await look(done), await look(failed)) == ("COMPLETED", "FAILED")
        assert seen == names
