"""What a model author imports: `start` makes a worker of a file; from within a handler, `progress_update` reports and
`RetryableError` asks for another try.

`serverless` holds the same under RunPod's names, so that `import handler_sdk as runpod` is the only change to a handler
written for RunPod.
"""

__version__ = "0.1.0"

from . import serverless
from .entry import start
from .progress import progress_update
from .retrying import RetryableError

__all__ = ["RetryableError", "__version__", "progress_update", "serverless", "start"]
