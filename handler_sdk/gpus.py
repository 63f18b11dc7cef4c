"""Which GPUs this machine has, for people: without a library, and without touching the devices."""

from pathlib import Path

INFORMATION = Path("/proc/driver/nvidia/gpus")
"""NVIDIA's driver for Linux has a folder for each GPU here; its README, "The /proc interface"."""


def gpu_names(folder: Path = INFORMATION) -> list[str]:
    """The models, such as "NVIDIA H100 80GB HBM3"; none without NVIDIA's driver for Linux."""
    names = []
    for file in sorted(folder.glob("*/information")):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names
