"""Stage ppo: the SFT model learns from the reward model, held near itself by the KL penalty and the pretraining mix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, load_reward, save_model
from chatwright.records import Question
from chatwright.stage import Headline, Inputs, Stage, say
from chatwright.storage import file_digest, read_jsonl, write_json
from chatwright.training import world
from chatwright.training.checkpoint import remove_checkpoint
from chatwright.training.heldout import bits_per_byte
from chatwright.training.loop import Plan, Step, train
from chatwright.training.order import Shuffled
from chatwright.training.ppo import before_after
from chatwright.training.ppo.config import PpoConfig
from chatwright.training.ppo.rollout import reward_model_score
from chatwright.training.ppo.trainer import Trainer
from chatwright.training.pretrain import open_shard, open_windows

EOS_RATE_LOW = 0.5  # below it most answers run into the limit: worth a warning


def run(config: PpoConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the policy and compare it with the SFT model on held-out prompts. UserError when the inputs do not fit."""
    layout = config.layout()
    reference, tokenizer = load_model(inputs["sft"])
    policy, _ = load_model(inputs.get("policy", inputs["sft"]))  # a later round may start from an earlier one's policy
    reward_model, reward_tokenizer = load_reward(inputs["reward"])
    if reward_tokenizer.hash != tokenizer.hash:
        raise UserError(
            f"{inputs['reward']} was made with another tokenizer than {inputs['sft']}; run the stage reward again."
        )
    policy, reward_model = policy.to(layout.device), reward_model.to(layout.device)
    shard = open_shard(inputs["shards"], "train", tokenizer)
    text = open_shard(inputs["shards"], "heldout", tokenizer).tokens
    prompts = read_questions(inputs["conversations"] / "prompts.jsonl")
    heldout = read_questions(inputs["conversations"] / "prompts_heldout.jsonl")[: config.eval_prompts]
    if config.minibatch % layout.ranks:
        raise UserError(
            f"ppo.minibatch ({config.minibatch}) cannot be divided among {layout.ranks} processes; change one of them."
        )
    trainer = Trainer(
        config,
        policy=policy,
        reference=reference,
        critic=deepcopy(reward_model),  # InstructGPT C.4: the value function starts as the reward model
        score=reward_model_score(reward_model, tokenizer.pad, config.dtype, config.micro_batch),
        pretraining=open_windows(shard, config.ptx_length, config.seed) if config.ptx_coef else None,
        tokenizer=tokenizer,
        layout=layout,
    )
    models = {"SFT model": inputs["sft"], "reward model": inputs["reward"]}
    if "policy" in inputs:
        models["first policy"] = inputs["policy"]
    identity = {name: file_digest(folder / "model.safetensors") for name, folder in models.items()}
    plan = Plan.of("ppo", config, out, config.steps, identity)
    train(trainer.trained, steps_of(trainer, prompts), plan, note=_note)
    result = trainer.result
    world.once(lambda: save_model(result, out, tokenizer))
    headline = compare(trainer, result, heldout, text, out)
    remove_checkpoint(out / "checkpoint")
    return headline


def steps_of(trainer: Trainer, prompts: Sequence[Question]) -> Step:
    """What the training loop calls: one batch of prompts answered, judged and learned from."""
    config = trainer.config
    order = Shuffled(len(prompts), config.seed)
    warned = False

    def learn(step: int) -> dict[str, float]:
        nonlocal warned
        questions = [prompts[i] for _, i in order.take(step * config.batch, config.batch)]
        sampled = trainer.sample(step, before_after.rendered(trainer.tokenizer, questions))
        learned = trainer.learn(step, sampled.rollout)
        eos_rate = before_after.eos_rate(sampled.completions)
        if eos_rate < EOS_RATE_LOW and not warned:
            warned = True
            say(f"  ppo: at step {step + 1} only {eos_rate:.0%} of the answers end within ppo.max_tokens")
        return {
            "proxy": sampled.rollout.scores_B.mean().item(),
            "gold": before_after.gold_scores(trainer.tokenizer, questions, sampled.completions).mean().item(),
            "length": before_after.mean_length(sampled.completions),
            "eos_rate": eos_rate,
            "tokens": float(sampled.rollout.valid_BT.sum()),
            **learned,
        }

    return learn


def _note(metrics: Mapping[str, float]) -> str:
    return f"gold {metrics['gold']:.2f}, reward {metrics['proxy']:.2f}, KL {metrics['kl']:.1f}"


def compare(trainer: Trainer, policy: Decoder, questions: Sequence[Question], text: np.ndarray, out: Path) -> Headline:
    """Headline metrics: held-out answers and bits per byte, after PPO beside before. Writes samples.json."""
    config, tokenizer = trainer.config, trainer.tokenizer
    reference = trainer.reference
    before, after = (before_after.answer(trainer, model, questions) for model in (reference, policy))
    bits_before, bits_after = (
        bits_per_byte(model, tokenizer, text, sample=config.eval_tokens, precision=config.dtype)
        for model in (reference, policy)
    )
    world.once(lambda: write_json(out / "samples.json", before_after.samples(questions, before, after, config.samples)))
    spread = before.gold_N.std().item()
    gain = (after.gold_N.mean() - before.gold_N.mean()).item() / spread if spread else 0.0
    return {
        "prompts": len(questions),
        "gold_gain": gain,
        "gold_sft_std": spread,
        **before.summary("sft"),
        **after.summary("ppo"),
        "kl": before_after.kl_from_reference(trainer, policy, questions, after),
        "heldout_tokens": min(len(text), config.eval_tokens),
        "bits_per_byte_before": bits_before,
        "bits_per_byte_after": bits_after,
        "ptx_tax": bits_after / bits_before,
    }


def read_questions(path: Path) -> list[Question]:
    """The prompts in a file. UserError when there are none."""
    questions = read_jsonl(path, Question)
    if not questions:
        raise UserError(f"{path} has no prompts.")
    return questions


STAGE = Stage(
    name="ppo",
    version=5,
    config=PpoConfig,
    inputs=("sft", "reward", "conversations", "shards"),
    run=run,
    summary="train the policy against the reward model, with a KL penalty and the pretraining mix",
    together=True,
)
