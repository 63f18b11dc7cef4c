"""On a worker's path, puts its clock off by the seconds that FAULTS_CLOCK_OFFSET names. Its monotonic clock goes on as
it does on a machine whose time is wrong."""

import os
import time

_true_time, _true_time_ns = time.time, time.time_ns
_offset = int(os.environ.get("FAULTS_CLOCK_OFFSET", "0"))


def _wrong_time() -> float:
    return _true_time() + _offset


def _wrong_time_ns() -> int:
    return _true_time_ns() + _offset * 1_000_000_000


time.time, time.time_ns = _wrong_time, _wrong_time_ns
