"""The code of a queue on this machine: FOLDER/QUEUE/COMMIT/code, and beside it the virtual environments for it."""

import asyncio
import fcntl
import logging
import os
import shlex
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from .assignment import Assignment
from .configuration import Configuration
from .errors import DeploymentError
from .packages import Packages
from .repository import Repository

logger = logging.getLogger("runlane.agent")

KEPT = 2
"""Deployments of a queue, besides those that an agent is using."""

LOCK_SECONDS = 0.2


@dataclass
class Deployment:
    """folder: in which the task runs. Nobody removes it before `release`."""

    commit: str
    folder: Path
    venv: Path
    command: list[str]
    _use: int

    def release(self) -> None:
        os.close(self._use)


class Deployments:
    """Those of one queue. Several agents of a machine may share them."""

    def __init__(self, configuration: Configuration, queue: str) -> None:
        self._configuration = configuration
        self._folder = (configuration.folder / queue).absolute()

    def repository(self, assignment: Assignment) -> Repository:
        """Raises DeploymentError."""
        token = self._configuration.git_token or assignment.git_token
        return Repository(assignment.git_url, assignment.branch, token, self._configuration.git_ssh_key)

    async def deploy(self, assignment: Assignment) -> Deployment:
        """The newest code, installed; what is there already is used again. Raises DeploymentError."""
        try:
            command = shlex.split(assignment.startup_command)
        except ValueError as error:
            raise DeploymentError(f"the startup command cannot be read: {error}") from None
        if not command:
            raise DeploymentError("the startup command is empty")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            async with _locked(self._folder / "lock"):
                commit = await self._fetch(assignment)
                use = _open(self._folder / commit / "in-use")
                fcntl.flock(use, fcntl.LOCK_SH)
                try:
                    deployment = await self._install(assignment, commit, command, use)
                except BaseException:
                    os.close(use)
                    raise
                await asyncio.to_thread(self._remove_old)
        except OSError as error:
            raise DeploymentError(f"the code cannot be deployed in {self._folder}: {error}") from None
        return deployment

    async def _fetch(self, assignment: Assignment) -> str:
        repository = self.repository(assignment)
        revision = await repository.newest()
        if (self._folder / revision.commit / "code").is_dir():
            return revision.commit
        logger.info("fetching %s of %s at %s", revision.commit[:12], assignment.queue, repository.url)
        incoming = self._folder / "incoming"
        await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
        incoming.mkdir()
        commit = await repository.fetch(revision.reference, incoming / "code")
        folder = self._folder / commit
        folder.mkdir(exist_ok=True)
        if not (folder / "code").is_dir():  # the branch may have moved back meanwhile
            (incoming / "code").rename(folder / "code")
        return commit

    async def _install(self, assignment: Assignment, commit: str, command: list[str], use: int) -> Deployment:
        code = self._folder / commit / "code"
        folder = _inside(code, assignment.code_path)
        if not folder.is_dir():
            raise DeploymentError(f"the repository has no folder {assignment.code_path}")
        _inside(code, str(folder / assignment.requirements))
        packages = Packages(folder, assignment.requirements, self._configuration.sees_system)
        venv = self._folder / commit / f"venv-{packages.fingerprint}"
        done = venv / "complete"
        if not done.exists():
            logger.info("installing what %s needs", commit[:12])
            await packages.install(venv)
            done.touch()
        os.utime(self._folder / commit)
        return Deployment(commit, folder, venv, command, use)

    def _remove_old(self) -> None:
        commits = [each for each in self._folder.iterdir() if (each / "code").is_dir() and each.name != "incoming"]
        for old in sorted(commits, key=lambda each: each.stat().st_mtime, reverse=True)[KEPT:]:
            use = _open(old / "in-use")
            try:
                fcntl.flock(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old)
                logger.info("removed the old deployment %s", old.name[:12])
            except BlockingIOError:
                pass
            except OSError as error:
                logger.warning("the old deployment %s cannot be removed: %s", old.name[:12], error)
            finally:
                os.close(use)


def _inside(code: Path, path: str) -> Path:
    """A path in the repository, which no `..` and no symbolic link may lead out of. Raises DeploymentError."""
    found, root = (code / path).resolve(), code.resolve()
    if not found.is_relative_to(root):
        raise DeploymentError(f"{path} leads out of the repository")
    return found


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    lock = _open(path)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(LOCK_SECONDS)
        yield
    finally:
        os.close(lock)
