"""Print the path of the GGUF file in an installed package, which need not be importable: `packaged_gguf.py PACKAGE`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def find(package: str) -> Path:
    """The package's only `.gguf` file. SystemExit says what is missing."""
    spec = importlib.util.find_spec(package)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if len(files) != 1:
        sys.exit(f"The package {package} is not installed or has no single .gguf file.")
    return files[0]


if __name__ == "__main__":
    print(find(sys.argv[1]))
