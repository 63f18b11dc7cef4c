"""The keys that `runlane login` keeps, in a file that nobody else can read."""

import json
import os
import stat
import tempfile
from pathlib import Path

import msgspec

from ..errors import StartupError

HOME_VARIABLE = "RUNLANE_HOME"
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Server(msgspec.Struct, frozen=True):
    """A gateway, and a key for it."""

    url: str
    key: str


class Credentials(msgspec.Struct):
    """What is in the file. `current`: the name of the server that commands talk to, or "" for none."""

    current: str = ""
    servers: dict[str, Server] = {}

    def of(self, url: str | None) -> Server | None:
        """The current server, or the one at `url`: a key goes to no other server than the one it was kept for."""
        current = self.servers.get(self.current)
        if url is None or (current is not None and current.url == url):
            return current
        return next((server for server in self.servers.values() if server.url == url), None)


def load() -> Credentials:
    """What is kept; nothing when there is no file.

    Raises:
        StartupError: the file cannot be used, or others may read it.
    """
    home = _home()
    if home is None:
        return Credentials()
    path = _file(home)
    try:
        with path.open("rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read()
    except FileNotFoundError:
        return Credentials()
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from None
    if mode & OTHERS:
        raise StartupError(f"{path} holds keys and others may read it: chmod 600 {path}, and think of new keys")
    try:
        return msgspec.json.decode(content, type=Credentials)
    except msgspec.DecodeError as error:  # a ValidationError is one
        raise StartupError(f"{path} is damaged: delete it and log in again ({error})") from None


def save(credentials: Credentials) -> None:
    """Keeps them in the place of what was there, in one step; with no server in them the file goes.

    Raises:
        StartupError: they cannot be kept.
    """
    home = _home()
    if home is None:
        raise StartupError(f"there is no home directory to keep keys in: set {HOME_VARIABLE}")
    path = _file(home)
    try:
        if credentials.servers:
            _write(path, json.dumps(msgspec.to_builtins(credentials), indent=2))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StartupError(f"cannot write {path}: {error.strerror}") from None


def masked(key: str) -> str:
    """What may be shown of a key, for its owner to know it again."""
    return f"****{key[-4:]}" if len(key) >= 16 else "****"


def _home() -> Path | None:
    given = os.environ.get(HOME_VARIABLE)
    if given:
        return Path(given)
    try:
        return Path.home() / ".runlane"
    except RuntimeError:  # a user without an entry and without HOME, as in some containers
        return None


def _file(home: Path) -> Path:
    return home / "credentials.json"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # of mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
