"""What a model author imports: `start` makes a worker of a file, `progress_update` reports from within a handler.

`serverless` holds the same under RunPod's names, so that `import handler_sdk as runpod` is the only change to a handler
written for RunPod.
"""

__version__ = "0.1.0"

from . import serverless
from .entry import start
from .progress import progress_update

__all__ = ["__version__", "progress_update", "serverless", "start"]
