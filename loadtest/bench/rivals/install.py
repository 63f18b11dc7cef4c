"""Installs each library into a virtual environment of its own: they do not agree on the version of redis-py."""

import subprocess
import sys
from pathlib import Path

from loadtest.bench.rivals.table import RIVALS

FOLDER = Path(__file__).parents[3] / ".venv" / "rivals"


def main() -> None:
    """Installs all of them anew."""
    for rival in RIVALS.values():
        print(f"  {rival.name} {rival.version}", flush=True)
        folder = FOLDER / rival.name
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *rival.packages], check=True)


if __name__ == "__main__":
    main()
