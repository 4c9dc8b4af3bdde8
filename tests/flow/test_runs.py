"""Listing runs and putting them side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.conftest import TinyRun, chatwright


def test_runs_are_listed_with_what_came_out(tiny_run: TinyRun) -> None:
    result = chatwright("runs", tiny_run.out.parent, "--json")
    assert result.status == 0, result.errors
    (run,) = json.loads(result.output)["runs"]
    assert (run["recipe"], run["at"], run["done"]) == ("tiny", None, run["stages"])
    assert run["headlines"]["pretrain.bits_per_byte"] > 0
    assert "tiny" in chatwright("runs", tiny_run.out).output


def test_a_run_under_way_says_where_it_is(tiny_run: TinyRun, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run.out, copy)
    manifest = json.loads((copy / "ppo" / "manifest.json").read_text())
    (copy / "ppo" / "manifest.json").unlink()
    progress = {"key": manifest["key"], "started": "", "attempt": 1, "attempt_began": 0.0, "seconds_before": 0.0}
    (copy / "ppo" / "in_progress.json").write_text(json.dumps(progress))
    (run,) = json.loads(chatwright("runs", copy, "--json").output)["runs"]
    assert (run["at"], run["step"]) == ("ppo", 4)
    assert "ppo, step 4" in chatwright("runs", copy).output


def test_two_runs_side_by_side_show_where_they_differ(tiny_run: TinyRun, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_run.out, other)
    path = other / "pretrain" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["optim"]["lr"] = 0.5
    manifest["headline"]["bits_per_byte"] = 9.0
    path.write_text(json.dumps(manifest))
    compared = json.loads(chatwright("runs", "--compare", tiny_run.out, other, "--json").output)
    assert compared["settings"] == {"pretrain.optim.lr": [0.01, 0.5]}
    assert compared["headlines"]["pretrain.bits_per_byte"][1] == 9.0
    shown = chatwright("runs", "--compare", tiny_run.out, other).output
    assert "pretrain.optim.lr" in shown


def test_folders_without_runs_are_one_sentence(tmp_path: Path, tiny_run: TinyRun) -> None:
    for arguments in ((tmp_path / "none",), (tmp_path,), ("--compare", tiny_run.out)):
        result = chatwright("runs", *arguments)
        assert result.status == 2
        assert result.errors.count("\n") == 1
