"""GRPO: its loss from one sequence at a time, and that it learns a rule without a critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch

from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.grpo import GrpoConfig, GrpoTrainer
from chatwright.training.loop import accumulate
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import Layout
from chatwright.training.rewards import Prompt, Rewards

SMALL = {
    "episodes": 64,
    "batch": 8,
    "minibatch": 8,
    "group": 4,
    "max_tokens": 8,
    "max_kl": 1e9,
    "missing_eos_score": 0.0,
    "warmup": 0,
    "optim": OptimConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, clip=1e9),
    "dtype": "float32",
}
WANTED = 65
PROMPTS = [Prompt(ids) for ids in ([5, 6, 7, 8], [9, 10]) for _ in range(4)]

Make = Callable[..., GrpoTrainer]


def likes_a_token(prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> torch.Tensor:
    return torch.tensor([sum(token == WANTED for token in response) / 8 for response in responses])


@pytest.fixture
def make(tokenizer: Tokenizer, alone: Layout) -> Make:
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "layers": 2, "d_model": 32, "heads": 2}
    model = Decoder(preset("modern", **sizes))
    init_weights(model, torch.Generator().manual_seed(1))
    other = Decoder(preset("modern", **sizes))
    init_weights(other, torch.Generator().manual_seed(2))

    def build(reference: Decoder | None = None, **changes: Any) -> GrpoTrainer:
        return GrpoTrainer(
            GrpoConfig(**SMALL | changes),
            policy=deepcopy(model),
            reference=reference or deepcopy(other),
            rewards=Rewards({"rule": (1.0, likes_a_token)}),
            pretraining=None,
            tokenizer=tokenizer,
            layout=alone,
        )

    return build


def test_the_loss_is_the_paper_s_from_one_sequence_at_a_time(make: Make, tokenizer: Tokenizer) -> None:
    """Mean over answers of the mean over their tokens: -(ratio A) + beta (r - 1 - log r), r = reference / policy."""
    trainer = make(kl_coef=0.3, temperature=0.8)
    rollout = trainer.sample(0, PROMPTS).rollout
    rollout.scores_B.copy_(torch.arange(8.0) % 5)
    parts = trainer._parts(0, trainer._experience(rollout), torch.arange(8), moved=False)
    sums = accumulate(parts, trainer.layout)
    answers = []
    for row in range(8):
        group = rollout.scores_B[row // 4 * 4 : row // 4 * 4 + 4]
        advantage = (rollout.scores_B[row] - group.mean()) / (group.std() + 1e-4)
        tokens_T = rollout.tokens_BT[row][rollout.valid_BT[row]]
        count = int(rollout.response_BT[row].sum())
        now, reference = (
            (model(tokens_T[None])[0, :, : tokenizer.vocab_size] / 0.8).log_softmax(-1)[:-1]
            .gather(1, tokens_T[1:, None])[-count:, 0]
            for model in (trainer.policy, trainer.reference)
        )  # fmt: skip
        log_r = reference - now
        answers.append((-advantage + 0.3 * (log_r.exp() - 1 - log_r)).mean())  # the ratio to the sampler is 1
    assert sums["loss"] == pytest.approx(torch.stack(answers).mean().item(), abs=1e-4)


def test_micro_batches_accumulate_to_the_gradient_of_the_whole(make: Make) -> None:
    gradients = []
    for micro_batch in (16, 3, 1):
        trainer = make(micro_batch=micro_batch, kl_coef=0.1)
        rollout = trainer.sample(0, PROMPTS).rollout
        rollout.scores_B.copy_(torch.arange(8.0))
        accumulate(trainer._parts(0, trainer._experience(rollout), torch.arange(8), moved=False), trainer.layout)
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.policy.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-6, rtol=1e-3)


def test_groups_of_equal_answers_teach_nothing(make: Make) -> None:
    trainer = make(kl_coef=0.0)
    before = torch.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])
    rollout = trainer.sample(0, PROMPTS).rollout
    rollout.scores_B.fill_(0.7)
    metrics = trainer.learn(0, rollout)
    after = torch.cat([parameter.detach().flatten() for parameter in trainer.policy.parameters()])
    assert metrics["taught"] == 0.0
    assert torch.equal(after, before)


def test_grpo_raises_the_reward_of_a_rule(make: Make) -> None:
    optim = OptimConfig(kind="adamw", lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    trainer = make(episodes=32 * 25, batch=32, minibatch=16, group=8, kl_coef=0.0, optim=optim)
    rewards = []
    for step in range(25):
        sampled = trainer.sample(step, [Prompt([5 + i, 9]) for i in range(4) for _ in range(8)])
        scores_B = sampled.judged.scores_B
        sampled.rollout.scores_B.copy_(scores_B)  # the rule judges answers that were cut as well
        rewards.append(scores_B.mean().item())
        trainer.learn(step, sampled.rollout)
    assert sum(rewards[:3]) / 3 < 0.1
    assert sum(rewards[-3:]) / 3 > 0.5


def test_a_batch_that_groups_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch \(8\) must be a multiple of group \(3\)"):
        GrpoConfig(**SMALL | {"group": 3})
