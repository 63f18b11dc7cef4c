"""Takes secrets out of the environment of this process, and out of the sight of whoever may look at it."""

import ctypes
import os
from collections.abc import Iterable


def forget(variables: Iterable[str]) -> None:
    """Removes variables. The strings that the process was started with are overwritten, since `unsetenv` leaves them
    where `/proc/PID/environ` shows them: environ(7), proc_pid_environ(5)."""
    unwanted = [variable.encode() + b"=" for variable in variables]
    strings = ctypes.POINTER(ctypes.c_void_p).in_dll(ctypes.CDLL(None), "environ")
    at = 0
    while strings and strings[at]:
        text = ctypes.string_at(strings[at])
        for name in unwanted:
            if text.startswith(name):
                ctypes.memset(strings[at] + len(name), 0, len(text) - len(name))
        at += 1
    for variable in variables:
        os.environ.pop(variable, None)
