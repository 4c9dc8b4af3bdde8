from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.evaluation import examine, examine_plots, plots, story
from chatwright.evaluation.examine import ExamineConfig
from chatwright.evaluation.runs import StageRun
from chatwright.model.decoder import Decoder
from chatwright.model.folder import save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.records import Comparison, Message
from chatwright.storage import read_json, write_jsonl
from chatwright.tokenizer.bpe import train_bpe
from chatwright.training.rankings import ranking, score_each
from chatwright.training.reward import HELDOUT, HELDOUT_SCORES, Scores

STOPS = {stop.stage: stop for stop in story.ROAD}


@pytest.fixture
def reward(tmp_path: Path) -> Path:
    """A reward model with random weights, and comparisons that it was measured on."""
    torch.set_num_threads(1)
    tokenizer = train_bpe(["user assistant What is the color of snow? It is white. "] * 20, 300)
    config = preset("modern", vocab_size=tokenizer.vocab_size, context=512, layers=1, d_model=32, heads=2)
    torch.manual_seed(0)
    model = ScoredDecoder(Decoder(config), torch.Generator().manual_seed(0)).eval()
    items = [
        Comparison(
            id=f"{i}",
            prompt=[Message(role="user", content=f"What is the color of snow {i}?")],
            answers=["It is white. It is cold.", f"It is {i}.", "It is"],
            tiers=[[0], [1, 2]],
            labeler="x",
            source="even" if i % 2 == 0 else "odd",
        )
        for i in range(30)
    ]
    folder = tmp_path / "reward"
    save_reward(model, folder, tokenizer)
    rows = [found.answers for item in items if (found := ranking(tokenizer, item, 512)) is not None]
    scores = score_each(model, rows, 64, tokenizer.pad, "float32")
    write_jsonl(folder / HELDOUT, items)
    write_jsonl(folder / HELDOUT_SCORES, [Scores(id=i.id, scores=s) for i, s in zip(items, scores, strict=True)])
    return folder


def test_the_report_holds_what_was_asked_and_does_not_depend_on_batches(reward: Path, tmp_path: Path) -> None:
    reports = []
    for name, size in (("one", 1), ("many", 64)):
        out = tmp_path / name
        out.mkdir()
        headline = examine.run(ExamineConfig(probes=12, micro_batch=size, dtype="float32"), {"reward": reward}, out)
        reports.append(read_json(out / examine.REPORT))
    first, second = reports
    assert first["accuracy"] == second["accuracy"]
    assert first["accuracy"]["pairs"] == headline["pairs"] == 60
    assert set(first["by_source"]) == {"even", "odd"}
    assert set(first["probes"]) == {"length", "repetition", "sycophancy", "format"}
    for name, shift in first["probes"].items():
        assert shift["prompts"] == 12
        assert shift["interval"][0] <= shift["value"] <= shift["interval"][1]
        assert second["probes"][name]["value"] == pytest.approx(shift["value"], abs=1e-4)
    for figure in ("accuracy", "calibration", "probes"):
        assert (out / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
    drawn = examine_plots.of_runs({"examine": StageRun("examine", out, {})})
    assert {name for name, _ in STOPS["reward"].figures if name != "reward"} == set(drawn)
    for name, (found, description) in drawn.items():
        assert found is not None
        svg = plots.inline_svg(found, name, description)
        assert not re.findall("#[0-9a-f]{6}", svg)  # every colour is the page's
    assert examine_plots.of_runs({}) == {}


def test_a_planted_taste_for_length_is_found(reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_length(model: ScoredDecoder, rows: list[list[list[int]]], *rest: object) -> list[list[float]]:
        return [[float(len(ids)) for ids in row] for row in rows]

    monkeypatch.setattr(examine, "score_each", by_length)
    examine.run(ExamineConfig(probes=10), {"reward": reward}, tmp_path)
    probes = read_json(tmp_path / examine.REPORT)["probes"]
    assert all(shift["interval"][0] > 0 for shift in probes.values())
    assert probes["length"]["value"] > probes["format"]["value"]


def test_a_reward_model_made_elsewhere_has_nothing_to_be_examined_on(reward: Path, tmp_path: Path) -> None:
    (reward / HELDOUT).unlink()
    with pytest.raises(UserError, match="has no held-out comparisons"):
        examine.run(ExamineConfig(), {"reward": reward}, tmp_path)
