"""What can go wrong.

NotUsable      a wrong call, or a server that cannot be reached or refuses: nothing was measured, exit status 2
Failed         one operation failed; its kind is one of the classes below
"""

NOT_SENT = "not_sent"
TIMEOUT = "timeout"
REFUSED = "refused"
RESET = "reset"
CONNECTION = "connection"
INVALID = "invalid"
UNFINISHED = "unfinished"
FAULT = "fault"
JOB_STATES = {"FAILED": "job_failed", "TIMED_OUT": "job_timed_out", "CANCELLED": "job_cancelled"}

MEANINGS = {
    NOT_SENT: "not sent, since --most-open operations were unfinished",
    TIMEOUT: "no answer within --timeout, or no connection for it",
    REFUSED: "connection refused",
    RESET: "connection closed or reset before the answer was complete",
    CONNECTION: "no connection for another reason: name, network, TLS",
    INVALID: "a 2xx that is not what it should be: no JSON, no id, a stream without its end",
    UNFINISHED: "the job was accepted and not final within --timeout",
    FAULT: "an answer that this tool did not expect: a fault of its own, to be reported",
    "job_failed": "the job ended as FAILED",
    "job_timed_out": "the job ended as TIMED_OUT",
    "job_cancelled": "the job ended as CANCELLED",
}
"""Each class of errors but `http_NNN`, an answer with that status."""

LONGEST_EXAMPLE = 200


class NotUsable(Exception):
    """Nothing can be measured like this. Its text says what to do."""


class Failed(Exception):
    """An operation failed.

    Args:
        kind: its class.
        example: what the server said, as it came; a key may be in it.
        retry_after: seconds that a 429 says to wait, or None.
    """

    def __init__(self, kind: str, example: str = "", retry_after: float | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.example = example
        self.retry_after = retry_after

    def told(self, key: str | None) -> "Failed":
        """As it can be shown: short, and without the key."""
        self.example = (self.example.replace(key, "***") if key else self.example)[:LONGEST_EXAMPLE]
        return self


def of_status(status: int) -> str:
    """The class of answers with a status that is no success."""
    return f"http_{status}"
