"""Stage best_of_n: the best of n answers by the rewards, what that gains and costs, and demonstrations made of them.

Best-of-n needs no training: its KL from the model that answers is at most log n - (n - 1) / n, whatever the rewards
(Gao et al. 2022, 2210.10760). Kept as demonstrations, its answers are rejection sampling: data for the stage sft.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import Field

from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.folder import load_model
from chatwright.records import Conversation, Message, Question, Record
from chatwright.stage import PARTS, Headline, Inputs, Stage, say
from chatwright.storage import write_json, write_jsonl
from chatwright.training import runtime
from chatwright.training.parts import in_parts
from chatwright.training.ppo.before_after import gold_scores
from chatwright.training.ppo.invariants import check_scores
from chatwright.training.ppo.objectives import score_or_fixed
from chatwright.training.ppo.rollout import episode_seed, finished
from chatwright.training.questions import read_questions
from chatwright.training.rewards import Rewards, RewardsConfig, build_rewards, load_models, prompts_of
from chatwright.training.runtime import Precision

BATCHES = 2  # of answers in a part: what a kill costs at most
WORTH = "proxy", "gold"


class BestOfNConfig(RewardsConfig):
    """How answers are drawn and judged (see `RewardsConfig`).

    n: answers to a prompt. prompts: at most so many of the training prompts become demonstrations, the first ones; None
    for all. eval_prompts: held-out prompts for the curve. min_score: best answers that are worth less are not kept.
    temperature, max_tokens: as in ppo.
    """

    n: int = Field(default=16, gt=0)
    prompts: int | None = Field(default=None, ge=0)
    eval_prompts: int = Field(default=256, gt=0)
    min_score: float | None = None
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=1024, gt=0)
    batch_size: int = Field(default=256, gt=0)
    dtype: Precision = "auto"


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


class Drawn(Record):
    """n answers to the prompt of an id: their texts, what each is worth by the rewards and to the labeller, whether
    each ended. terms: each reward before it was weighed, where there are several.
    """

    id: str
    texts: list[str]
    proxy: list[float]
    gold: list[float]
    ended: list[bool]
    terms: dict[str, list[float]]


def draw(
    config: BestOfNConfig, engine: Engine, rewards: Rewards, questions: Sequence[Question], parts: Path
) -> list[Drawn]:
    """Draw and judge n answers to each question, keyed on its id and the seed (see `in_parts`)."""
    size = max(1, BATCHES * config.batch_size // config.n)
    make = partial(_draw, config, engine, rewards)
    return in_parts(questions, size, make, Drawn, parts, f"best of n, {parts.name}", engine)


def _draw(config: BestOfNConfig, engine: Engine, rewards: Rewards, questions: Sequence[Question]) -> list[Drawn]:
    n, tokenizer = config.n, engine.tokenizer
    asked = [question for question in questions for _ in range(n)]
    prompts = prompts_of(tokenizer, asked)
    samplings = [
        Sampling(
            config.max_tokens,
            config.temperature,
            seed=episode_seed("best of n", config.seed, question.id, number % n),
        )
        for number, question in enumerate(asked)
    ]
    completions = engine.generate([prompt.ids for prompt in prompts], samplings)
    judged = rewards(prompts, [completion.tokens for completion in completions])
    check_scores("best_of_n", judged)
    texts = [tokenizer.decode(completion.tokens) for completion in completions]
    ended_B = finished(completions)
    proxy_PN = score_or_fixed(judged.scores_B.cpu(), ended_B, config.missing_eos_score).view(-1, n)
    gold_PN = gold_scores(tokenizer, asked, completions).view(-1, n)
    terms = {name: scores_B.view(-1, n).tolist() for name, scores_B in judged.terms.items() if len(judged.terms) > 1}
    return [
        Drawn(
            id=question.id,
            texts=texts[p * n : (p + 1) * n],
            proxy=proxy_PN[p].tolist(),
            gold=gold_PN[p].tolist(),
            ended=ended_B.view(-1, n)[p].tolist(),
            terms={name: scores_PN[p] for name, scores_PN in terms.items()},
        )
        for p, question in enumerate(questions)
    ]


def run(config: BestOfNConfig, inputs: Inputs, out: Path) -> Headline:
    """Write ``curve.json`` (worth and KL against n) and ``demonstrations.jsonl``. A killed run goes on."""
    device = runtime.prepare()
    model, tokenizer = load_model(inputs["sft"])
    reward_models = load_models(config.rewards, inputs, tokenizer, device)
    rewards = build_rewards(config.rewards, reward_models, tokenizer, config.dtype, config.batch_size)
    engine = Engine(model.to(device), tokenizer, config.batch_size)

    def prompts(name: str) -> list[Question]:
        return read_questions(inputs["conversations"] / name, tokenizer, model.config.context, config.max_prompt)

    questions = prompts("prompts.jsonl")[: config.prompts] if config.prompts != 0 else []
    heldout = prompts("prompts_heldout.jsonl")[: config.eval_prompts]
    judged = draw(config, engine, rewards, heldout, out / PARTS / "held out")
    curve = [point(judged, n) for n in sizes(config.n)]
    write_json(out / "curve.json", {"prompts": len(heldout), "curve": curve})
    kept = demonstrations(config, questions, draw(config, engine, rewards, questions, out / PARTS / "training"))
    if questions:
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


def point(judged: Sequence[Drawn], n: int) -> dict[str, float]:
    """What the best of n is worth on average by the rewards, to the labeller, and by each of several rewards before it
    was weighed; and its KL in nats. One of weight 0 tells whether another model agrees.
    """
    worth = {name: torch.tensor([getattr(drawn, name) for drawn in judged]).double() for name in WORTH}
    for name in judged[0].terms if judged else ():
        worth[f"reward_{name}"] = torch.tensor([drawn.terms[name] for drawn in judged]).double()
    proxy_PN = worth["proxy"]
    means = {name: best_of(proxy_PN, x_PN, n).mean().item() for name, x_PN in worth.items()}
    return {"n": n, "kl": best_of_n_kl(n), **means}


def sizes(n: int) -> list[int]:
    """The powers of two up to n, and n.

    >>> sizes(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({*(1 << power for power in range(n.bit_length())), n})


def demonstrations(config: BestOfNConfig, questions: Sequence[Question], drawn: Sequence[Drawn]) -> list[Conversation]:
    """Each question with its best answer that ended and says something, where it is worth ``min_score``."""
    kept = []
    for question, answers in zip(questions, drawn, strict=True):
        good = [i for i, text in enumerate(answers.texts) if answers.ended[i] and text.strip()]
        if not good:
            continue
        best = max(good, key=lambda i: answers.proxy[i])
        if config.min_score is not None and answers.proxy[best] < config.min_score:
            continue
        messages = [*question.messages, Message(role="assistant", content=answers.texts[best])]
        meta = {"score": answers.proxy[best], "n": config.n}
        kept.append(Conversation(id=question.id, messages=messages, source="best_of_n", meta=meta))
    return kept


STAGE = Stage(
    name="best_of_n",
    version=3,
    config=BestOfNConfig,
    inputs=("sft", "reward", "conversations"),
    run=run,
    summary="take the best of n answers, and keep them as demonstrations",
    optional=True,
)
