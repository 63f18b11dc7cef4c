"""An endpoint, as its clients reach it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from time import time
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from .errors import CONNECTION, INVALID, JOB_STATES, REFUSED, RESET, Failed, of_status
from .recorder import Trial
from .timings import DELAY, EXECUTION

LONGEST_LINE = 2**20
LONGEST_RETRY_AFTER = 1e9
FINAL = frozenset({"COMPLETED", *JOB_STATES})

Decoded = TypeVar("Decoded")


class Job(msgspec.Struct, rename="camel"):
    """What a server says of a job: https://docs.runpod.io/serverless/endpoints/operations. Times are in ms."""

    id: str = ""
    status: str = ""
    delay_time: float | None = None
    execution_time: float | None = None
    error: msgspec.Raw = msgspec.Raw()
    stream: list[msgspec.Raw] = []

    @property
    def final(self) -> bool:
        """Whether nothing changes any more."""
        return self.status in FINAL

    def record_times(self, trial: Trial) -> None:
        """Adds how long it waited and ran, where the server says so."""
        if self.delay_time is not None:
            trial.recorder.value(DELAY, self.delay_time / 1000)
        if self.execution_time is not None:
            trial.recorder.value(EXECUTION, self.execution_time / 1000)

    def check(self) -> None:
        """Of a final job.

        Raises:
            Failed: it is not COMPLETED.
        """
        if self.status in JOB_STATES:
            raise Failed(JOB_STATES[self.status], bytes(self.error).decode(errors="replace"))


_job = msgspec.json.Decoder(Job)


class Endpoint:
    """Sends requests. Whatever is no success is raised as `Failed`.

    Args:
        url: `…/v2/<endpoint_id>`.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.url = url
        self._session = session
        self._urls: dict[str, URL] = {}

    async def submit(self, trial: Trial, body: bytes) -> Job:
        """POST /run: the job, which has an id."""
        job = await self.job("POST", "/run", body)
        trial.accepted = True
        trial.recorder.count("jobs")
        return job

    async def job(self, method: str, path: str, body: bytes | None = None) -> Job:
        """What is answered about a job. `path` may have a query."""
        job = self.decoded(await self.request(method, self._at(path), body), _job)
        if not job.id and not path.startswith("/stream"):  # which RunPod answers without one
            raise Failed(INVALID, "the answer has no id")
        return job

    async def about(self, operation: str, id: str, method: str = "GET") -> Job:
        """/status/{id}, /stream/{id} or /cancel/{id}."""
        return await self.job(method, f"/{operation}/{quote(id, safe='')}")

    async def request(self, method: str, url: URL, body: bytes | None = None) -> bytes:
        """The whole of an answer."""
        async with self.answer(method, url, body) as response:
            return await response.read()

    @asynccontextmanager
    async def answer(self, method: str, url: URL, body: bytes | None = None) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer, of which more may come. Redirects are not followed: a key goes nowhere else."""
        headers = {"Content-Type": "application/json"} if body is not None else None
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as response:
                if not 200 <= response.status < 300:
                    text = (await response.content.read(LONGEST_LINE)).decode(errors="replace")
                    raise Failed(of_status(response.status), text, _retry_after(response))
                yield response
        except aiohttp.ClientConnectorError as error:
            kind = REFUSED if isinstance(error.os_error, ConnectionRefusedError) else CONNECTION
            raise Failed(kind, str(error)) from None
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError) as error:
            raise Failed(RESET, str(error)) from None
        except (aiohttp.ClientError, HttpProcessingError) as error:
            raise Failed(INVALID, f"{type(error).__name__}: {error}") from None

    @staticmethod
    def decoded(content: bytes, decoder: "msgspec.json.Decoder[Decoded]") -> Decoded:
        """An answer's JSON."""
        try:
            return decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # a ValidationError is one
            raise Failed(INVALID, f"{error}: {content[:LONGEST_LINE].decode(errors='replace')}") from None

    def _at(self, path: str) -> URL:
        if path.count("/") > 1:  # has a job's id in it
            return URL(self.url + path, encoded=True)
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.url + path)
        return url


def open_session(key: str | None) -> aiohttp.ClientSession:
    """A client with as many connections as are needed, which keeps no cookies and heeds no proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Authorization": f"Bearer {key}"} if key else None,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        read_bufsize=LONGEST_LINE,
    )


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """In seconds: RFC 9110, section 10.2.3, has it as a number or as a date."""
    given = response.headers.get("Retry-After", "")
    if given.isascii() and given.isdigit():
        return min(LONGEST_RETRY_AFTER, float(given))
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time())
    except (ValueError, OverflowError):
        return None
