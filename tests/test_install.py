"""The installation: what is pinned, and which build of PyTorch a machine gets."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def install() -> ModuleType:
    """tools/install.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pip:
    """Stands in for the processes that the installation starts, and remembers what was installed."""

    def __init__(self, needs: list[str], version: str = "2.13.0", gpu: bool = False, cpu_index: bool = True) -> None:
        self.report = json.dumps({"install": [{"metadata": {"version": version, "requires_dist": needs}}]})
        self.gpu, self.cpu_index = gpu, cpu_index
        self.installed: list[list[str]] = []

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if command[0] == "nvidia-smi":
            return subprocess.CompletedProcess(command, 0 if self.gpu else 9)
        if "--dry-run" in command:
            return subprocess.CompletedProcess(command, 0, stdout=self.report)
        self.installed.append(command[command.index("install") :])
        if "--index-url" in command and not self.cpu_index:
            raise subprocess.CalledProcessError(1, command)
        return subprocess.CompletedProcess(command, 0)


CUDA = ["filelock", 'nvidia-cublas==13.0; platform_system == "Linux"', 'triton==3.7; platform_system == "Linux"']


@pytest.mark.parametrize(
    ("pip", "platform", "indexed"),
    [
        (Pip(CUDA, gpu=True), "linux", [False]),
        (Pip(CUDA), "linux", [True]),
        (Pip(CUDA, cpu_index=False), "linux", [True, False]),
        (Pip(["filelock"], "2.13.0+cpu"), "linux", [False]),
        (Pip(CUDA), "darwin", [False]),
    ],
    ids=["a GPU", "no GPU", "no GPU and no CPU index", "pip's own is for the CPU", "macOS"],
)
def test_pytorch_comes_with_cuda_only_where_there_is_a_gpu(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, pip: Pip, platform: str, indexed: list[bool]
) -> None:
    monkeypatch.setattr(install.subprocess, "run", pip)
    monkeypatch.setattr(install.shutil, "which", lambda name: name)
    monkeypatch.setattr(sys, "platform", platform)
    install.install_torch("torch==2.13.0")
    assert [install.CPU_INDEX in arguments for arguments in pip.installed] == indexed


def test_every_dependency_is_pinned_to_a_version_that_it_allows(install: ModuleType) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    on_gpus = {"quantise", "vllm"}  # bring a PyTorch of their own choice, and no make target installs them
    extras = [texts for name, texts in project["optional-dependencies"].items() if name not in on_gpus]
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        pinned = Requirement(install.pinned(requirement.name))
        assert requirement.specifier.contains(str(pinned.specifier).removeprefix("==")), text
