"""How the gateway's process treats its memory."""

import ctypes
import gc

# Of glibc's <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

MOST_REUSED = 32 * 1024 * 1024
"""Bytes. What is larger gets memory of its own, which is given back at once."""

MOST_KEPT = 64 * 1024 * 1024
"""Bytes at the end of the heap that are kept, though nothing is in them."""


def settle_in() -> None:
    """Makes this process one that serves from now on: all of its modules are loaded.

    They stay, so the garbage collector need not look at them; and with its usual limits it runs for every few requests
    under way, and takes them for long-lived.

    The memory of a large payload is used for the next one. With glibc's own limits it is given back, and to write into
    fresh pages takes ten times as long: 4 ms for 10 MB, in which no other request is served. The price: many large
    payloads at once leave gaps in the heap, which are filled by the next ones and are not given back. Other C libraries
    have no such limits: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    set_limit = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_limit is not None:
        set_limit(M_MMAP_THRESHOLD, MOST_REUSED)
        set_limit(M_TRIM_THRESHOLD, MOST_KEPT)
