"""The PPO step: what it computes, what it trains, and when it refuses to go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.batches import Windows
from chatwright.training.checkpoint import training_state
from chatwright.training.guards import RunStopped
from chatwright.training.loop import accumulate
from chatwright.training.lora import LoraConfig, add_adapters, has_adapters, sharing
from chatwright.training.objectives import lm_loss
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import ParallelConfig, lay_out
from chatwright.training.ppo import invariants, objectives
from chatwright.training.ppo import policy as policy_module
from chatwright.training.ppo import rollout as rollout_module
from chatwright.training.ppo.config import AdaptiveKl, PpoConfig
from chatwright.training.ppo.trainer import Trainer
from chatwright.training.rewards import Prompt, Rewards
from chatwright.training.runtime import resolve

SMALL = {
    "episodes": 64,
    "batch": 8,
    "minibatch": 8,
    "max_tokens": 8,
    "max_kl": 1e9,
    "ptx_coef": 0.0,
    "ptx_examples": 0.5,
    "ptx_length": 16,
    "warmup": 0,
    "optim": OptimConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, clip=1e9),
    "critic_optim": OptimConfig(kind="adamw", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0),
    "dtype": "float32",
}
PROMPTS = [Prompt(ids) for ids in ([5, 6, 7, 8], [9, 10], [11, 12, 13], [14])] * 2
WANTED = 65

Make = Callable[..., Trainer]


def likes_a_token(prompts: Sequence[Prompt], responses: Sequence[list[int]]) -> torch.Tensor:
    return torch.tensor([sum(token == WANTED for token in response) / 8 for response in responses])


@pytest.fixture
def make(policy: Decoder, reference: Decoder, critic: ScoredDecoder, tokenizer: Tokenizer) -> Make:
    """Trainers that start from equal weights."""
    text = np.random.default_rng(0).integers(0, 256, 4000).astype(np.uint16)

    def build(**changes: Any) -> Trainer:
        config = PpoConfig(**(SMALL | {k: v for k, v in changes.items() if k in PpoConfig.model_fields}))
        parts = {"policy": deepcopy(policy), "reference": deepcopy(reference), "critic": deepcopy(critic)}
        parts |= {k: v for k, v in changes.items() if k not in PpoConfig.model_fields}
        terms = parts.pop("terms", {"rule": (1.0, parts.pop("reward", likes_a_token))})
        return Trainer(
            config,
            **parts,
            rewards=Rewards(terms),
            pretraining=Windows(text, config.ptx_length, config.seed) if config.ptx_coef else None,
            tokenizer=tokenizer,
            layout=lay_out(ParallelConfig(), torch.device("cpu"), resolve(config.dtype, torch.device("cpu"))),
        )

    return build


def gradients(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Gradients of one minibatch with the whole batch in it, before any step; policy and critic."""
    sampled = trainer.sample(0, PROMPTS)
    rows = torch.arange(len(PROMPTS))
    accumulate(trainer._parts(0, trainer._experience(sampled.rollout), rows, moved=False), trainer.layout)
    modules = {"policy": trainer.policy, "critic": trainer.critic}
    return {
        f"{part}.{name}": parameter.grad.clone()
        for part, module in modules.items()
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def test_before_the_policy_moves_the_ratio_is_one_and_the_approximate_kl_zero(make: Make) -> None:
    for temperature in (0.7, 1.0):
        trainer = make(temperature=temperature)
        metrics = trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
        assert metrics["clip_fraction"] == 0


def test_the_first_ratio_is_exactly_one_where_the_groups_are_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same rows side by side, same bits: not a rounding apart. With other neighbours only roundings differ."""
    seen: list[float] = []
    check = invariants.check_ratio

    def looked_at(stage: str, step: int, log_ratio_BT: torch.Tensor, dtype: torch.dtype) -> None:
        seen.append(log_ratio_BT.abs().max().item())
        check(stage, step, log_ratio_BT, dtype)

    monkeypatch.setattr(invariants, "check_ratio", looked_at)
    trainer = make(temperature=0.7)
    monkeypatch.setattr(trainer, "_minibatches", lambda step, episodes: iter([torch.arange(episodes)]))
    metrics = trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
    assert seen == [0.0]
    assert metrics["approx_kl"] == 0.0


def test_later_minibatches_see_a_policy_that_has_moved(make: Make) -> None:
    trainer = make(minibatch=4, inner_epochs=2)
    metrics = trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
    assert trainer.version == 4
    assert metrics["approx_kl"] > 1e-6


def test_the_loss_is_the_paper_s_from_one_sequence_at_a_time(make: Make) -> None:
    trainer = make(vf_coef=0.1, temperature=0.8)
    rollout = trainer.sample(0, PROMPTS).rollout
    experience = trainer._experience(rollout)
    sums = accumulate(trainer._parts(0, experience, torch.arange(len(PROMPTS)), moved=False), trainer.layout)
    policy_losses, value_losses, entropies = [], [], []
    for row in range(len(PROMPTS)):
        tokens_T = rollout.tokens_BT[row][rollout.valid_BT[row]]
        columns = rollout.response_BT[row].nonzero().flatten()
        start = len(tokens_T) - len(columns)
        logprobs_TV = (trainer.policy(tokens_T[None])[0] / 0.8).log_softmax(-1)
        values_T = trainer.critic(tokens_T[None])[0]
        for i, column in enumerate(columns):
            advantage, target = experience.advantages_BT[row, column], experience.returns_BT[row, column]
            new, old = logprobs_TV[start + i - 1, tokens_T[start + i]], rollout.logprobs_BT[row, column]
            policy_losses.append(-(new - old).exp() * advantage)  # ratio 1: the clip cannot bind
            value_losses.append(0.5 * (values_T[start + i - 1] - target) ** 2)
            entropies.append(-(logprobs_TV[start + i - 1].exp() * logprobs_TV[start + i - 1]).sum())
    policy_loss, value_loss = torch.stack(policy_losses).mean().item(), torch.stack(value_losses).mean().item()
    assert sums["policy_loss"] == pytest.approx(policy_loss, abs=1e-4)
    assert sums["value_loss"] == pytest.approx(value_loss, rel=1e-4)
    assert sums["loss"] == pytest.approx(policy_loss + 0.1 * value_loss, rel=1e-3, abs=1e-4)
    assert sums["entropy"] == pytest.approx(torch.stack(entropies).mean().item(), rel=1e-4)


def test_scores_and_kl_penalty_reach_the_advantages(make: Make) -> None:
    trainer = make(kl_coef=0.5)
    rollout = trainer.sample(0, PROMPTS).rollout
    _, returns_BT = objectives.gae(
        objectives.token_rewards(
            rollout.scores_B, rollout.logprobs_BT, rollout.ref_logprobs_BT, rollout.response_BT, 0.5
        ),
        rollout.values_BT,
        rollout.response_BT,
        gamma=1.0,
        lam=0.95,
    )
    experience = trainer._experience(rollout)
    torch.testing.assert_close(experience.returns_BT, returns_BT)
    inside_N = experience.advantages_BT[rollout.response_BT]
    assert inside_N.mean().item() == pytest.approx(0, abs=1e-5)
    assert inside_N.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_whitened_rewards_keep_their_mean_and_get_variance_one(make: Make) -> None:
    plain, whitened = make(lam=1.0), make(lam=1.0, whiten_rewards=True)
    rollout = plain.sample(0, PROMPTS).rollout
    first = [trainer._experience(rollout).returns_BT[rollout.response_BT] for trainer in (plain, whitened)]
    assert not torch.allclose(*first)


def test_micro_batches_accumulate_to_the_gradient_of_the_whole_minibatch(make: Make) -> None:
    whole = gradients(make(ptx_coef=2.0))
    for micro_batch in (1, 2, 4):
        cut = gradients(make(ptx_coef=2.0, micro_batch=micro_batch))
        assert cut.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(cut[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_the_pretraining_gradient_joins_the_policy_s_in_the_same_step(make: Make) -> None:
    plain, mixed = gradients(make()), gradients(make(ptx_coef=3.0))
    trainer = make(ptx_coef=3.0)
    text = trainer.pretraining.rows.batch(0, trainer.config.ptx_windows)
    lm_loss(trainer.policy(text.tokens_BT), text.targets_BT, text.mask_BT).backward()
    for name, parameter in trainer.policy.named_parameters():
        expected = plain[f"policy.{name}"] + 3.0 * parameter.grad
        torch.testing.assert_close(mixed[f"policy.{name}"], expected, atol=1e-5, rtol=1e-3, msg=name)
    for name in plain:
        if name.startswith("critic."):
            torch.testing.assert_close(mixed[name], plain[name], atol=1e-6, rtol=1e-4)


def test_each_minibatch_is_one_optimiser_step_and_gamma_changes_where_it_goes(make: Make) -> None:
    ends = []
    for ptx_coef in (0.0, 1.0, 27.8):
        trainer = make(ptx_coef=ptx_coef)
        trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
        steps = {int(state["step"]) for state in trainer.trained.optimizers[0].state.values()}
        assert trainer.version == 1
        assert steps == {1}
        ends.append(weights(trainer.policy))
    assert not torch.allclose(ends[0], ends[1], atol=1e-5)
    assert not torch.allclose(ends[1], ends[2], atol=1e-5)


def test_every_step_draws_new_pretraining_text(make: Make) -> None:
    trainer = make(ptx_coef=1.0, minibatch=4)
    seen: list[tuple[int, int]] = []
    batch = trainer.pretraining.batch
    trainer.pretraining.batch = lambda *asked: seen.append(asked[:2]) or batch(*asked)  # type: ignore
    for step in range(2):
        trainer.learn(step, trainer.sample(step, PROMPTS).rollout)
    assert seen == [(0, 2), (2, 2), (4, 2), (6, 2)]


def test_only_answers_that_did_not_end_get_the_fixed_score(make: Make, tokenizer: Tokenizer) -> None:
    trainer = make(max_tokens=40, reward=lambda prompts, responses: torch.full((len(prompts),), 7.0))
    sampled = trainer.sample(0, PROMPTS * 8)
    ended = [completion.tokens[-1] == tokenizer.end_of_turn for completion in sampled.completions]
    assert len(set(ended)) == 2
    assert sampled.rollout.scores_B.tolist() == [7.0 if end else -1.0 for end in ended]


def test_the_learning_rate_warms_up_from_a_tenth_over_ten_steps(make: Make) -> None:
    trainer = make(warmup=10)
    rates = [trainer.learn(step, trainer.sample(step, PROMPTS).rollout)["lr"] for step in range(12)]
    expected = [1e-3 * min(1.0, 0.1 + 0.09 * step) for step in range(12)]
    assert rates == pytest.approx(expected)


def test_at_first_the_critic_may_learn_alone(make: Make) -> None:
    trainer = make(critic_warmup=2, warmup=10, ptx_coef=3.0, ema=0.9)
    policy, critic, average = weights(trainer.policy), weights(trainer.critic), weights(trainer.result)
    for step in range(2):
        metrics = trainer.learn(step, trainer.sample(step, PROMPTS).rollout)
        assert metrics["lr"] == 1e-3
        assert torch.equal(weights(trainer.policy), policy)
        assert torch.equal(weights(trainer.result), average)
        assert not torch.equal(weights(trainer.critic), critic)
        critic = weights(trainer.critic)
    metrics = trainer.learn(2, trainer.sample(2, PROMPTS).rollout)
    assert metrics["lr"] == pytest.approx(1e-4)  # the policy's own warm-up begins
    assert metrics["ptx_loss"] > 0
    assert not torch.equal(weights(trainer.policy), policy)


def test_the_average_follows_the_policy_and_is_what_is_kept(make: Make) -> None:
    trainer = make(ema=0.9)
    expected = weights(trainer.policy)
    for step in range(3):
        trainer.learn(step, trainer.sample(step, PROMPTS).rollout)
        expected = 0.9 * expected + 0.1 * weights(trainer.policy)
    torch.testing.assert_close(weights(trainer.result), expected, atol=1e-6, rtol=1e-5)
    plain = make(ema=0.0)
    assert plain.result is plain.policy


def test_the_adaptive_coefficient_is_used_and_moves(make: Make) -> None:
    trainer = make(adaptive_kl=AdaptiveKl(target=1e-3, horizon=100))
    first = trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
    second = trainer.learn(1, trainer.sample(1, PROMPTS).rollout)
    assert first["kl_coef"] == 0.02
    assert second["kl_coef"] == pytest.approx(0.02 * (1 + 0.2 * 8 / 100))


def test_an_episode_does_not_depend_on_the_others_of_its_batch(make: Make) -> None:
    trainer = make()
    all_of_them = [completion.tokens for completion in trainer.sample(3, PROMPTS).completions]
    some = [completion.tokens for completion in trainer.sample(3, PROMPTS[:3]).completions]
    assert some == all_of_them[:3]
    assert [completion.tokens for completion in trainer.sample(4, PROMPTS).completions] != all_of_them


def test_reference_and_reward_do_not_move(make: Make) -> None:
    trainer = make(ptx_coef=1.0)
    before = weights(trainer.reference)
    trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
    assert torch.equal(weights(trainer.reference), before)


def test_dropout_is_off(make: Make, new_decoder: Callable[..., Decoder]) -> None:
    trainer = make(policy=new_decoder(seed=1, dropout=0.5).train())
    trainer.learn(0, trainer.sample(0, PROMPTS).rollout)


def test_dropout_left_on_stops_the_run(make: Make, new_decoder: Callable[..., Decoder]) -> None:
    trainer = make(policy=new_decoder(seed=1, dropout=0.5))
    sampled = trainer.sample(0, PROMPTS)
    trainer.policy.train()
    with pytest.raises(RunStopped, match=r"step 1: the ratio is not 1 on the first minibatch.*dropout"):
        trainer.learn(0, sampled.rollout)


def test_another_temperature_in_learning_stops_the_run(make: Make) -> None:
    rollout = make(temperature=0.7).sample(0, PROMPTS).rollout
    with pytest.raises(RunStopped, match="ratio is not 1"):
        make(temperature=1.0).learn(0, rollout)


def test_an_engine_with_other_weights_stops_the_run(make: Make, reference: Decoder, tokenizer: Tokenizer) -> None:
    trainer = make()
    trainer._sampler = lambda: reference  # type: ignore
    with pytest.raises(RunStopped, match="step 3: the engine sampled with log-probabilities"):
        trainer.sample(2, PROMPTS)


def test_an_engine_at_another_temperature_stops_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_module, "Sampling", lambda tokens, temperature, seed: Sampling(tokens, 1.0, seed=seed))
    with pytest.raises(RunStopped, match=r"the engine sampled with log-probabilities .* temperature, masks"):
        make(temperature=0.5).sample(0, PROMPTS)


def test_a_wrong_mask_in_the_trainer_stops_the_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def sees_all(valid_BT: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(valid_BT), valid_BT.shape[1], valid_BT.shape[1], dtype=torch.bool)

    monkeypatch.setattr(rollout_module, "causal_or_padded", sees_all)
    with pytest.raises(RunStopped, match="the engine sampled with log-probabilities"):
        make().sample(0, PROMPTS)


def test_weights_that_move_between_sampling_and_learning_stop_the_run(make: Make) -> None:
    trainer = make()
    sampled = trainer.sample(0, PROMPTS)
    with torch.no_grad():
        trainer.policy.embedding.weight.add_(0.01)
    with pytest.raises(RunStopped, match="the old log-probabilities are not the policy's"):
        trainer.learn(0, sampled.rollout)


def test_the_gap_between_engine_and_trainer_is_measured_in_every_step(make: Make) -> None:
    sampled = make().sample(0, PROMPTS)
    assert 0 <= sampled.engine_gap < 1e-5


def test_in_bfloat16_engine_and_trainer_agree_within_the_bound(make: Make) -> None:
    trainer = make(dtype="bfloat16")
    sampled = trainer.sample(0, PROMPTS)
    assert trainer._engine is not None
    assert trainer._engine.model.embedding.weight.dtype == torch.bfloat16
    assert 0 < sampled.engine_gap < invariants.ENGINE_BOUND[torch.bfloat16]
    before = trainer._engine
    trainer.learn(0, sampled.rollout)
    trainer.sample(1, PROMPTS)  # the packed copy has the new weights: the check would stop it otherwise
    assert trainer._engine is before


def test_several_rewards_are_summed_with_their_weights(make: Make) -> None:
    terms = {
        "token": (2.0, likes_a_token),
        "length": (-0.5, lambda prompts, responses: torch.tensor([float(len(r)) for r in responses])),
    }
    trainer = make(terms=terms, max_tokens=40)
    sampled = trainer.sample(0, PROMPTS)
    for b, completion in enumerate(sampled.completions):
        tokens, total = completion.tokens, sampled.rollout.scores_B[b].item()
        expected = 2 * sum(token == WANTED for token in tokens) / 8 - 0.5 * len(tokens)
        assert total == pytest.approx(expected if completion.finish_reason == "stop" else -1.0)
    assert sampled.judged.means()["reward_length"] > 0


def test_a_checkpoint_holds_policy_critic_average_both_optimisers_and_counters(make: Make) -> None:
    trainer = make(adaptive_kl=AdaptiveKl(target=1e-3, horizon=100), ema=0.9)
    trainer.learn(0, trainer.sample(0, PROMPTS).rollout)
    names = training_state(trainer.trained.modules, trainer.trained.optimizers)
    assert {"/".join(name.split("/")[:2]) for name in names} == {
        "module/policy", "module/critic", "module/average", "optimizer/0", "optimizer/1",
    }  # fmt: skip
    assert trainer.trained.counters.keys() == {"version", "kl_coef"}
    assert trainer.trained.counters["kl_coef"] != 0.02


def adapted(make: Make, policy: Decoder, critic: ScoredDecoder, **changes: Any) -> Trainer:
    """A trainer whose policy and critic learn through adapters; the reference is the policy's frozen weights."""
    reference = deepcopy(policy)
    learner = sharing(reference, list(reference.parameters()))
    values = sharing(critic, list(critic.decoder.parameters()))
    for decoder in (learner, values.decoder):
        add_adapters(decoder, LoraConfig(rank=4), seed=1)
    return make(policy=learner, reference=reference, critic=values, **changes)


def test_with_adapters_the_reference_is_the_policy_s_own_frozen_weights(
    make: Make, policy: Decoder, critic: ScoredDecoder
) -> None:
    trainer = adapted(make, policy, critic, ema=0.5, inner_epochs=4)
    frozen = weights(trainer.reference)
    sampled = trainer.sample(0, PROMPTS)
    torch.testing.assert_close(sampled.rollout.logprobs_BT, sampled.rollout.ref_logprobs_BT, atol=0, rtol=0)
    for step in range(2):
        metrics = trainer.learn(step, trainer.sample(step, PROMPTS).rollout)
    assert metrics["kl"] != 0  # the adapters have moved
    assert torch.equal(weights(trainer.reference), frozen)
    assert trainer.policy.embedding.weight is trainer.reference.embedding.weight
    assert trainer.average is not None
    assert trainer.average.embedding.weight is trainer.reference.embedding.weight
    assert not has_adapters(trainer.result)
    assert not torch.equal(weights(trainer.result), frozen)
    held = sum(parameter.numel() for parameter in trainer.trained.modules["policy"].parameters())
    assert held < sum(parameter.numel() for parameter in trainer.reference.parameters()) / 2


def test_kl_over_the_budget_stops_the_run(make: Make) -> None:
    with pytest.raises(RunStopped, match=r"KL from the SFT model is .* over the budget max_kl = 0.5"):
        make(max_kl=0.5).sample(0, PROMPTS)


def test_scores_that_are_not_numbers_stop_the_run(make: Make) -> None:
    trainer = make(reward=lambda prompts, responses: torch.tensor([float("nan")] + [0.0] * (len(prompts) - 1)))
    with pytest.raises(RunStopped, match=r"1 of 8 scores of the reward 'rule' are not finite.*the rule has a bug"):
        trainer.sample(0, PROMPTS)


def test_broken_weights_stop_the_run(make: Make) -> None:
    trainer = make()
    sampled = trainer.sample(0, PROMPTS)
    with torch.no_grad():
        trainer.critic.head.weight[0, 0] = float("nan")
    with pytest.raises(RunStopped, match="step 1"):
        trainer.learn(0, sampled.rollout)


def test_ppo_raises_the_reward_of_a_rule(make: Make, reference: Decoder) -> None:
    """A bandit: the score is the share of one token among the answer's eight."""
    trainer = make(
        policy=deepcopy(reference),
        episodes=32 * 30,
        batch=32,
        minibatch=16,
        kl_coef=0.0,
        ema=0.5,
        optim=OptimConfig(kind="adamw", lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
        critic_optim=OptimConfig(kind="adamw", lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0),
    )
    trainer.critic.zero_head()
    rewards = []
    for step in range(30):
        sampled = trainer.sample(step, PROMPTS * 4)
        scores_B = likes_a_token(PROMPTS * 4, [completion.tokens for completion in sampled.completions])
        sampled.rollout.scores_B.copy_(scores_B)  # the rule judges answers that were cut as well
        rewards.append(scores_B.mean().item())
        trainer.learn(step, sampled.rollout)
    assert sum(rewards[:3]) / 3 < 0.1
    assert sum(rewards[-3:]) / 3 > 0.5
