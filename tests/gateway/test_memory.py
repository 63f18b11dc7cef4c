import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from gateway import memory
if sys.argv[1] == "settled":
    memory.settle_in()
size = 9_000_000
def write():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [b"x" * size for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
write()
print(write())
"""


def faults(how: str) -> int:
    """Pages that were fresh the second time that a process wrote 27 MB."""
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no limits to be set")
def test_the_memory_of_a_large_payload_is_used_for_the_next_one() -> None:
    assert faults("settled") < 100 < faults("as it is")
