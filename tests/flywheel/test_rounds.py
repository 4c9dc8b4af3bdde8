"""Rounds of the tiny recipe: what each learns from, what is skipped, and what a kill in the middle leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatwright.errors import UserError
from chatwright.flow import graph, planner
from chatwright.flow.folder import finished, lacking
from chatwright.flow.lineage import back
from chatwright.flow.manifest import Manifest, read_manifest
from chatwright.flow.recipe import Recipe, read_recipe
from chatwright.flow.run import run_recipe
from chatwright.flywheel import best
from chatwright.flywheel.best import BestConfig
from chatwright.flywheel.match import ANSWERS, Met
from chatwright.flywheel.people import OFFERED, Offer
from chatwright.flywheel.rounds import Ran, run_rounds, table, unfold
from chatwright.records import Comparison, Message
from chatwright.stage import read_metrics
from chatwright.storage import read_jsonl, write_jsonl
from chatwright.training.ppo.trainer import Trainer
from tests.conftest import TinyRun, chatwright

OVERRIDES = ("rounds.prompts=16", "rounds.match_prompts=8", "compare.misplaced=1")
ROUND = ["compare", "pool", "reward", "ppo", "match"]


@pytest.fixture(autouse=True)
def _no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "measure", lambda: planner.REFERENCE)


@dataclass(frozen=True)
class TwoRounds:
    """Two rounds of the tiny recipe that nobody disturbed."""

    recipe: Recipe
    out: Path
    ran: Ran


@pytest.fixture
def folder(tiny_run: TinyRun, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run.out, tmp_path / "out"))


@pytest.fixture(scope="module")
def two(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> TwoRounds:
    out = Path(shutil.copytree(tiny_run.out, tmp_path_factory.mktemp("rounds") / "out"))
    recipe = read_recipe(tiny_run.recipe, OVERRIDES)
    return TwoRounds(recipe, out, run_rounds(recipe, out, 2))


def made(out: Path, name: str) -> Manifest:
    manifest = read_manifest(out / name)
    assert manifest is not None, name
    return manifest


def comparisons(out: Path, name: str) -> list[Comparison]:
    return read_jsonl(out / name / "comparisons.jsonl", Comparison)


def test_rounds_take_up_the_finished_sft_model_and_make_only_themselves(two: TwoRounds) -> None:
    states = {outcome.name: outcome.state for outcome in two.ran.outcomes}
    new = [f"{stage}@round{number}" for number in (1, 2) for stage in ROUND]
    assert [name for name, state in states.items() if state == "made"] == new
    assert states["sft"] == "done before"
    assert "evaluate" not in states


def test_the_second_rounds_reward_model_learns_from_the_comparisons_of_both(two: TwoRounds) -> None:
    first, second = (comparisons(two.out, f"compare@round{number}") for number in (1, 2))
    assert {c.id for c in first}.isdisjoint(c.id for c in second), "each round has prompts of its own"
    pooled = comparisons(two.out, "pool@round2")
    assert [c.id for c in pooled] == [f"round1/{c.id}" for c in first] + [f"round2/{c.id}" for c in second]
    assert [c.answers for c in pooled] == [c.answers for c in first + second]
    assert made(two.out, "reward@round2").headline["prompts"] == len(pooled)
    assert made(two.out, "reward@round1").headline["prompts"] == len(first)
    assert two.ran.rows[1]["comparisons"] == len(pooled)


def test_the_second_round_samples_from_the_policy_of_the_first(two: TwoRounds) -> None:
    assert set(made(two.out, "compare@round1").inputs) == {"sft", "conversations"}
    assert set(made(two.out, "compare@round2").inputs) == {"ppo@round1", "conversations"}
    assert made(two.out, "compare@round2").inputs["ppo@round1"] == made(two.out, "ppo@round1").key
    stages = {origin.name for origin in back(two.out / "ppo@round2" / "model.safetensors").stages}
    assert {"reward@round2", "pool@round2", "compare@round1", "ppo@round1", "sft", "corpus"} <= stages


def test_a_match_counts_wins_over_the_round_before_and_over_sft(two: TwoRounds) -> None:
    first, second = two.ran.rows
    assert first["win_rate_previous"] == first["win_rate_sft"], "the round before the first is SFT"
    lines = [json.loads(line) for line in (two.out / "match@round2" / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    for row, opponent in ((second, "previous"), (second, "sft")):
        scores = [(line["gold"]["policy"], line["gold"][opponent]) for line in lines]
        wins = sum(a > b for a, b in scores) + 0.5 * sum(a == b for a, b in scores)
        assert row[f"win_rate_{opponent}"] == wins / len(lines)
        assert row[f"win_rate_{opponent}_low"] <= wins / len(lines) <= row[f"win_rate_{opponent}_high"]
    assert second["gold"] == pytest.approx(sum(line["gold"]["policy"] for line in lines) / len(lines))
    assert len(table(two.ran.rows).rows) == 2


def test_rounds_that_are_done_are_skipped_and_further_ones_added(two: TwoRounds, tmp_path: Path) -> None:
    out = Path(shutil.copytree(two.out, tmp_path / "out"))
    again = run_rounds(two.recipe, out, 2)
    assert {outcome.state for outcome in again.outcomes} == {"done before"}
    assert again.rows == [{**row, "policy": row["policy"].replace(str(two.out), str(out))} for row in two.ran.rows]
    third = run_rounds(two.recipe, out, 3)
    assert [o.name for o in third.outcomes if o.state == "made"] == [f"{stage}@round3" for stage in ROUND]
    rows = [row["comparisons"] for row in third.rows]
    assert rows == sorted(set(rows))


def test_a_killed_round_resumes_to_the_same_bytes(
    two: TwoRounds, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, calls = Trainer.learn, 0

    def killed(self: Trainer, step: int, rollout: Any) -> dict[str, float]:
        nonlocal calls
        calls += 1
        if calls == 7:  # the third step of the second round's PPO
            raise KeyboardInterrupt
        return learn(self, step, rollout)

    monkeypatch.setattr(Trainer, "learn", killed)
    with pytest.raises(KeyboardInterrupt):
        run_rounds(two.recipe, folder, 2)
    monkeypatch.setattr(Trainer, "learn", learn)
    resumed = run_rounds(two.recipe, folder, 2)
    assert [o.name for o in resumed.outcomes if o.state == "resumed"] == ["ppo@round2"]
    assert len(read_metrics(folder / "ppo@round2")) == 4
    for name in ("ppo@round2/model.safetensors", "match@round2/answers.jsonl", "reward@round2/model.safetensors"):
        assert (folder / name).read_bytes() == (two.out / name).read_bytes(), name


def test_ppo_may_start_from_the_policy_of_the_round_before(tiny_run: TinyRun, two: TwoRounds, tmp_path: Path) -> None:
    out = Path(shutil.copytree(two.out, tmp_path / "out"))
    recipe = read_recipe(tiny_run.recipe, (*OVERRIDES, 'rounds.start="previous"'))
    ran = run_rounds(recipe, out, 2)
    assert [o.name for o in ran.outcomes if o.state == "made"] == ["ppo@round2", "match@round2"]
    assert set(made(out, "ppo@round2").inputs) == {"sft", "ppo@round1", "reward@round2", "conversations", "shards"}
    from_sft, from_previous = (abs(read_metrics(folder / "ppo@round2")[0]["kl"]) for folder in (two.out, out))
    assert from_sft < 1e-5 < from_previous, "it starts from round 1, and the KL is from SFT"


def lines_of_a_match(folder: Path, policy: Sequence[float], previous: Sequence[float]) -> None:
    asked = [Message(role="user", content="Which?")]
    met = [
        Met(id=str(i), prompt=asked, answers={}, gold={"policy": ours, "previous": theirs, "sft": 0.0})
        for i, (ours, theirs) in enumerate(zip(policy, previous, strict=True))
    ]
    write_jsonl(folder / ANSWERS, met)


@pytest.mark.parametrize(
    ("policy", "gate", "kept"),
    [
        ([1.0, 1.0, 0.0], 0.5, "ppo"),
        ([1.0, 0.5, 0.0], 0.5, "ppo"),  # a win, a tie, a loss
        ([0.5, 0.5, 0.0], 0.5, "sft"),
        ([1.0, 1.0, 0.0], 0.7, "sft"),
        ([0.0, 0.0, 0.0], 0.0, "ppo"),
    ],
)
def test_the_winner_of_the_match_goes_on(
    tiny_run: TinyRun, tmp_path: Path, policy: list[float], gate: float, kept: str
) -> None:
    lines_of_a_match(tmp_path / "match", policy, [0.5, 0.5, 0.5])
    inputs = {"policy": tiny_run.out / "ppo", "previous": tiny_run.out / "sft", "match": tmp_path / "match"}
    headline = best.STAGE.run(BestConfig(gate=gate), inputs, tmp_path / "best")
    assert headline["promoted"] == (kept == "ppo")
    left, expected = (folder / "model.safetensors" for folder in (tmp_path / "best", tiny_run.out / kept))
    assert left.read_bytes() == expected.read_bytes()


def test_with_a_gate_a_round_goes_on_from_the_best_policy_so_far(tiny_run: TinyRun) -> None:
    recipe = read_recipe(tiny_run.recipe, (*OVERRIDES, "rounds.gate=0.5", 'rounds.start="previous"'))
    unfolded = unfold(recipe, 2)
    parts = graph.parts(unfolded.recipe)
    assert parts["best@round1"] == {"policy": "ppo@round1", "previous": "sft", "match": "match@round1"}
    assert parts["compare@round2"]["sft"] == parts["ppo@round2"]["policy"] == "best@round1"
    assert parts["match@round2"]["previous"] == "best@round1"
    assert parts["ppo@round2"]["sft"] == parts["match@round2"]["sft"] == "sft", "the KL is from SFT all the same"
    assert unfolded.targets == ("best@round1", "best@round2")


def test_a_gate_takes_up_the_rounds_that_were_made_without_one(
    tiny_run: TinyRun, two: TwoRounds, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(two.out, tmp_path / "out"))
    ran = run_rounds(read_recipe(tiny_run.recipe, (*OVERRIDES, "rounds.gate=1.0")), out, 1)
    assert [o.name for o in ran.outcomes if o.state == "made"] == ["best@round1"]
    (row,) = ran.rows
    assert row["promoted"] == (row["win_rate_previous"] == 1.0)
    shown = table(ran.rows)
    assert shown.columns[-1].header == "goes on"
    assert len(list(shown.columns[-1].cells)) == 1
    assert "promoted" not in run_rounds(two.recipe, out, 1).rows[0]


def test_unfinished_rounds_do_not_make_the_run_unfinished(tiny_run: TinyRun, two: TwoRounds, tmp_path: Path) -> None:
    out = Path(shutil.copytree(two.out, tmp_path / "out"))
    (out / "ppo@round2" / "manifest.json").unlink()
    assert lacking(out) == []
    assert finished(out)["ppo@round2"] is None
    result = chatwright("demo", out)
    assert "Not done yet" not in result.errors
    assert "What colour is the sky?" in result.output
    (out / "ppo" / "manifest.json").unlink()
    assert lacking(out) == ["ppo"]
    again = chatwright("demo", out)
    assert (again.status, "Not done yet" in again.errors, "round2" in again.errors) == (2, True, False)


def test_a_later_run_still_lists_the_rounds(two: TwoRounds, tmp_path: Path) -> None:
    out = Path(shutil.copytree(two.out, tmp_path / "out"))
    run_recipe(two.recipe, out, until="sft")
    assert {f"{stage}@round2" for stage in ROUND} <= finished(out).keys()
    shutil.rmtree(out / "match@round2")
    run_recipe(two.recipe, out, until="sft")
    assert "match@round2" not in finished(out)


def rank_all(offered: Path, rankings: Path) -> list[Offer]:
    """A person who likes short answers."""
    offers = read_jsonl(offered, Offer)
    ranked = [
        Comparison(
            id=offer.id,
            prompt=offer.prompt,
            answers=offer.answers,
            tiers=[[i] for i in sorted(range(len(offer.answers)), key=lambda i: (len(offer.answers[i]), i))],
            labeler="ann",
        )
        for offer in offers
    ]
    write_jsonl(rankings, ranked)
    return offers


def test_people_rank_and_the_command_waits_for_them(tiny_run: TinyRun, folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny_run.recipe, (*OVERRIDES, f'rounds.people="{tmp_path}/ranked{{round}}.jsonl"'))
    first = run_rounds(recipe, folder, 2)
    assert first.rows == []
    assert first.waiting is not None
    assert (first.waiting.round, first.waiting.rankings) == (1, tmp_path / "ranked1.jsonl")
    assert [o.name for o in first.outcomes if o.state == "made"] == ["offer@round1"]

    rank_all(first.waiting.offered, first.waiting.rankings)
    second = run_rounds(recipe, folder, 2)
    assert second.waiting is not None
    assert (second.waiting.round, second.waiting.offered) == (2, folder / "offer@round2" / OFFERED)
    assert [row["round"] for row in second.rows] == [1]
    assert made(folder, "offer@round2").inputs.keys() == {"ppo@round1", "conversations"}
    sets = [
        len(read_jsonl(folder / "people@round1" / f"comparisons{end}.jsonl", Comparison)) for end in ("", "_heldout")
    ]
    assert sum(sets) == made(folder, "people@round1").headline["prompts"]
    assert min(sets) > 0

    rank_all(second.waiting.offered, second.waiting.rankings)
    third = run_rounds(recipe, folder, 2)
    assert third.waiting is None
    assert [row["round"] for row in third.rows] == [1, 2]
    assert third.rows[1]["comparisons"] > third.rows[0]["comparisons"]


def test_rankings_that_do_not_fit_what_was_offered_are_refused(tiny_run: TinyRun, folder: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny_run.recipe, (*OVERRIDES, f'rounds.people="{tmp_path}/ranked{{round}}.jsonl"'))
    offered = folder / "offer@round1" / OFFERED
    run_rounds(recipe, folder, 1)
    rankings = tmp_path / "ranked1.jsonl"
    rank_all(offered, rankings)
    right = rankings.read_text().splitlines()
    first = json.loads(right[0])
    for line, message in (
        ({**first, "id": "elsewhere"}, "'elsewhere' was not offered in this round"),
        (json.loads(right[1]), "is ranked twice"),
        ({**first, "answers": [*first["answers"][:-1], "My own."]}, "other answers than were offered"),
    ):
        rankings.write_text("\n".join([*right[1:], json.dumps(line)]) + "\n")
        with pytest.raises(UserError, match=message):
            run_rounds(recipe, folder, 1)
    rankings.write_text(right[0] + "\n")
    with pytest.raises(UserError, match="ranks 1 prompts; at least two"):
        run_rounds(recipe, folder, 1)
    assert not (folder / "people@round1" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['stages=["conversations", "corpus", "tokenizer", "shards", "pretrain", "sft"]'], "rounds need compare"),
        (["ppo@round1.seed=2"], "ppo@round1 is a round's; give that variant another name"),
        ([f'reward.data="{__file__}"'], "would take the place of the rounds' comparisons"),
    ],
)
def test_a_recipe_that_has_no_rounds_is_refused(tiny: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unfold(read_recipe(tiny, overrides), 1)


def test_there_is_at_least_one_round(tiny: Path) -> None:
    with pytest.raises(UserError, match="at least one round"):
        unfold(read_recipe(tiny), 0)


def test_more_noise_changes_every_round_and_nothing_before_them(tiny: Path) -> None:
    plain, noisy = (graph.keys(unfold(read_recipe(tiny, words), 2).recipe) for words in ([], ["compare.noise=1.5"]))
    same = {name for name in plain if plain[name] == noisy[name]}
    assert same == {"conversations", "corpus", "tokenizer", "shards", "pretrain", "sft"}


def test_the_plan_has_every_instance_of_every_round(tiny: Path) -> None:
    plan = planner.make_plan(unfold(read_recipe(tiny), 2).recipe, planner.REFERENCE)
    assert {f"{stage}@round{number}" for number in (1, 2) for stage in ROUND} <= plan.seconds().keys()
    tokens = [plan.details()[f"reward@round{number}"]["tokens"] for number in (1, 2)]
    assert tokens[1] == 2 * tokens[0] > 0, "the second learns from the comparisons of both"


def test_the_command_prints_rounds_for_people_and_for_programs(two: TwoRounds, tiny_run: TinyRun) -> None:
    words = [word for override in OVERRIDES for word in ("--set", override)]
    told = chatwright("rounds", tiny_run.recipe, "--rounds", "2", "--out", two.out, "--json", *words)
    assert told.status == 0, told.errors
    answer = json.loads(told.output)
    assert [row["round"] for row in answer["rounds"]] == [1, 2]
    assert answer["waiting"] is None
    assert {stage["state"] for stage in answer["stages"].values()} == {"done before"}
    shown = chatwright("rounds", tiny_run.recipe, "--rounds", "2", "--out", two.out, *words)
    assert "wins over SFT" in shown.output
