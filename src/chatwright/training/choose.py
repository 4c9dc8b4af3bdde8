"""Stage choose: of the models that sft kept on its way, the one whose answers the reward model likes best.

InstructGPT's baseline is chosen so (C.1): its validation loss is lowest after one epoch, and people like later ones
better.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, load_reward, save_model
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Conversation, Message, Question, Record
from chatwright.stage import PARTS, Headline, Inputs, MetricsLog, Stage, StageConfig, say
from chatwright.storage import keyed_uniform, read_jsonl, write_json
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render
from chatwright.training.guards import RunStopped
from chatwright.training.parts import in_parts
from chatwright.training.rankings import score_each
from chatwright.training.runtime import Precision, prepare
from chatwright.training.sft import KEPT


class ChooseConfig(StageConfig):
    """Among which models, and how they are asked.

    among: the instance of sft that kept them. prompts: at most so many held-out ones, each answered once by each model,
    with the same seed. missing_eos_score: of an answer that ran into ``max_tokens``.
    """

    among: str = Field(default="sft", pattern=r"^sft(@.+)?$")
    prompts: int = Field(default=128, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    max_tokens: int = Field(default=256, gt=0)
    missing_eos_score: float = -1.0  # NDET, as in PPO
    batch_size: int = Field(default=64, gt=0)
    dtype: Precision = "auto"

    def reads(self, inputs: tuple[str, ...]) -> dict[str, str]:
        """The models of the instance that was asked for."""
        return {**super().reads(inputs), "sft": self.among}


class Worth(Record):
    """The mean reward of a model's answers."""

    name: str
    reward: float


def run(config: ChooseConfig, inputs: Inputs, out: Path) -> Headline:
    """Write the chosen model, and choice.json with the mean reward of each. A killed run goes on."""
    folders = sorted((inputs["sft"] / KEPT).glob("step-*"))
    if not folders:
        raise UserError(
            f"{inputs['sft']} kept no models to choose among; set keep_epochs = 1 for {config.among} in the recipe."
        )
    device = prepare()
    reward, reward_tokenizer = load_reward(inputs["reward"])
    reward.to(device).eval()
    prompts = read_prompts(inputs["conversations"])[: config.prompts]

    def judge(folders: Sequence[Path]) -> list[Worth]:
        (folder,) = folders
        model, tokenizer = load_model(folder)
        if tokenizer.hash != reward_tokenizer.hash:
            raise UserError(f"{inputs['reward']} was made with another tokenizer than {folder}.")
        scores = judged(config, model.to(device), reward, tokenizer, prompts)
        if not all(map(math.isfinite, scores)):
            raise RunStopped(
                f"choose stopped: not all rewards of {folder.name} are finite. Most likely the reward model's "
                "weights are broken: run the stage reward again."
            )
        return [Worth(name=folder.name, reward=statistics.fmean(scores))]

    found = in_parts(folders, 1, judge, Worth, out / PARTS, "choose", unit="models")
    rewards = {worth.name: worth.reward for worth in found}
    log = MetricsLog(out)
    for name, reward_of_it in rewards.items():
        log.log(int(name.removeprefix("step-")), reward=reward_of_it)
    best = max(rewards, key=lambda name: rewards[name])  # of equals the earliest
    say(f"  choose: {best} of {len(rewards)} models, with a mean reward of {rewards[best]:.3f}")
    model, tokenizer = load_model(inputs["sft"] / KEPT / best)
    write_json(out / "choice.json", {"chosen": best, "rewards": rewards, "prompts": len(prompts)})
    save_model(model, out, tokenizer)
    last = rewards[folders[-1].name]
    return {"chosen": best, "models": len(rewards), "reward": rewards[best], "reward_of_last": last}


def read_prompts(folder: Path) -> list[tuple[str, Sequence[Message]]]:
    """Held-out prompts with their ids: those to sample answers to, or else those of the held-out demonstrations."""
    questions = read_jsonl(folder / "prompts_heldout.jsonl", Question)
    found: list[Any] = [(question.id, question.messages) for question in questions]
    if not found:
        talks = read_jsonl(folder / "demonstrations_heldout.jsonl", Conversation)
        found = [(talk.id, talk.messages[:-1]) for talk in talks]
    if not found:
        raise UserError(f"{folder} has no held-out prompts to choose by; raise conversations.heldout.")
    return sorted(found, key=lambda item: keyed_uniform("choose", item[0]))


def judged(
    config: ChooseConfig,
    model: Decoder,
    reward: ScoredDecoder,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str, Sequence[Message]]],
) -> list[float]:
    """The reward of the model's answer to each prompt."""
    rendered = [render(tokenizer, messages, generation_prompt=True) for _, messages in prompts]
    seeds = [int(keyed_uniform("choose answer", config.seed, name) * 2**63) for name, _ in prompts]
    samplings = [Sampling(config.max_tokens, config.temperature, seed=seed) for seed in seeds]
    completions = Engine(model, tokenizer, config.batch_size).generate(rendered, samplings)
    rows = [[ids + done.tokens] for ids, done in zip(rendered, completions, strict=True)]
    scores = score_each(reward, rows, config.batch_size, tokenizer.pad, config.dtype)
    return [
        score if done.finish_reason == "stop" else config.missing_eos_score
        for (score,), done in zip(scores, completions, strict=True)
    ]


STAGE = Stage(
    name="choose",
    version=1,
    config=ChooseConfig,
    inputs=("sft", "reward", "conversations"),
    run=run,
    summary="keep the fine-tuned model whose answers the reward model likes best",
    optional=True,
)
