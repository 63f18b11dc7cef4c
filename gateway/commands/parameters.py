"""What the arguments of commands can be. A `UsageError` shows its words as they are: these are Runqy's."""

import re
from typing import Any, NoReturn

import click


class Duration(click.ParamType[float]):
    """A time in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d{1,9})([smhd])", value) if isinstance(value, str) else None
        if found is None:
            self.fail(f"{value!r} is not a time such as 90s, 30m, 12h or 30d", param, ctx)
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


class Name(click.ParamType[str]):
    """The name of something, which is not empty."""

    name = "name"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        if not str(value).strip():
            raise click.UsageError(f"{self._what} cannot be empty", ctx)
        return str(value)


class Positive(click.ParamType[int]):
    """A whole number above 0."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number: int = click.INT.convert(value, param, ctx)
        if number <= 0:
            raise click.UsageError(f"{param.opts[-1] if param else 'it'} must be positive", ctx)
        return number


class OneOf(click.Choice[str]):
    """One of some words. `refusal`: what is said of another one, with `{}` in its place."""

    def __init__(self, words: list[str], refusal: str) -> None:
        super().__init__(words)
        self._refusal = refusal

    def fail(self, message: str, param: click.Parameter | None = None, ctx: click.Context | None = None) -> NoReturn:  # noqa: ARG002
        raise click.UsageError(message, ctx)

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:  # noqa: ARG002
        return self._refusal.format(value)


cursor_option = click.option("--cursor", help="The next page, as the one before said.")

QUEUE = Name("queue name")
TASK = Name("task id")
WORKER = Name("worker id")
VAULT = Name("vault name")
