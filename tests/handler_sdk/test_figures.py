"""How busy a machine is."""

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from handler_sdk import figures
from handler_sdk.control_group import ControlGroups
from handler_sdk.figures import Figures, Sampler, measure_gpus, measure_machine

from .conftest import eventually


def group(folder: Path, **files: str) -> None:
    """A control group; `cpu_max` is the content of cpu.max."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], ControlGroups]:
    """The groups of a process whose own group is the given one."""

    def make(path: str) -> ControlGroups:
        file = tmp_path / "own"
        file.write_text(f"4:memory:/elsewhere\n0::{path}\n")
        return ControlGroups(tmp_path / "root", file)

    return make


class TestControlGroups:
    def test_use_of_memory_is_without_what_the_kernel_gives_up(
        self, own: Callable[[str], ControlGroups], tmp_path: Path
    ) -> None:
        group(tmp_path / "root", memory_max="1000\n", memory_current="700\n", memory_stat="anon 1\ninactive_file 200\n")
        assert own("/").memory() == (500, 1000)

    def test_tightest_limit_counts(self, own: Callable[[str], ControlGroups], tmp_path: Path) -> None:
        root = tmp_path / "root"
        group(
            root / "pods", memory_max="500", memory_current="300", cpu_max="50000 100000", cpu_stat="usage_usec 3000000"
        )
        group(
            root / "pods/a", memory_max="max", memory_current="100", cpu_max="max 100000", cpu_stat="usage_usec 1000000"
        )
        group(
            root / "pods/a/b",
            memory_max="900",
            memory_current="90",
            cpu_max="200000 100000",
            cpu_stat="usage_usec 500000",
        )
        assert own("/pods/a/b").memory() == (300, 500)
        assert own("/pods/a/b").processors() == (3.0, 0.5)

    @pytest.mark.parametrize("text", ["max", "", "x", "-1"])
    def test_without_a_limit_there_are_none(
        self, own: Callable[[str], ControlGroups], tmp_path: Path, text: str
    ) -> None:
        group(tmp_path / "root", memory_max=text, memory_current="1", cpu_max=text, cpu_stat="x")
        for path in ("/", "/missing", "/../.."):
            assert (own(path).memory(), own(path).processors()) == (None, None)

    def test_a_machine_without_them_has_none(self, tmp_path: Path) -> None:
        assert ControlGroups(tmp_path, tmp_path / "missing").memory() is None


class TestMachine:
    def test_is_this_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(figures, "ControlGroups", lambda: ControlGroups(tmp_path, tmp_path / "missing"))
        found = measure_machine()()
        assert 0 <= found["cpu_percent"] <= 100
        assert found["memory_total_bytes"] == psutil.virtual_memory().total
        assert 0 < found["memory_used_bytes"] < found["memory_total_bytes"]

    def test_is_what_its_container_may_use(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: Callable[[str], ControlGroups]
    ) -> None:
        root = tmp_path / "root"
        group(
            root, memory_max="1000000", memory_current="400000", cpu_max="200000 100000", cpu_stat="usage_usec 1000000"
        )
        monkeypatch.setattr(figures, "ControlGroups", lambda: own("/"))
        clock = iter([100.0, 105.0])
        monkeypatch.setattr(figures, "time", types.SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))
        measure = measure_machine()
        group(root, cpu_stat="usage_usec 6000000\n")
        assert measure() == {"cpu_percent": 50.0, "memory_used_bytes": 400_000, "memory_total_bytes": 1_000_000}

    def test_has_the_memory_that_is_there_when_the_limit_is_higher(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: Callable[[str], ControlGroups]
    ) -> None:
        group(tmp_path / "root", memory_max=str(2**60), memory_current="1")
        monkeypatch.setattr(figures, "ControlGroups", lambda: own("/"))
        assert measure_machine()()["memory_total_bytes"] == psutil.virtual_memory().total


class NVMLError(Exception):
    """As NVIDIA's."""


class Nvml(types.ModuleType):
    """In the place of NVIDIA's library, where there is no GPU."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.count = 2
        self.lost: set[int] = set()
        self.untold = ""
        self.broken = ""
        self.begun = 0

    def nvmlInit(self) -> None:
        self.begun += 1
        if self.broken:
            raise NVMLError(self.broken)

    def nvmlDeviceGetCount(self) -> int:
        if self.broken:
            raise NVMLError(self.broken)
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        if index in self.lost:
            raise NVMLError("GPU is lost")
        return f"gpu-{index}"

    def nvmlDeviceGetName(self, gpu: str) -> str:
        return f"NVIDIA {gpu}"

    def nvmlDeviceGetMemoryInfo(self, _gpu: str) -> Any:
        return types.SimpleNamespace(used=3 << 30, total=80 << 30)

    def nvmlDeviceGetUtilizationRates(self, _gpu: str) -> Any:
        if self.untold:
            raise NVMLError(self.untold)
        return types.SimpleNamespace(gpu=0)

    def nvmlDeviceGetTemperature(self, _gpu: str, _sensor: int) -> int:
        if self.untold:
            raise NVMLError(self.untold)
        return 41


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return nvml


def shown(index: int, **changed: Any) -> dict[str, Any]:
    return {
        "index": index, "name": f"NVIDIA gpu-{index}", "utilization_percent": 0, "memory_used_mb": 3072,
        "memory_total_mb": 81_920, "temperature_c": 41,
    } | changed  # fmt: skip


class TestGpus:
    def test_are_those_of_the_library(self, nvml: Nvml) -> None:
        assert measure_gpus()() == [shown(0), shown(1)]

    def test_that_are_gone_are_left_out(self, nvml: Nvml) -> None:
        measure = measure_gpus()
        nvml.lost = {0}
        assert measure() == [shown(1)]

    def test_that_do_not_tell_everything_tell_the_rest(self, nvml: Nvml) -> None:
        nvml.untold, nvml.count = "not supported", 1
        assert measure_gpus()() == [shown(0, utilization_percent=None, temperature_c=None)]

    def test_that_there_are_none_is_said_once(
        self, nvml: Nvml, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level("INFO", "runlane.worker")
        nvml.broken = "no driver"
        sampler = Sampler(measure_gpus, "the GPUs", 0.001)
        sampler.start()
        eventually(lambda: nvml.begun > 3)
        assert caplog.messages == ["no figures of the GPUs: NVMLError: no driver"]
        assert sampler.newest() is None
        nvml.broken = ""
        assert eventually(sampler.newest) == [shown(0), shown(1)]

    def test_of_a_driver_that_hangs_keep_nobody_waiting(self, monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> None:
        release = threading.Event()
        monkeypatch.setattr(nvml, "nvmlDeviceGetCount", lambda: release.wait(60) and 0)
        found = Figures()
        found.start()
        newest = eventually(found.newest)
        assert newest["memory_total_bytes"] > 0
        assert newest["gpus"] == []
        release.set()

    def test_that_are_long_gone_are_not_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sampler = Sampler(lambda: lambda: 1, "one", 60)
        sampler.start()
        assert eventually(sampler.newest) == 1
        monkeypatch.setattr(figures, "SECONDS_GOOD", 0.0)
        assert sampler.newest() is None
