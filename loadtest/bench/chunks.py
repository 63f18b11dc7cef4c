"""The chunks that the streams of the measurements are made of, and how they look as events."""

import re
import time
from typing import Any

EVENT = b'id: %d\r\ndata: {"output":%b}\r\n\r\n'
"""As the gateway sends a chunk."""

BEGIN = b'data: {"output"'
SENT = re.compile(rb'"at":([0-9.]+)')


def chunk(number: int) -> dict[str, Any]:
    """One chunk, about as large as a token is with OpenAI's protocol around it, and when it was made."""
    return {"token": " word", "index": number, "logprob": -0.25, "finish_reason": None, "at": time.time()}
