"""The peers of `ppo_vs_trl.py`: TRL's trainers of PPO, SFT and reward models, in an environment of their own.

Each trains as its users start it, without gradient checkpointing, and waits after every step for its next turn.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainerCallback,
)

FOREVER = 1_000_000


class Turns(TrainerCallback):
    """Trains so many steps for every line with a number, and answers with their seconds: all, and before learning."""

    def __init__(self) -> None:
        self.left, self.seconds, self.before = 0, 0.0, 0.0
        self.learning_began = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Wait for the first turn."""
        self._wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Count a step; after the turn's last one, answer and wait."""
        now = time.perf_counter()
        self.seconds += now - self.began
        if self.learning_began:
            self.before += self.learning_began - self.began
        self.left -= 1
        if self.left == 0:
            print(f"@ {self.seconds} {self.before}", flush=True)
            self._wait()
        self.began, self.learning_began = time.perf_counter(), 0.0

    def learning(self) -> None:
        """Called when the first pass of a step's learning begins."""
        self.learning_began = self.learning_began or time.perf_counter()

    def _wait(self) -> None:
        line = sys.stdin.readline()
        if not line:
            os._exit(0)
        self.left, self.seconds, self.before = int(line), 0.0, 0.0
        self.began, self.learning_began = time.perf_counter(), 0.0


def words(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer with so many ids, of which the last two are special; texts come as ids."""
    ids = {f"w{i}": i for i in range(vocab - 2)} | {"<eos>": vocab - 2, "<pad>": vocab - 1}
    model = models.WordLevel(ids, unk_token="<pad>")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), eos_token="<eos>", pad_token="<pad>")


def config_of(shape: dict[str, int], tokenizer: PreTrainedTokenizerFast) -> GPT2Config:
    """The shape as GPT-2's config."""
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2Config(
        vocab_size=shape["vocab"],
        n_positions=shape["context"],
        n_layer=shape["layers"],
        n_embd=shape["width"],
        n_head=shape["heads"],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.eos_token_id,
        num_labels=1,
        **off,
    )


def rows(count: int, length: int, vocab: int) -> Iterator[list[int]]:
    """Random ids, none of them special."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randint(0, vocab - 2, (length,), generator=generator).tolist()


def common(batch: int) -> dict[str, Any]:
    """Settings of every trainer: no logs, no files, no checkpointing of activations."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": batch,
        "gradient_checkpointing": False,
        "bf16": os.environ["PRECISION"] == "bfloat16",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 3e-6,
        "use_cpu": True,
    }


def ppo(shape: dict[str, int], turns: Turns) -> None:
    """TRL's experimental PPO."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    tokenizer = words(shape["vocab"])
    tokenizer.padding_side = "left"
    config = config_of(shape, tokenizer)
    policy, reference = GPT2LMHeadModel(config), GPT2LMHeadModel(config)
    reference.load_state_dict(policy.state_dict())
    value, reward = GPT2ForSequenceClassification(config), GPT2ForSequenceClassification(config)
    value.load_state_dict(reward.state_dict())
    policy.generation_config.eos_token_id = None  # every answer has its full length
    arguments = PPOConfig(
        **common(shape["batch"]),
        total_episodes=shape["batch"] * FOREVER,
        num_ppo_epochs=shape["epochs"],
        num_mini_batches=1,
        response_length=shape["response"],
        temperature=1.0,
        local_rollout_forward_batch_size=shape["batch"],
        num_sample_generations=0,
        logging_steps=FOREVER,
    )
    data = Dataset.from_dict({"input_ids": list(rows(256, shape["prompt"], shape["vocab"]))})
    trainer = PPOTrainer(
        arguments, tokenizer, policy, reference, reward, data, value, eval_dataset=data, callbacks=[turns]
    )
    trainer.log = lambda *_, **__: None
    forward = ppo_trainer.PolicyAndValueWrapper.forward

    def told(self: Any, **inputs: Any) -> Any:
        turns.learning()
        return forward(self, **inputs)

    ppo_trainer.PolicyAndValueWrapper.forward = told
    trainer.train()


def sft(shape: dict[str, int], turns: Turns) -> None:
    """TRL's SFT on prompts and completions of equal length; the completion alone is learned."""
    from trl import SFTConfig, SFTTrainer

    tokenizer = words(shape["vocab"])
    length = shape["sft_length"]
    mask = [0] * (length // 2) + [1] * (length // 2)
    data = Dataset.from_dict(
        {"input_ids": list(rows(512, length, shape["vocab"])), "completion_mask": [mask for _ in range(512)]}
    )
    arguments = SFTConfig(
        **common(shape["sft_rows"]),
        max_steps=FOREVER,
        completion_only_loss=True,
        max_length=length,
        logging_strategy="no",
    )
    model = GPT2LMHeadModel(config_of(shape, tokenizer))
    SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[turns]).train()


def reward(shape: dict[str, int], turns: Turns) -> None:
    """TRL's reward model on pairs of texts."""
    from trl import RewardConfig, RewardTrainer

    tokenizer = words(shape["vocab"])
    texts = list(rows(1024, shape["pair_length"], shape["vocab"]))
    data = Dataset.from_dict({"chosen_ids": texts[:512], "rejected_ids": texts[512:]})
    arguments = RewardConfig(**common(shape["pairs"]), max_steps=FOREVER, max_length=None, logging_strategy="no")
    model = GPT2ForSequenceClassification(config_of(shape, tokenizer))
    RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[turns]).train()
