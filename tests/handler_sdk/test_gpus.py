from pathlib import Path

from handler_sdk.gpus import gpu_names


def test_the_models_are_those_that_the_driver_names(tmp_path: Path) -> None:
    for number, model in enumerate(["NVIDIA H100 80GB HBM3", "NVIDIA L4"]):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 65\nGPU UUID: \t GPU-1\n")
    assert gpu_names(tmp_path) == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]


def test_a_machine_without_the_driver_has_none(tmp_path: Path) -> None:
    assert gpu_names(tmp_path / "nvidia") == []
