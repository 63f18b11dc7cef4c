"""A git repository, as the agent reads it: by the program `git`.

A token or key is in the environment of git alone, never on a command line or in a file of the deployment. Nothing of a
repository runs while it is fetched: no hooks, no submodules, no transports but those named here.
"""

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from ..process import without_secrets
from .commands import run
from .errors import DeploymentError

_LOOK_SECONDS = 60.0
_FETCH_SECONDS = 1800.0

_SCHEMES = ("https", "ssh", "http", "file")
_SSH_SHORT = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9][\w.-]+:(?![:/]/)[^-:].*")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# gitcredentials(7): a helper that begins with ! is a piece of shell, into which printf is built.
_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$RUNLANE_GIT_USER" "$RUNLANE_GIT_TOKEN"; }; f'
)

# ssh_config(5). A host that is seen for the first time is believed; one that has changed is not.
_SSH = "ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o ConnectTimeout=15"


class Revision(NamedTuple):
    """A commit, and the name by which it was found."""

    commit: str
    reference: str


class Repository:
    """One branch of a repository.

    url: without a password.
    """

    def __init__(self, url: str, branch: str, token: str = "", ssh_key: str = "") -> None:
        """
        Args:
            url: https://, ssh://, user@host:path, http:// or file://; a password in it serves as the token.
            branch: of which the newest commit is wanted; a tag does as well.
            token: for https, and for http to this machine. The text of a private key serves as `ssh_key`.
            ssh_key: the file or the text of a private key.

        Raises:
            DeploymentError: that is no such URL, or the token would be sent in the clear.
        """
        if _is_key(token):
            token, ssh_key = "", token
        self.branch = branch
        self.url, self._user, password = _split(url)
        self._token = password or token
        self._ssh_key = ssh_key
        parts = urlsplit(self.url)
        self._origin = f"{parts.scheme}://{parts.netloc}" if parts.scheme in ("http", "https") else ""
        if self._token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            raise DeploymentError(f"{self.url} is not encrypted, so the token is not sent there: use https")

    async def newest(self) -> Revision:
        """The branch's newest commit. Raises DeploymentError."""
        branch, tag = f"refs/heads/{self.branch}", f"refs/tags/{self.branch}"
        peeled = tag + "^{}"  # the commit behind a tag that is an object of its own, gitrevisions(7)
        with self._environment() as environment:
            command = ["git", "ls-remote", "--quiet", "--", self.url, branch, tag, peeled]
            lines = await run("git", command, environment, seconds=_LOOK_SECONDS, logs=False)
        found = {name: commit for commit, _, name in (line.partition("\t") for line in lines)}
        for name, reference in ((branch, branch), (peeled, tag), (tag, tag)):
            if name in found:
                return Revision(found[name], reference)
        raise DeploymentError(f"{self.url} has no branch {self.branch}")

    async def fetch(self, reference: str, folder: Path) -> str:
        """Makes `folder` with the newest commit of a reference, and returns the commit. Raises DeploymentError."""
        with self._environment() as environment:
            await run("git", ["git", "init", "--quiet", "--template=", folder], environment)
            fetch = ["git", "fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules", "--"]
            await run("git", [*fetch, self.url, reference], environment, folder, _FETCH_SECONDS)
            await run("git", ["git", "checkout", "--quiet", "--detach", "FETCH_HEAD"], environment, folder)
            return (await run("git", ["git", "rev-parse", "HEAD"], environment, folder, logs=False))[0]

    @contextmanager
    def _environment(self) -> Iterator[dict[str, str]]:
        """git(1), "Environment variables"; git-config(1), GIT_CONFIG_COUNT."""
        settings = [("core.hooksPath", os.devnull), ("core.fsmonitor", "false"), ("advice.detachedHead", "false")]
        environment = without_secrets(os.environ) | {
            "GIT_ALLOW_PROTOCOL": ":".join(_SCHEMES),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
            "GIT_HTTP_LOW_SPEED_TIME": "60",
            "LC_ALL": "C",
        }
        if self._token and self._origin:
            # For this server alone, also when it answers that what is wanted is elsewhere.
            settings += [("credential.helper", ""), (f"credential.{self._origin}.helper", _HELPER)]
            environment |= {"RUNLANE_GIT_USER": self._user, "RUNLANE_GIT_TOKEN": self._token}
        for number, (name, value) in enumerate(settings):
            environment |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        with _key_file(self._ssh_key) as file:
            identity = f" -o IdentitiesOnly=yes -i {shlex.quote(file)}" if file else ""
            yield environment | {"GIT_SSH_COMMAND": _SSH + identity}


def _split(url: str) -> tuple[str, str, str]:
    """The URL without a password, the user to log in as, and the password. Raises DeploymentError."""
    if _SSH_SHORT.fullmatch(url):
        return url, "", ""
    try:
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        raise DeploymentError("the URL of the repository makes no sense") from None
    if parts.scheme not in _SCHEMES or any(ord(letter) < 32 for letter in url):
        raise DeploymentError(f"the URL of the repository begins with none of {', '.join(_SCHEMES)}")
    if parts.scheme in ("http", "https"):
        parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    elif password:
        raise DeploymentError("a password for ssh is not supported: use a key")
    return parts.geturl(), user or "x-access-token", password


def _is_key(text: str) -> bool:
    return text.lstrip().startswith("-----BEGIN")


@contextmanager
def _key_file(key: str) -> Iterator[str]:
    """The file of a private key that is given by its path or as text; such a file is there only while it is needed."""
    if not _is_key(key):
        yield os.path.abspath(os.path.expanduser(key)) if key else ""
        return
    with tempfile.NamedTemporaryFile("w", prefix="runlane-") as file:  # its mode is 0600
        file.write(key.strip().replace("\r\n", "\n") + "\n")
        file.flush()
        yield file.name
