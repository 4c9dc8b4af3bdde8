"""What answers are worth: a reward model or several, rules written in Python, or some of each, weighed and summed.

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
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from chatwright.errors import UserError
from chatwright.model.folder import load_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Message, Question
from chatwright.stage import Inputs
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.config import StartConfig
from chatwright.training.ppo.rollout import Score, reward_model_score
from chatwright.training.runtime import Precision

MODEL = "model"  # the rule that is the reward model
REWARD = "reward"  # the stage that trains it

Rule = Callable[[Sequence[Sequence[Message]], Sequence[str]], Sequence[float]]


class Prompt(NamedTuple):
    """A prompt as ids that ask for its answer, and as the messages that rules read."""

    ids: list[int]
    messages: Sequence[Message] = ()


# Anything that judges answers: (prompts, responses as ids) -> scores_B, float32.
Reward = Callable[[Sequence[Prompt], Sequence[list[int]]], torch.Tensor]


Combine = Literal["mean", "worst", "uncertain"]


class RewardTerm(BaseModel):
    """One of the rewards that are summed.

    rule: "model" for the reward model, "module:function" for a rule that Python can import, or the name of a function
    in ``file``, whose content then counts in the stage's key. weight: what its scores are multiplied by. name: what the
    log calls it; by default the function's name. models: the instances of the stage reward that judge together, such as
    variants with other seeds; combine, penalty: what their scores come to (see `combined`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rule: str = MODEL
    file: Path | None = None
    weight: float = 1.0
    name: str = ""
    models: tuple[str, ...] = Field(default=(REWARD,), min_length=1)
    combine: Combine = "mean"
    penalty: float = Field(default=0.1, ge=0)  # ours

    @model_validator(mode="after")
    def _names_a_function(self) -> RewardTerm:
        module, colon, function = self.rule.rpartition(":")
        importable = all(part.isidentifier() for part in module.split(".")) and self.file is None
        named = function.isidentifier() and (importable if colon else self.file is not None)
        if not named and self.rule != MODEL:
            raise ValueError(f'a rule is "model", "module:function", or a function of a file, not {self.rule!r}')
        if self.rule == MODEL and self.file is not None:
            raise ValueError('the rule "model" is the reward model and has no file')
        return self

    @model_validator(mode="after")
    def _names_reward_models(self) -> RewardTerm:
        together = {"models", "combine", "penalty"} & self.model_fields_set
        if self.rule != MODEL and together:
            raise ValueError(f'{min(together)} belongs to the rule "model", not to {self.rule!r}')
        for model in self.models:
            if model.partition("@")[0] != REWARD:
                raise ValueError(f'models are instances of the stage reward, such as "reward@seed2", not {model!r}')
            if self.models.count(model) > 1:
                raise ValueError(f"models names {model!r} twice")
        if self.combine != "mean" and len(self.models) == 1:
            raise ValueError(f'combine = "{self.combine}" wants several models; there is {self.models[0]!r} alone')
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


def models_of(terms: Sequence[RewardTerm]) -> tuple[str, ...]:
    """The instances of the stage reward that judge, each once; none where rules alone do."""
    return tuple(dict.fromkeys(model for term in terms if term.rule == MODEL for model in term.models))


class RewardsConfig(StartConfig):
    """A stage that samples answers and judges them. rewards: what they are worth, summed; the reward model by default.

    missing_eos_score: of an answer that ran into its limit, in place of the rewards. max_prompt: tokens of a prompt; a
    longer one loses its first exchanges, and where its last question alone is longer it is left out.
    """

    max_prompt: int = Field(default=1024, gt=0)  # IGPT C: "prompts and responses up to 1k tokens each"
    rewards: RewardTerms = (RewardTerm(),)
    missing_eos_score: float = -1.0  # NDET; ZIEG for a missing full stop

    @model_validator(mode="after")
    def _rewards_differ(self) -> RewardsConfig:
        check_titles(self.rewards)
        return self

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Without the stage reward where others judge."""
        return tuple(name for name in inputs if name != REWARD or name in models_of(self.rewards))

    def reads(self, inputs: tuple[str, ...]) -> dict[str, str]:
        """Also the other reward models that judge."""
        return {**super().reads(inputs), **{name: name for name in models_of(self.rewards)}}


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
    terms: Sequence[RewardTerm],
    models: Mapping[str, ScoredDecoder],
    tokenizer: Tokenizer,
    precision: Precision,
    batch: int,
) -> Rewards:
    """The rewards of a config. ``models``: the reward models that they ask for. UserError for a rule not there."""
    built: dict[str, tuple[float, Reward]] = {}
    for term in terms:
        if term.rule == MODEL:
            scores = [reward_model_score(models[name], tokenizer.pad, precision, batch) for name in term.models]
            reward = model_reward(scores, term.combine, term.penalty)
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


def model_reward(scores: Sequence[Score], combine: Combine = "mean", penalty: float = 0.0) -> Reward:
    """Functions of ids alone, such as the `Score` of a reward model or of some, as a `Reward`."""

    def reward(prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> torch.Tensor:
        ids = [prompt.ids for prompt in prompts]
        return combined(torch.stack([score(ids, responses) for score in scores]), combine, penalty)

    return reward


def combined(scores_MB: torch.Tensor, combine: Combine, penalty: float) -> torch.Tensor:
    """What M reward models say together of each of B answers (Coste et al. 2023, 2310.02743, section 3).

    Their ``mean``; the ``worst`` that any of them says (WCO); or, as ``uncertain``, the mean less ``penalty`` times
    their variance (UWO). Models that differ by their seeds err differently where they know nothing, and that is where
    a policy goes that is after their scores.

    >>> scores = torch.tensor([[1.0, 4.0], [1.0, 0.0]])
    >>> [combined(scores, how, 0.5).tolist() for how in ("mean", "worst", "uncertain")]
    [[1.0, 2.0], [1.0, 0.0], [1.0, 0.0]]
    """
    if combine == "worst":
        return scores_MB.amin(dim=0)
    mean_B = scores_MB.mean(dim=0)
    return mean_B if combine == "mean" else mean_B - penalty * scores_MB.var(dim=0, correction=0)


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


def load_models(
    terms: Sequence[RewardTerm], inputs: Inputs, tokenizer: Tokenizer, device: torch.device
) -> dict[str, ScoredDecoder]:
    """The reward models that judge, by instance. UserError when one reads other ids than the policy, ``sft``."""
    models: dict[str, ScoredDecoder] = {}
    for name in models_of(terms):
        model, its_tokenizer = load_reward(inputs[name])
        if its_tokenizer.hash != tokenizer.hash:
            raise UserError(
                f"{inputs[name]} was made with another tokenizer than {inputs['sft']}; run the stage reward again."
            )
        models[name] = model.to(device)
    return models


def prompts_of(tokenizer: Tokenizer, questions: Sequence[Question]) -> list[Prompt]:
    """Each question as the ids that ask for its answer, with its messages."""
    return [
        Prompt(render(tokenizer, question.messages, generation_prompt=True), question.messages)
        for question in questions
    ]
