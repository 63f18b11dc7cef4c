"""`python -m handler_sdk.agent`, which is `runlane agent`."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from ..starting import end_early_by_signals, set_up_logging
from .agent import Agent
from .configuration import Configuration
from .errors import ConfigurationError

logger = logging.getLogger("runlane.agent")


def main(arguments: Sequence[str]) -> int:
    """Runs an agent; returns the exit status: 0 when it was told to end and did, 1 after a failure, 2 when the command
    line or the environment is wrong."""
    end_early_by_signals()
    complaint = set_up_logging()
    try:
        configuration = Configuration.of(arguments, os.environ)
    except ConfigurationError as error:
        complaint = complaint or str(error)
    if complaint:
        print(f"runlane: {complaint}", file=sys.stderr)
        return 2
    return asyncio.run(_run(configuration))


async def _run(configuration: Configuration) -> int:
    """One agent for each queue; when one fails, all end."""
    agents = [Agent(configuration, queue) for queue in configuration.queues]
    ending = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        logger.info("%s: %s", number.name, "ending at once" if ending.is_set() else "taking no more jobs")
        for agent in agents:
            agent.hurry() if ending.is_set() else agent.end()
        ending.set()

    def on_hangup() -> None:
        for agent in agents:
            agent.look()

    working = [asyncio.create_task(agent.run()) for agent in agents]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
    for agent in agents:
        agent.end()
    return max(await asyncio.gather(*working))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
