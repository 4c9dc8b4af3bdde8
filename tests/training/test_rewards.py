"""Rewards: rules in Python beside the reward model, summed with weights, each mistake one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.rewards import Prompt, Rewards, RewardTerm, build_rewards, check_titles, find_rule, rule_reward

ASKED = [Message(role="user", content="What is the color of snow?")]


def shorter(prompts: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[float]:
    """A rule that others name."""
    return [len(prompt[-1].text) / 100 - len(answer) for prompt, answer in zip(prompts, answers, strict=True)]


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
    rewards = build_rewards((term, RewardTerm(rule="operator:ne", name="never")), None, tokenizer, "float32", 8)
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


def test_terms_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    for term in ({"rule": "f"}, {"rule": "a:b", "file": tmp_path}, {"rule": "model", "file": tmp_path}, {"rule": "a:"}):
        with pytest.raises(ValueError, match="rule"):
            RewardTerm(**term)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="two rewards are called 'f'"):
        check_titles((RewardTerm(rule="a:f"), RewardTerm(rule="b:f")))
    with pytest.raises(ValueError, match="rewards is empty"):
        check_titles(())
