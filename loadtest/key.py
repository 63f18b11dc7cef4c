"""The key that requests are sent with. It comes by the environment or from a file, and is shown nowhere."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from .errors import NotUsable

RUNPOD_VARIABLE = "RUNPOD_API_KEY"
VARIABLES = ("RUNLANE_API_KEY", "RUNQY_API_KEY", RUNPOD_VARIABLE)
RUNPOD_HOST = "runpod.ai"


def find(url: str, file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The key for an endpoint, or None where nothing says one. RunPod gets no key that is meant for another server.

    Raises:
        NotUsable: the file cannot be read, or what was found is no key.
    """
    if file is not None:
        return _checked(_read(file), f"what is in {file}")
    host = urlsplit(url).hostname or ""
    is_runpod = host == RUNPOD_HOST or host.endswith(f".{RUNPOD_HOST}")
    for name in (RUNPOD_VARIABLE,) if is_runpod else VARIABLES:
        if environment.get(name):
            return _checked(environment[name], name)
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NotUsable(f"cannot read the key: {error}") from None


def _checked(key: str, source: str) -> str:
    if not (key and key.isascii() and key.isprintable()):
        raise NotUsable(f"{source} is no key: it is empty, or has characters that no key has")
    return key
