"""Stage best_of_n: the best of n answers by the rewards, what that gains and costs, and demonstrations made of them.

Best-of-n needs no training: its KL from the model that answers is at most log n - (n - 1) / n, whatever the rewards
(Gao et al. 2022, 2210.10760). Kept as demonstrations, its answers are rejection sampling: data for the stage sft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field, model_validator

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.folder import load_model
from chatwright.records import Conversation, Message, Question
from chatwright.stage import Headline, Inputs, Stage, StageConfig, progress_bar, say
from chatwright.storage import write_json, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import runtime
from chatwright.training.ppo.before_after import gold_scores
from chatwright.training.ppo.objectives import score_or_fixed
from chatwright.training.ppo.rollout import episode_seed, finished
from chatwright.training.ppo.stage import read_questions
from chatwright.training.rewards import (
    Rewards,
    RewardTerm,
    RewardTerms,
    asks_model,
    build_rewards,
    check_titles,
    load_reward_for,
    prompts_of,
)
from chatwright.training.runtime import Precision

PROMPTS_AT_ONCE = 32  # between two moves of the progress bar


class BestOfNConfig(StageConfig):
    """How answers are drawn and judged.

    n: answers to a prompt. prompts: at most so many of the training prompts become demonstrations, the first ones; None
    for all. eval_prompts: held-out prompts for the curve. min_score: best answers that are worth less are not kept.
    rewards, missing_eos_score, temperature, max_tokens: as in ppo.
    """

    n: int = Field(default=16, gt=0)
    prompts: int | None = Field(default=None, ge=0)
    eval_prompts: int = Field(default=256, gt=0)
    min_score: float | None = None
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=1024, gt=0)
    rewards: RewardTerms = (RewardTerm(),)
    missing_eos_score: float = -1.0  # NDET
    batch_size: int = Field(default=256, gt=0)
    dtype: Precision = "auto"

    @model_validator(mode="after")
    def _rewards_differ(self) -> BestOfNConfig:
        check_titles(self.rewards)
        return self

    def wanted(self, inputs: tuple[str, ...]) -> tuple[str, ...]:
        """Without the reward model where rules alone judge."""
        return inputs if asks_model(self.rewards) else tuple(name for name in inputs if name != "reward")


def best_of_n_kl(n: int) -> float:
    """KL in nats of best-of-n from the policy that answers: log n - (n - 1) / n; less where answers come twice.

    >>> [round(best_of_n_kl(n), 3) for n in (1, 2, 16)]
    [0.0, 0.193, 1.835]
    """
    return math.log(n) - (n - 1) / n


def best_of(proxy_PN: torch.Tensor, worth_PN: torch.Tensor, n: int) -> torch.Tensor:
    """What the best by ``proxy`` of n answers is worth, ``[P]`` float64: its mean over all n-subsets of the N drawn.

    In the order of the proxy, the i-th of N is the best of ``C(i - 1, n - 1)`` of the ``C(N, n)`` subsets (Nakano et
    al. 2021, 2112.09332, appendix I).

    >>> best_of(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 3.0, 9.0]]), n=2)  # 3, 9 and 9
    tensor([7.], dtype=torch.float64)
    """
    N = proxy_PN.shape[1]
    chance_N = [math.comb(i, n - 1) / math.comb(N, n) for i in range(N)]
    ordered_PN = worth_PN.double().gather(1, proxy_PN.argsort(dim=1, stable=True))
    return ordered_PN @ torch.tensor(chance_N, dtype=torch.float64)


class Drawn:
    """n answers to each of P prompts: ``texts[p][i]``, their worth ``proxy_PN`` and ``gold_PN``, ``ended_PN``."""

    def __init__(self, config: BestOfNConfig, engine: Engine, rewards: Rewards, title: str) -> None:
        self._config, self._engine, self._rewards, self._title = config, engine, rewards, title
        self.texts: list[list[str]] = []
        self._scores: list[torch.Tensor] = []

    def draw(self, questions: Sequence[Question]) -> Drawn:
        """Draw and judge, keyed on the question's id and the seed: neither order nor batching matters."""
        with progress_bar(self._title, len(questions)) as bar:
            for first in range(0, len(questions), PROMPTS_AT_ONCE):
                self._draw(questions[first : first + PROMPTS_AT_ONCE])
                bar.update(len(self.texts), "prompts")
        self.proxy_PN, self.gold_PN, self.ended_PN = torch.cat(self._scores, dim=1)
        return self

    def _draw(self, questions: Sequence[Question]) -> None:
        config, tokenizer = self._config, self._engine.tokenizer
        asked = [question for question in questions for _ in range(config.n)]
        prompts = prompts_of(tokenizer, asked)
        samplings = [
            Sampling(
                config.max_tokens,
                config.temperature,
                seed=episode_seed("best of n", config.seed, question.id, number % config.n),
            )
            for number, question in enumerate(asked)
        ]
        completions = self._engine.generate([prompt.ids for prompt in prompts], samplings)
        scores_B = self._rewards(prompts, [completion.tokens for completion in completions]).scores_B.cpu()
        ended_B = finished(completions)
        proxy_B = score_or_fixed(scores_B, ended_B, config.missing_eos_score)
        gold_B = gold_scores(tokenizer, asked, completions)
        self._scores.append(torch.stack([proxy_B.double(), gold_B, ended_B.double()]).view(3, -1, config.n))
        texts = [tokenizer.decode(completion.tokens) for completion in completions]
        self.texts += [texts[first : first + config.n] for first in range(0, len(texts), config.n)]


def run(config: BestOfNConfig, inputs: Inputs, out: Path) -> Headline:
    """Write ``curve.json`` (worth and KL against n) and ``demonstrations.jsonl``. A killed run starts again."""
    device = runtime.prepare()
    model, tokenizer = load_model(inputs["sft"])
    reward_model = None
    if asks_model(config.rewards):
        reward_model = load_reward_for(inputs["reward"], inputs["sft"], tokenizer).to(device)
    rewards = build_rewards(config.rewards, reward_model, tokenizer, config.dtype, config.batch_size)
    engine = Engine(model.to(device), tokenizer, config.batch_size)
    questions = read_questions(inputs["conversations"] / "prompts.jsonl")[: config.prompts]
    heldout = read_questions(inputs["conversations"] / "prompts_heldout.jsonl")[: config.eval_prompts]
    judged = Drawn(config, engine, rewards, "best of n, held out").draw(heldout)
    curve = [point(judged, n) for n in sizes(config.n)]
    write_json(out / "curve.json", {"prompts": len(heldout), "curve": curve})
    kept: list[Conversation] = []
    if questions:
        kept = demonstrations(config, questions, Drawn(config, engine, rewards, "best of n").draw(questions), tokenizer)
        say(f"  best_of_n: {len(kept):,} of {len(questions):,} prompts have an answer worth keeping")
    write_jsonl(out / "demonstrations.jsonl", kept)
    first, last = curve[0], curve[-1]
    return {
        "prompts": len(heldout),
        "n": config.n,
        "kl": last["kl"],
        **{f"{name}_1": first[name] for name in ("proxy", "gold")},
        **{f"{name}_n": last[name] for name in ("proxy", "gold")},
        "demonstrations": len(kept),
    }


def point(judged: Drawn, n: int) -> dict[str, float]:
    """What the best of n is worth on average by the rewards and by the labeller, and its KL in nats."""
    proxy_PN, gold_PN = judged.proxy_PN, judged.gold_PN
    worth = {name: best_of(proxy_PN, x_PN, n).mean().item() for name, x_PN in (("proxy", proxy_PN), ("gold", gold_PN))}
    return {"n": n, "kl": best_of_n_kl(n), **worth}


def sizes(n: int) -> list[int]:
    """The powers of two up to n, and n.

    >>> sizes(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({*(1 << power for power in range(n.bit_length())), n})


def demonstrations(
    config: BestOfNConfig, questions: Sequence[Question], drawn: Drawn, tokenizer: Tokenizer
) -> list[Conversation]:
    """Each question with its best answer that ended and says something, where it is worth ``min_score``."""
    kept = []
    for question, texts, proxy_N, ended_N in zip(questions, drawn.texts, drawn.proxy_PN, drawn.ended_PN, strict=True):
        good = [i for i in range(config.n) if ended_N[i] and texts[i].strip()]
        if not good:
            continue
        best = max(good, key=lambda i: proxy_N[i].item())
        if config.min_score is not None and proxy_N[best] < config.min_score:
            continue
        messages = [*question.messages, Message(role="assistant", content=texts[best])]
        meta = {"score": proxy_N[best].item(), "n": config.n}
        kept.append(Conversation(id=question.id, messages=messages, source="best_of_n", meta=meta))
    return kept


STAGE = Stage(
    name="best_of_n",
    version=1,
    config=BestOfNConfig,
    inputs=("sft", "reward", "conversations"),
    run=run,
    summary="take the best of n answers, and keep them as demonstrations",
    optional=True,
)
