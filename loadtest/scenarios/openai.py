"""POST /openai/v1/chat/completions, streamed."""

import time
from collections.abc import Sequence

import msgspec
from yarl import URL

from ..endpoint import Endpoint
from ..errors import INVALID, Failed
from ..plan import Assignment
from ..recorder import Trial
from ..timings import FIRST_TOKEN, TOKEN_GAP
from .scenario import Scenario

DATA = b"data:"
DONE = b"[DONE]"


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    text: str | None = None


class Piece(msgspec.Struct):
    """An event of a stream: https://platform.openai.com/docs/api-reference/chat-streaming"""

    choices: list[Choice] = []
    error: msgspec.Raw = msgspec.Raw()

    @property
    def has_text(self) -> bool:
        return any(choice.delta and choice.delta.content for choice in self.choices)


_piece = msgspec.json.Decoder(Piece)


class OpenAI(Scenario):
    """Asks for a completion; its latency ends with the last event. A token is an event with text in it."""

    def __init__(self, endpoint: Endpoint, assignment: Assignment) -> None:
        super().__init__(endpoint, assignment)
        self._url = URL(f"{endpoint.url}/openai/v1/chat/completions")

    def bodies(self, inputs: Sequence[msgspec.Raw]) -> list[bytes]:
        """Each input is the request itself."""
        return [msgspec.json.encode(msgspec.json.decode(input) | {"stream": True}) for input in inputs]

    async def perform(self, trial: Trial) -> None:
        last: float | None = None
        done = False
        async with self.endpoint.answer("POST", self._url, self.next_body()) as response:
            async for line in response.content:
                data = line.removeprefix(DATA).strip()
                if not line.startswith(DATA) or done:
                    continue
                if data == DONE:
                    done = True
                elif self._has_text(data):
                    now = time.monotonic()
                    if last is None:
                        trial.since_intended(FIRST_TOKEN)
                    else:
                        trial.recorder.value(TOKEN_GAP, now - last)
                    last = now
                    trial.recorder.count("tokens")
        if not done:
            raise Failed(INVALID, "the stream ended without [DONE]")
        trial.answered()

    def _has_text(self, data: bytes) -> bool:
        piece = self.endpoint.decoded(data, _piece)
        if bytes(piece.error) not in (b"", b"null"):
            raise Failed("job_failed", bytes(piece.error).decode(errors="replace"))
        return piece.has_text
