"""Rewards: rules in Python beside the reward model, summed with weights, each mistake one sentence."""

from __future__ import annotations

import doctest
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from chatwright.errors import UserError
from chatwright.flow import graph
from chatwright.flow.recipe import read_recipe
from chatwright.flywheel.rounds import unfold
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import rewards
from chatwright.training.rewards import (
    Prompt,
    Rewards,
    RewardTerm,
    build_rewards,
    check_titles,
    combined,
    find_rule,
    rule_reward,
)

ASKED = [Message(role="user", content="What is the color of snow?")]


def shorter(prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float]:
    """A rule that others name."""
    return [len(prompt[-1].text) / 100 - len(answer) for prompt, answer in zip(prompts, answers, strict=True)]


def test_worked_examples_hold() -> None:
    assert doctest.testmod(rewards).failed == 0


def test_a_rule_reads_messages_and_texts(tokenizer: Tokenizer) -> None:
    reward = rule_reward(shorter, tokenizer, "shorter")
    answers = [[*tokenizer.encode("It is white."), tokenizer.end_of_turn], tokenizer.encode("white")]
    scores_B = reward([Prompt([1], ASKED)] * 2, answers)
    assert scores_B.tolist() == pytest.approx([0.26 - 12, 0.26 - 5])


def test_rewards_are_weighed_summed_and_kept_apart() -> None:
    rewards = Rewards(
        {
            "a": (2.0, lambda prompts, responses: torch.tensor([1.0, 2.0])),
            "b": (-0.5, lambda prompts, responses: torch.tensor([4.0, 0.0])),
        }
    )
    judged = rewards([Prompt([1])] * 2, [[2], [3]])
    assert judged.scores_B.tolist() == [0.0, 4.0]
    assert judged.means() == {"reward_a": 1.5, "reward_b": 2.0}
    assert Rewards({"a": rewards.terms["a"]})([Prompt([1])] * 2, [[2], [3]]).means() == {}


def test_a_rule_is_found_in_a_module_or_in_a_file(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "rules.py"
    file.write_text("def one(prompts, answers):\n    return [1 for _ in answers]\n")
    term = RewardTerm(rule="one", file=file, weight=3.0)
    assert find_rule(term)([ASKED], ["a"]) == [1]
    rewards = build_rewards((term, RewardTerm(rule="operator:ne", name="never")), {}, tokenizer, "float32", 8)
    assert list(rewards.terms) == ["one", "never"]
    assert rewards.terms["one"][0] == 3.0


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"rule": "no_such_module:f"}, "cannot be imported from no_such_module: ModuleNotFoundError"),
        ({"rule": "operator:no_such"}, "'operator:no_such' names no function of operator"),
    ],
)
def test_a_rule_that_is_not_there_is_one_sentence(term: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_rule(RewardTerm(**term))


def test_a_rule_that_fails_or_miscounts_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"The reward 'bad' failed: ZeroDivisionError: division by zero\."):
        rule_reward(lambda prompts, answers: [1 / 0], tokenizer, "bad")([Prompt([1])], [[2]])
    with pytest.raises(UserError, match="The reward 'few' gave 1 scores for 2 answers"):
        rule_reward(lambda prompts, answers: [1.0], tokenizer, "few")([Prompt([1])] * 2, [[2], [3]])


@pytest.mark.parametrize("worth", ["nan", "inf", "-inf", "1e39"])
def test_a_rule_that_gives_no_number_is_named(tokenizer: Tokenizer, worth: str) -> None:
    answers = [tokenizer.encode("It is white."), tokenizer.encode("It is blue.")]
    with pytest.raises(UserError, match=r"The reward 'bad' gave (nan|-?inf) for the answer 'It is blue\.'; give it"):
        rule_reward(lambda prompts, answers: [1.0, float(worth)], tokenizer, "bad")([Prompt([1])] * 2, answers)


def constant(model: ScoredDecoder, score: float) -> ScoredDecoder:
    """A reward model that says the same of everything."""
    model.zero_head()
    model.bias.fill_(-score)
    return model


@pytest.mark.parametrize(("combine", "expected"), [("mean", 2.0), ("worst", -1.0), ("uncertain", 2.0 - 0.5 * 14 / 3)])
def test_reward_models_judge_together(tokenizer: Tokenizer, combine: str, expected: float) -> None:
    """Scores 3, -1 and 4: mean 2, lowest -1, variance 14/3 (of the three, as in Coste et al.)."""
    config = preset("modern", vocab_size=tokenizer.vocab_size, context=32, layers=1, d_model=16, heads=1)
    names = ("reward", "reward@seed2", "reward@seed3")
    models = {n: constant(ScoredDecoder(Decoder(config)), s) for n, s in zip(names, (3.0, -1.0, 4.0), strict=True)}
    term = RewardTerm(models=names, combine=combine, penalty=0.5, weight=2.0)  # type: ignore[arg-type]
    judged = build_rewards((term,), models, tokenizer, "float32", 8)([Prompt([1, 2])] * 2, [[3], [4, 5]])
    assert judged.terms["model"].tolist() == pytest.approx([expected] * 2)
    assert judged.scores_B.tolist() == pytest.approx([2 * expected] * 2)
    (score,) = build_rewards((RewardTerm(),), models, tokenizer, "float32", 8)([Prompt([1])], [[3]]).scores_B.tolist()
    assert score == 3.0, "by default the stage reward alone"


def test_combined_scores_are_those_of_each_answer_by_itself() -> None:
    scores_MB = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for b in range(7):
        column = scores_MB[:, b].tolist()
        mean = statistics.fmean(column)
        expected = {"mean": mean, "worst": min(column), "uncertain": mean - 0.3 * statistics.pvariance(column)}
        for how, value in expected.items():
            assert combined(scores_MB, how, 0.3)[b].item() == pytest.approx(value)  # type: ignore[arg-type]


def test_a_stage_reads_the_reward_models_that_its_terms_name(tiny: Path) -> None:
    together = 'ppo.rewards=[{models=["reward", "reward@seed2"], combine="worst"}]'
    with pytest.raises(UserError, match="ppo reads reward@seed2, which `stages` leaves out"):
        graph.parts(read_recipe(tiny, [together]))
    recipe = read_recipe(tiny, [together, "reward@seed2.seed=2"])
    parts = graph.parts(recipe)["ppo"]
    assert parts == {name: name for name in ("sft", "reward", "reward@seed2", "conversations", "shards")}
    other = read_recipe(tiny, ['ppo.rewards=[{models=["reward@seed2"]}]', "reward@seed2.seed=2"])
    assert "reward" not in graph.parts(other)["ppo"]
    with pytest.raises(UserError, match=r"a round trains one reward model, and \[ppo\] rewards name reward@seed2"):
        unfold(recipe, 1)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"models": []}, "at least 1 item"),
        ({"models": ["ppo"]}, "models are instances of the stage reward, such as \"reward@seed2\", not 'ppo'"),
        ({"models": ["reward", "reward"]}, "models names 'reward' twice"),
        ({"combine": "worst"}, "wants several models; there is 'reward' alone"),
        ({"rule": "a:b", "models": ["reward"]}, "models belongs to the rule \"model\", not to 'a:b'"),
        ({"models": ["reward", "reward@b"], "combine": "median"}, "'mean', 'worst' or 'uncertain'"),
        ({"penalty": -1.0}, "greater than or equal to 0"),
    ],
)
def test_reward_models_that_cannot_judge_together_are_refused(term: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardTerm(**term)


def test_terms_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for term in ({"rule": "f"}, {"rule": "a:b", "file": tmp_path}, {"rule": "model", "file": tmp_path}, {"rule": "a:"}):
        with pytest.raises(ValueError, match="rule"):
            RewardTerm(**term)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two rewards are called 'f'"):
        check_titles((RewardTerm(rule="a:f"), RewardTerm(rule="b:f")))
    with pytest.raises(ValueError, match="rewards is empty"):
        check_titles(())
