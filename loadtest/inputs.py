"""The inputs of jobs, as `--input` gives them."""

from pathlib import Path

import msgspec

from .errors import NotUsable

DEFAULT = '{"prompt": "Hello"}'
DEFAULT_CHAT = '{"model": "default", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 64}'


def load(given: str | None, operation: str) -> list[msgspec.Raw]:
    """JSON values, at least one.

    Args:
        given: JSON, `@FILE` with JSON, `@FILE.jsonl` with a value on each line, or None for the default.
        operation: `openai` takes requests, which are objects.

    Raises:
        NotUsable: it is not that.
    """
    if given is None:
        given = DEFAULT_CHAT if operation == "openai" else DEFAULT
    name = f"--input {given}" if given.startswith("@") else "--input"
    texts = _read(Path(given[1:])) if given.startswith("@") else [given]
    inputs = [_parsed(text, name, operation) for text in texts if text.strip()]
    if not inputs:
        raise NotUsable(f"{name}: there is nothing in it")
    return inputs


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NotUsable(f"--input: cannot read {path}: {error}") from None
    return text.split("\n") if path.suffix == ".jsonl" else [text]


def _parsed(text: str, name: str, operation: str) -> msgspec.Raw:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise NotUsable(f"{name}: {text[:60]!r} is no JSON: {error}") from None
    if operation == "openai" and not isinstance(value, dict):
        raise NotUsable(f"{name}: a request of OpenAI's API is a JSON object")
    return msgspec.Raw(msgspec.json.encode(value))
