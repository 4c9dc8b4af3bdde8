"""Stage ppo: the SFT model learns from the reward model, held near itself by the KL penalty and the pretraining mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Question
from chatwright.stage import Headline, Inputs, Stage, say
from chatwright.storage import file_digest, write_json
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import world
from chatwright.training.batches import Windows
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.heldout import bits_per_byte
from chatwright.training.loop import Plan, Step, train
from chatwright.training.lora import add_adapters, sharing
from chatwright.training.order import Shuffled
from chatwright.training.parallel import Layout
from chatwright.training.ppo import before_after
from chatwright.training.ppo.config import PpoConfig, RolloutConfig
from chatwright.training.ppo.policy import PolicyTrainer
from chatwright.training.ppo.trainer import Trainer
from chatwright.training.pretrain import open_shard, open_windows
from chatwright.training.questions import read_questions
from chatwright.training.rewards import Rewards, build_rewards, load_models, prompts_of

EOS_RATE_LOW = 0.5  # below it most answers run into the limit: worth a warning


@dataclass(frozen=True)
class Given:
    """What a run starts from. reference: the SFT model. reward_models: that judge, by instance. text: held out, if any
    is to be measured on.
    """

    layout: Layout
    tokenizer: Tokenizer
    policy: Decoder
    reference: Decoder
    reward_models: Mapping[str, ScoredDecoder]
    rewards: Rewards
    pretraining: Windows | None
    prompts: list[Question]
    heldout: list[Question]
    text: np.ndarray | None


def run(config: PpoConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the policy and compare it with the SFT model on held-out prompts. UserError when the inputs do not fit."""
    given = read_inputs("ppo", config, inputs)
    trainer = Trainer(
        config,
        policy=given.policy,
        reference=given.reference,
        critic=new_critic(config, given),
        rewards=given.rewards,
        pretraining=given.pretraining,
        tokenizer=given.tokenizer,
        layout=given.layout,
    )
    return learn_and_compare(trainer, given, inputs, out)


def read_inputs(name: str, config: RolloutConfig, inputs: Inputs) -> Given:
    """Load the models, prompts and texts of a run. UserError when they do not fit."""
    layout = config.layout()
    reference, tokenizer = load_model(inputs["sft"])
    reference.to(layout.device)
    # A later round may start from an earlier one's policy.
    start = load_model(inputs["policy"])[0].to(layout.device) if "policy" in inputs else None
    if config.lora is not None:
        policy = start or sharing(reference, list(reference.parameters()))
        add_adapters(policy, config.lora, config.seed)
    else:
        policy = start or deepcopy(reference)
    reward_models = load_models(config.rewards, inputs, tokenizer, layout.device)
    pretraining = None
    if config.ptx_coef:
        length = min(config.ptx_length, reference.config.context)
        pretraining = open_windows(open_shard(inputs["shards"], "train", tokenizer), length, config.seed)

    def prompts(name: str) -> list[Question]:
        return read_questions(inputs["conversations"] / name, tokenizer, reference.config.context, config.max_prompt)

    if config.minibatch % layout.ranks:
        raise UserError(
            f"{name}.minibatch ({config.minibatch}) cannot be divided among {layout.ranks} processes; "
            "change one of them."
        )
    return Given(
        layout=layout,
        tokenizer=tokenizer,
        policy=policy,
        reference=reference,
        reward_models=reward_models,
        rewards=build_rewards(config.rewards, reward_models, tokenizer, config.dtype, config.micro_batch),
        pretraining=pretraining,
        prompts=prompts("prompts.jsonl"),
        heldout=prompts("prompts_heldout.jsonl")[: config.eval_prompts],
        text=open_shard(inputs["shards"], "heldout", tokenizer).tokens if config.eval_tokens else None,
    )


def new_critic(config: PpoConfig, given: Given) -> ScoredDecoder:
    """The critic at the start: the (first) reward model (IGPT C.4), or without one SFT and a head of 0 (NDET)."""
    fresh = not given.reward_models
    model = ScoredDecoder(given.reference) if fresh else next(iter(given.reward_models.values()))
    if config.lora is None:
        critic = deepcopy(model).requires_grad_(True)
    else:
        critic = sharing(model, list(model.decoder.parameters()))
        add_adapters(critic.decoder, config.lora, config.seed + 1)
        critic.head.requires_grad_(True)
    if critic.decoder.head is not None:
        critic.decoder.head.requires_grad_(False)  # the language model's head has no part in a value
    if fresh:
        critic.zero_head()
    return critic


def learn_and_compare(trainer: PolicyTrainer[Any], given: Given, inputs: Inputs, out: Path) -> Headline:
    """Train, leave the policy in ``out`` as a Hugging Face folder, and say what was gained and lost."""
    config = trainer.config
    models = {"SFT model": inputs["sft"]}
    models |= {f"reward model ({name})": inputs[name] for name in given.reward_models}
    if "policy" in inputs:
        models["first policy"] = inputs["policy"]
    identity = {name: file_digest(folder / "model.safetensors") for name, folder in models.items()}
    plan = Plan.of(trainer.name, config, out, config.steps, identity)
    train(trainer.trained, steps_of(trainer, given.prompts), plan, note=_note)
    result = trainer.result
    world.once(lambda: save_model(result, out, given.tokenizer))
    headline = compare(trainer, result, given.heldout, given.text, out)
    remove_checkpoint(out / "checkpoint")
    return headline


def steps_of(trainer: PolicyTrainer[Any], prompts: Sequence[Question]) -> Step:
    """What the training loop calls: one batch of prompts answered, judged and learned from."""
    config = trainer.config
    order = Shuffled(len(prompts), config.seed)
    asked = config.batch // config.answers_each  # prompts a step; answers to one stand next to each other
    warned = False

    def learn(step: int) -> dict[str, float]:
        nonlocal warned
        questions = [prompts[i] for _, i in order.take(step * asked, asked) for _ in range(config.answers_each)]
        sampled = trainer.sample(step, prompts_of(trainer.tokenizer, questions))
        learned = trainer.learn(step, sampled.rollout)
        eos_rate = before_after.eos_rate(sampled.completions)
        if eos_rate < EOS_RATE_LOW and not warned:
            warned = True
            say(f"  {trainer.name}: at step {step + 1} only {eos_rate:.0%} of the answers end within max_tokens")
        return {
            "proxy": sampled.rollout.scores_B.mean().item(),
            **sampled.judged.means(),
            "gold": before_after.gold_scores(trainer.tokenizer, questions, sampled.completions).mean().item(),
            "length": before_after.mean_length(sampled.completions),
            "eos_rate": eos_rate,
            "engine_gap": sampled.engine_gap,
            "tokens": float(sampled.rollout.valid_BT.sum()),
            **learned,
        }

    return learn


def _note(metrics: Mapping[str, float]) -> str:
    return f"gold {metrics['gold']:.2f}, reward {metrics['proxy']:.2f}, KL {metrics['kl']:.1f}"


def compare(
    trainer: PolicyTrainer[Any], policy: Decoder, questions: Sequence[Question], text: np.ndarray | None, out: Path
) -> Headline:
    """Headline metrics: held-out answers and bits per byte, after beside before. Writes samples.json."""
    config, reference = trainer.config, trainer.reference
    before, after = (before_after.answer(trainer, model, questions) for model in (reference, policy))
    world.once(lambda: write_json(out / "samples.json", before_after.samples(questions, before, after, config.samples)))
    spread = before.gold_N.std().item() if len(questions) > 1 else 0.0
    gain = (after.gold_N.mean() - before.gold_N.mean()).item() / spread if spread else 0.0
    return {
        "prompts": len(questions),
        "gold_gain": gain,
        "gold_sft_std": spread,
        **before.summary("sft"),
        **after.summary(trainer.name),
        "kl": before_after.kl_from_reference(trainer, policy, questions, after),
        **(tax(trainer, policy, text) if text is not None else {}),
    }


def tax(trainer: PolicyTrainer[Any], policy: Decoder, text: np.ndarray) -> Headline:
    """What was unlearned: bits per byte of a held-out text before and after."""
    sample, precision = trainer.config.eval_tokens, trainer.config.dtype
    before, after = (
        bits_per_byte(model, trainer.tokenizer, text, sample=sample, precision=precision)
        for model in (trainer.reference, policy)
    )
    return {
        "heldout_tokens": min(len(text), sample),
        "bits_per_byte_before": before,
        "bits_per_byte_after": after,
        "ptx_tax": after / before,
    }


STAGE = Stage(
    name="ppo",
    version=6,
    config=PpoConfig,
    inputs=("sft", "reward", "conversations", "shards"),
    run=run,
    summary="train the policy against the reward model, with a KL penalty and the pretraining mix",
    together=True,
)
