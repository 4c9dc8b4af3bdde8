from __future__ import annotations

from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.service.models import load, load_all, resolve_model


def finish(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "manifest.json").write_text("{}")


def test_a_model_folder_is_itself(tmp_path: Path):
    finish(tmp_path / "mine")
    assert resolve_model(tmp_path / "mine") == ("mine", tmp_path / "mine")


def test_a_run_is_its_furthest_finished_model(tmp_path: Path):
    run = tmp_path / "atlas"
    finish(run / "pretrain")
    assert resolve_model(run) == ("atlas", run / "pretrain")
    finish(run / "sft")
    assert resolve_model(run) == ("atlas", run / "sft")
    (run / "ppo").mkdir()
    (run / "ppo" / "config.json").write_text("{}")  # no manifest: ppo is under way
    assert resolve_model(run) == ("atlas", run / "sft")
    (run / "ppo" / "manifest.json").write_text("{}")
    assert resolve_model(run) == ("atlas", run / "ppo")


def test_a_path_without_a_model_says_what_to_run(tmp_path: Path):
    with pytest.raises(UserError, match=r"does not exist.*chatwright run"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match=r"no finished model.*chatwright run"):
        load(tmp_path)


def test_two_models_of_one_name_are_refused_before_any_is_loaded(tmp_path: Path):
    for run in ("one", "other"):
        finish(tmp_path / run / "mine")
    with pytest.raises(UserError, match="both have the name mine"):
        load_all([tmp_path / "one" / "mine", tmp_path / "other" / "mine"])
