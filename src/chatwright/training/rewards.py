"""What answers are worth: the reward model, rules written in Python, or several of both, weighed and summed.

A rule is any function ``(prompts, answers) -> scores``: conversations that end with the user's turn, the texts that
answer them, and a number for each.

    def short(prompts, answers):
        return [-0.01 * len(answer) for answer in answers]
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.errors import UserError
from chatwright.model.folder import load_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Message, Question
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.ppo.rollout import Score, reward_model_score
from chatwright.training.runtime import Precision

MODEL = "model"  # the rule that is the reward model

Rule = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float]]


class Prompt(NamedTuple):
    """A prompt as ids that ask for its answer, and as the messages that rules read."""

    ids: list[int]
    messages: Sequence[Message] = ()


# Anything that judges answers: (prompts, responses as ids) -> scores_B, float32.
Reward = Callable[[Sequence[Prompt], Sequence[list[int]]], torch.Tensor]


class RewardTerm(BaseModel):
    """One of the rewards that are summed.

    rule: "model" for the reward model, "module:function" for a rule that Python can import, or the name of a function
    in ``file``, whose content then counts in the stage's key. weight: what its scores are multiplied by. name: what the
    log calls it; by default the function's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: str = MODEL
    file: Path | None = None
    weight: float = Field(default=1.0, allow_inf_nan=False)
    name: str = ""

    @model_validator(mode="after")
    def _names_a_function(self) -> RewardTerm:
        _, colon, function = self.rule.rpartition(":")
        named = function.isidentifier() and bool(colon) == (self.file is None)
        if not named and self.rule != MODEL:
            raise ValueError(f'a rule is "model", "module:function", or a function of a file, not {self.rule!r}')
        if self.rule == MODEL and self.file is not None:
            raise ValueError('the rule "model" is the reward model and has no file')
        return self

    @property
    def title(self) -> str:
        """Its name in the log."""
        return self.name or self.rule.rpartition(":")[2]


RewardTerms = tuple[RewardTerm, ...]


def check_titles(terms: Sequence[RewardTerm]) -> None:
    """Raise ValueError where two rewards have one name in the log, or there is none."""
    titles = [term.title for term in terms]
    if not titles:
        raise ValueError("rewards is empty; leave it out for the reward model alone")
    for title in titles:
        if titles.count(title) > 1:
            raise ValueError(f"two rewards are called {title!r}; give one of them a name of its own")


def asks_model(terms: Sequence[RewardTerm]) -> bool:
    """Whether the reward model is among them."""
    return any(term.rule == MODEL for term in terms)


@dataclass(frozen=True)
class Judged:
    """The weighed sum of the rewards of each answer, ``[B]`` float32, and each by its name before it was weighed."""

    scores_B: torch.Tensor
    terms: Mapping[str, torch.Tensor]

    def means(self) -> dict[str, float]:
        """The mean of each reward for the log, where there are several."""
        if len(self.terms) == 1:
            return {}
        return {f"reward_{name}": scores_B.mean().item() for name, scores_B in self.terms.items()}


class Rewards:
    """Several rewards, weighed and summed; called with ``(prompts, responses)``."""

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        """``terms``: weight and reward of each by name."""
        self.terms = dict(terms)

    def __call__(self, prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> Judged:
        """Judge every response. UserError when a rule fails."""
        scores = {name: score(prompts, responses) for name, (_, score) in self.terms.items()}
        weighed = [weight * scores[name] for name, (weight, _) in self.terms.items()]
        return Judged(torch.stack(weighed).sum(0), scores)


def build_rewards(
    terms: Sequence[RewardTerm], model: ScoredDecoder | None, tokenizer: Tokenizer, precision: Precision, batch: int
) -> Rewards:
    """The rewards of a config. ``model``: the reward model, where they ask for it. UserError for a rule not there."""
    built: dict[str, tuple[float, Reward]] = {}
    for term in terms:
        if term.rule == MODEL:
            assert model is not None
            reward = model_reward(reward_model_score(model, tokenizer.pad, precision, batch))
        else:
            reward = rule_reward(find_rule(term), tokenizer, term.title)
        built[term.title] = term.weight, reward
    return Rewards(built)


def find_rule(term: RewardTerm) -> Rule:
    """The function that a reward names. UserError when it is not there or is none."""
    module_name, _, function = term.rule.rpartition(":")
    where = str(term.file or module_name)
    try:
        module = _load_file(term.file) if term.file is not None else importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"The reward {term.rule!r} cannot be imported from {where}: {_in_short(error)}.") from None
    rule: Any = getattr(module, function, None)
    if not callable(rule):
        raise UserError(f"The reward {term.rule!r} names no function of {where}.")
    return rule


def _load_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"chatwright_rule_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in it look themselves up there
    spec.loader.exec_module(module)
    return module


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(".")


def model_reward(score: Score) -> Reward:
    """A function of ids alone, such as the reward model's `Score`, as a `Reward`."""
    return lambda prompts, responses: score([prompt.ids for prompt in prompts], responses)


def rule_reward(rule: Rule, tokenizer: Tokenizer, title: str) -> Reward:
    """A rule as a `Reward`. UserError, which names it, where it raises, or returns too few, too many or no numbers."""

    def reward(prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> torch.Tensor:
        answers = [tokenizer.decode(response) for response in responses]
        try:
            scores_B = torch.tensor([float(score) for score in rule([prompt.messages for prompt in prompts], answers)])
        except Exception as error:
            raise UserError(f"The reward {title!r} failed: {_in_short(error)}.") from error
        if len(scores_B) != len(answers):
            raise UserError(f"The reward {title!r} gave {len(scores_B)} scores for {len(answers)} answers.")
        for answer, score in zip(answers, scores_B.tolist(), strict=True):
            if not math.isfinite(score):
                raise UserError(f"The reward {title!r} gave {score} for the answer {answer[:40]!r}; give it a number.")
        return scores_B

    return reward


def load_reward_for(folder: Path, policy_folder: Path, tokenizer: Tokenizer) -> ScoredDecoder:
    """The reward model of a folder. UserError when it reads other ids than the policy."""
    model, its_tokenizer = load_reward(folder)
    if its_tokenizer.hash != tokenizer.hash:
        raise UserError(f"{folder} was made with another tokenizer than {policy_folder}; run the stage reward again.")
    return model


def prompts_of(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[Prompt]:
    """Each question as the ids that ask for its answer, with its messages."""
    return [
        Prompt(render(tokenizer, question.messages, generation_prompt=True), question.messages)
        for question in questions
    ]
