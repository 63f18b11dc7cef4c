"""`python -m handler_sdk HANDLER.py [argument…]`: a worker that supervises HANDLER.py.

The worker starts itself again in this way, with the socket in its environment, as the process that runs the handler.
"""

import os
import sys

from handler_sdk.entry import SOCKET_VARIABLE


def main() -> int:
    if SOCKET_VARIABLE in os.environ:
        from handler_sdk.child import main as run_handler

        return run_handler(sys.argv[1], sys.argv[2:])
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print("usage: python -m handler_sdk HANDLER.py [argument…]", file=sys.stderr)
        return 2
    from handler_sdk.worker import main as run_worker

    return run_worker(sys.argv[1], sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
