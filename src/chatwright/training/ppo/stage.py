"""Stage ppo: the SFT model learns from the reward model, held near itself by the KL penalty and the pretraining mix."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np

from chatwright.errors import UserError
from chatwright.model.folder import load_model, load_reward, save_model
from chatwright.records import Question
from chatwright.stage import Headline, Inputs, MetricsLog, Stage, progress_bar, say
from chatwright.storage import digest, file_digest, read_jsonl, write_json
from chatwright.training import runtime
from chatwright.training.batches import Shuffled
from chatwright.training.checkpoint import load_checkpoint, remove_checkpoint, restore, save_checkpoint, training_state
from chatwright.training.heldout import bits_per_byte
from chatwright.training.ppo import before_after
from chatwright.training.ppo.config import PpoConfig
from chatwright.training.ppo.rollout import reward_model_score
from chatwright.training.ppo.trainer import Trainer
from chatwright.training.pretrain import open_shard, open_windows

EOS_RATE_LOW = 0.5  # below it most answers run into the limit: worth a warning


def run(config: PpoConfig, inputs: Inputs, out: Path) -> Headline:
    """Train the policy and compare it with the SFT model on held-out prompts. UserError when the inputs do not fit."""
    device = runtime.prepare()
    policy, tokenizer = load_model(inputs["sft"])
    reward_model, reward_tokenizer = load_reward(inputs["reward"])
    if reward_tokenizer.hash != tokenizer.hash:
        raise UserError(
            f"{inputs['reward']} was made with another tokenizer than {inputs['sft']}; run the stage reward again."
        )
    policy, reward_model = policy.to(device), reward_model.to(device)
    shard = open_shard(inputs["shards"], "train", tokenizer)
    text = open_shard(inputs["shards"], "heldout", tokenizer).tokens
    prompts = read_questions(inputs["conversations"] / "prompts.jsonl")
    heldout = read_questions(inputs["conversations"] / "prompts_heldout.jsonl")[: config.eval_prompts]
    trainer = Trainer(
        config,
        policy=policy,
        reference=deepcopy(policy),
        critic=deepcopy(reward_model),  # InstructGPT C.4: the value function starts as the reward model
        score=reward_model_score(reward_model, tokenizer.pad, config.dtype, config.micro_batch),
        pretraining=open_windows(shard, config.ptx_length, config.seed) if config.ptx_coef else None,
        tokenizer=tokenizer,
    )
    started_from = [file_digest(inputs[stage] / "model.safetensors") for stage in ("sft", "reward")]
    train(trainer, prompts, out, digest([config.model_dump(mode="json"), started_from]))
    save_model(trainer.result, out, tokenizer)
    headline = compare(trainer, heldout, text, out)
    remove_checkpoint(out / "checkpoint")
    return headline


def train(trainer: Trainer, prompts: Sequence[Question], out: Path, identity: str) -> None:
    """All steps, from the checkpoint that a kill left, with one line of ``metrics.jsonl`` each.

    identity: names the config and the models it started from; another's checkpoint is not used.
    """
    config = trainer.config
    checkpoint = out / "checkpoint"
    start = resume(trainer, checkpoint, identity)
    if start:
        say(f"  ppo: going on after step {start} of {config.steps}")
    log = MetricsLog(out, start)
    order = Shuffled(len(prompts), config.seed)
    warned = False
    with progress_bar("ppo", config.steps) as bar:
        for step in range(start, config.steps):
            questions = [prompts[i] for _, i in order.take(step * config.batch, config.batch)]
            sampled = trainer.sample(step, before_after.rendered(trainer.tokenizer, questions))
            learned = trainer.learn(step, sampled.rollout)
            gold = before_after.gold_scores(trainer.tokenizer, questions, sampled.completions).mean().item()
            proxy = sampled.rollout.scores_B.mean().item()
            eos_rate = before_after.eos_rate(sampled.completions)
            length = before_after.mean_length(sampled.completions)
            tokens = int(sampled.rollout.valid_BT.sum())
            log.log(step + 1, proxy=proxy, gold=gold, length=length, eos_rate=eos_rate, tokens=tokens, **learned)
            bar.update(step + 1, f"gold {gold:.2f}, reward {proxy:.2f}, KL {learned['kl']:.1f}")
            if eos_rate < EOS_RATE_LOW and not warned:
                warned = True
                say(f"  ppo: at step {step + 1} only {eos_rate:.0%} of the answers end within ppo.max_tokens")
            if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
                save(trainer, checkpoint, identity, step + 1)


def save(trainer: Trainer, folder: Path, identity: str, step: int) -> None:
    """Write all that the next step depends on."""
    state = training_state(trainer.trained.modules, trainer.trained.optimizers)
    meta = {"identity": identity, "step": step, "version": trainer.version, "kl_coef": trainer.kl_coef}
    save_checkpoint(folder, state, meta)


def resume(trainer: Trainer, folder: Path, identity: str) -> int:
    """Load the checkpoint of the same identity, if there is one; returns the number of steps done."""
    found = load_checkpoint(folder)
    if found is None or found[1]["identity"] != identity:
        return 0
    tensors, meta = found
    restore(tensors, trainer.trained.modules, trainer.trained.optimizers)
    trainer.version, trainer.kl_coef = meta["version"], meta["kl_coef"]
    return meta["step"]


def compare(trainer: Trainer, questions: Sequence[Question], text: np.ndarray, out: Path) -> Headline:
    """Headline metrics: held-out answers and bits per byte, after PPO beside before. Writes samples.json."""
    config, tokenizer = trainer.config, trainer.tokenizer
    policy, reference = trainer.result, trainer.reference
    before, after = (before_after.answer(trainer, model, questions) for model in (reference, policy))
    bits_before, bits_after = (
        bits_per_byte(model, tokenizer, text, sample=config.eval_tokens, precision=config.dtype)
        for model in (reference, policy)
    )
    write_json(out / "samples.json", before_after.samples(questions, before, after, config.samples))
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
    version=3,
    config=PpoConfig,
    inputs=("sft", "reward", "conversations", "shards"),
    run=run,
    summary="train the policy against the reward model, with a KL penalty and the pretraining mix",
)
