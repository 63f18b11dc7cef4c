"""The audit log: who did what to which endpoint or key, when, from where, and what came of it; in JSON lines."""

import logging
import logging.handlers
import time
from datetime import UTC, datetime
from typing import Any

import orjson

from ..errors import Error, StartupError
from ..http import REQUEST_ID, Answer, Call, Operation, Reply
from .addresses import Addresses, counted_as
from .keys import EVERYONE

SECONDS_BETWEEN_BLOCKED = 60.0
"""An address that is blocked and goes on is told of once in so long."""

MOST_BLOCKED = 1000


class Audit:
    """Writes the audit log."""

    def __init__(self, target: str, addresses: Addresses) -> None:
        """`target`: a file, `-` for standard error, or `off`.

        Raises:
            StartupError: the file cannot be written.
        """
        self._addresses = addresses
        self._logger = logging.Logger("runlane.audit")
        self._told: dict[str, float] = {}
        if target == "off":
            return
        try:
            # It opens the file anew when that was moved, as logrotate does.
            handler = logging.StreamHandler() if target == "-" else logging.handlers.WatchedFileHandler(target)
        except OSError as error:
            raise StartupError(f"audit_log (RUNLANE_AUDIT_LOG): cannot write {target}: {error.strerror}") from None
        self._logger.addHandler(handler)

    def write(self, event: str, call: Call | None = None, **fields: Any) -> None:
        """One line: what happened, by which request, and whatever else there is to say."""
        if not self._logger.handlers:
            return
        line: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        if call is not None:
            line |= self._about(call)
        self._logger.info(orjson.dumps(line | fields, default=str).decode())

    def blocked(self, call: Call) -> None:
        """A request from a blocked address; there may be very many."""
        address, now = counted_as(self._addresses.of(call.scope)), time.monotonic()
        if now - self._told.get(address, -SECONDS_BETWEEN_BLOCKED) < SECONDS_BETWEEN_BLOCKED:
            return
        if len(self._told) >= MOST_BLOCKED:
            self._told.clear()
        self._told[address] = now
        self.write("login_blocked", call, result="denied")

    def of(self, event: str, operation: Operation) -> Operation:
        """The operation, with a line in the log for each time that it is asked for, but for those that only look."""
        if not event or not self._logger.handlers:
            return operation

        async def audited(call: Call) -> Answer:
            if call.method == "GET":
                return await operation(call)
            try:
                answer = await operation(call)
            except Exception as error:
                status = error.status if isinstance(error, Error) else 500
                self.write(event, call, result="failed", status=status, **call.facts)
                raise
            status = answer.status if isinstance(answer, Reply) else 200
            self.write(event, call, result="done" if status < 400 else "failed", status=status, **call.facts)
            return answer

        return audited

    def _about(self, call: Call) -> dict[str, Any]:
        about: dict[str, Any] = {
            "address": self._addresses.of(call.scope),
            "method": call.method,
            "path": call.scope["path"][:200],
            "request": call.scope.get(REQUEST_ID),
        }
        if call.key is not EVERYONE:
            about |= {"tenant": call.key.tenant, "key": call.key.id}
        if endpoint := call.parameters.get("endpoint"):
            about["endpoint"] = endpoint[:100]
        return about
