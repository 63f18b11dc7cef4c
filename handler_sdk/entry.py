"""`start`: decides what the process that imported the handler is to be."""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

SOCKET_VARIABLE = "RUNLANE_HANDLER_SOCKET"
WORKER_VARIABLE = "RUNLANE_WORKER_PID"
PROCESS_VARIABLE = "RUNLANE_HANDLER_PROCESS"
TASK_VARIABLE = "RUNLANE_TASK_PROTOCOL"
URL_VARIABLE = "RUNLANE_URL"


def start(config: Mapping[str, Any]) -> None:
    """Serves jobs with `config["handler"]`; the last call of a handler file.

    config: "handler" (a function, coroutine function, generator function or async generator function of one job),
    "return_aggregate_stream" (bool: a generator's chunks become the job's output as well), "concurrency_modifier" (a
    function from the present number of jobs at once to the wanted one), "refresh_worker" (bool: a fresh import after
    every job).

    Started as `python HANDLER.py`, it does, in this order, what applies: as the task of an agent, it serves that one's
    jobs; `--rp_serve_api` serves HTTP on this machine; `--test_input JSON` runs one job; with RUNLANE_URL set the
    process becomes a worker, which loads the file again; a `test_input.json` in the working directory runs one job.
    Otherwise it exits with status 1.

    Raises TypeError when config has no callable "handler".
    """
    from .runners import HandlerConfig

    handler_config = HandlerConfig.of(config)
    process = os.environ.get(PROCESS_VARIABLE)
    if process == str(os.getpid()):
        from .child import serve

        serve(handler_config)
    elif process:
        raise RuntimeError(
            "handler_sdk.start() was called in a process that the handler started; "
            'put the call under `if __name__ == "__main__":`'
        )
    elif os.environ.pop(TASK_VARIABLE, ""):
        from .task import serve_task

        os.environ[PROCESS_VARIABLE] = str(os.getpid())
        serve_task(handler_config)
    else:
        _start_by_arguments(handler_config)


def _start_by_arguments(config: Any) -> None:
    arguments = _parse_arguments()
    if arguments.rp_serve_api:
        from .serve import serve_api

        sys.exit(serve_api(config, arguments.rp_api_host, arguments.rp_api_port))
    elif arguments.test_input is not None or (URL_VARIABLE not in os.environ and os.path.exists("test_input.json")):
        from .local import run_local

        sys.exit(run_local(config, arguments.test_input))
    elif URL_VARIABLE in os.environ:
        _become_worker()
    else:
        print(_WHAT_TO_DO.format(file=sys.argv[0]), file=sys.stderr)
        sys.exit(1)


_WHAT_TO_DO = """\
runlane: nothing to do for {file}: there is no test_input.json here, and RUNLANE_URL is not set. Try one of
  python {file} --test_input '{{"input": …}}'    run one job
  python {file} --rp_serve_api                 serve it on this machine
  runlane dev {file}                           the whole of runlane on this machine
  RUNLANE_URL=… RUNLANE_ENDPOINT=… runlane worker {file}"""


def _parse_arguments() -> "argparse.Namespace":
    """The options of RunPod's SDK; whatever else is on the command line belongs to the author."""
    import argparse

    parser = argparse.ArgumentParser(prog=sys.argv[0], allow_abbrev=False)
    parser.add_argument("--test_input", metavar="JSON", help="run one job and exit")
    parser.add_argument("--rp_serve_api", action="store_true", help="serve jobs over HTTP on this machine")
    parser.add_argument("--rp_api_host", default="localhost", help="address to serve at (default: %(default)s)")
    parser.add_argument("--rp_api_port", type=int, default=8000, help="port to serve at (default: %(default)s)")
    parser.add_argument("--rp_api_concurrency", type=int, default=1, help="accepted, without effect")
    parser.add_argument("--rp_log_level", help="accepted, without effect")
    parser.add_argument("--rp_debugger", action="store_true", help="accepted, without effect")
    return parser.parse_known_args()[0]


def _become_worker() -> None:
    file = sys.argv[0]
    print(
        f"runlane: {file} will be loaded again under supervision; `runlane worker {file}` loads it only once",
        file=sys.stderr,
        flush=True,
    )
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "handler_sdk", *sys.argv])  # noqa: S606
