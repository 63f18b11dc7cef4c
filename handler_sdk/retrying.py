"""How a handler asks for another try."""


class RetryableError(Exception):
    """Raised by a handler: this attempt failed, and the job is tried again by its policy. The text is the attempt's
    error; that of the last try is the job's."""
