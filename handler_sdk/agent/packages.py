"""The virtual environment of a deployment, and what is installed there."""

import hashlib
import os
import sys
from pathlib import Path

from ..process import without_secrets
from .assignment import DEFAULT_REQUIREMENTS
from .commands import run
from .errors import DeploymentError


def python_environment(venv: Path | str, sees_system: bool) -> dict[str, str]:
    """This process's environment without its secrets, in which `python` is that of the virtual environment."""
    environment = without_secrets(os.environ)
    environment.pop("PYTHONHOME", None)
    if not sees_system:
        environment.pop("PYTHONPATH", None)
    path = os.pathsep.join((os.path.join(venv, "bin"), environment.get("PATH", os.defpath)))
    return environment | {"VIRTUAL_ENV": str(venv), "PATH": path}


class Packages:
    """What a deployment needs to have installed."""

    def __init__(self, folder: Path, requirements: str, sees_system: bool) -> None:
        """
        Args:
            folder: of the code.
            requirements: a file in it that pip understands. Where the default one is missing, a pyproject.toml counts.
            sees_system: whether the agent's own packages are there, behind those that are installed.

        Raises:
            DeploymentError: there is no such file.
        """
        self._folder = folder
        self._sees_system = sees_system
        self._arguments: list[str] = []
        if (folder / requirements).is_file():
            self._arguments = ["-r", requirements]
        elif requirements != DEFAULT_REQUIREMENTS:
            raise DeploymentError(f"the repository has no file {requirements}")
        elif (folder / "pyproject.toml").is_file():
            self._arguments = ["."]

    @property
    def fingerprint(self) -> str:
        """The same for the same code with the same needs, on this machine."""
        facts = (self._arguments, str(self._folder), sys.version, self._folders_of_agent())
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]

    async def install(self, venv: Path) -> None:
        """Makes the virtual environment. Raises DeploymentError."""
        environment = python_environment(venv, self._sees_system)
        await run("venv", [sys.executable, "-m", "venv", "--clear", "--without-pip", venv], environment)
        folders = self._folders_of_agent()
        if folders:
            # A .pth file, site(3): the agent may run in a virtual environment itself, which --system-site-packages
            # would pass over; and packages that were installed to be edited have .pth files of their own.
            line = "; ".join(["import site", *(f"site.addsitedir({folder!r})" for folder in folders)]) + "\n"
            library = f"python{sys.version_info.major}.{sys.version_info.minor}"
            (venv / "lib" / library / "site-packages" / "runlane-agent.pth").write_text(line)
        if self._arguments:
            # The agent's own pip, of 22.3 or later: to install one in each environment takes longer than all the rest.
            pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
            pip += ["--disable-pip-version-check", "--no-input", "install"]
            await run("pip", [*pip, *self._arguments], environment, self._folder)

    def _folders_of_agent(self) -> list[str]:
        return [each for each in sys.path if each.endswith(("site-packages", "dist-packages"))] * self._sees_system
