"""The names of `runpod.serverless` that handler files use."""

from .entry import start
from .progress import progress_update

__all__ = ["progress_update", "start"]
