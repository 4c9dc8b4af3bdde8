"""Rollouts: what the trainer computes of an answer depends on the answer alone, not on padding or neighbours."""

from __future__ import annotations

import math

import pytest
import torch

from chatwright.inference.engine import Engine
from chatwright.inference.request import Completion
from chatwright.inference.sampling import Sampling
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import positions_from_valid, valid_mask
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.ppo.rollout import (
    collate,
    episode_seed,
    finished,
    response_logprobs,
    reward_model_score,
    sampled_logprobs,
    spread,
    trim,
)

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
RESPONSES = [[20, 21], [22, 23, 24, 25], [26]]
PAD = 3


def naive_logprobs(model: Decoder, prompt: list[int], response: list[int], temperature: float) -> torch.Tensor:
    """One sequence, no padding, default positions and mask."""
    logits_TV = model(torch.tensor([prompt + response]))[0] / temperature
    logprobs_TV = logits_TV.log_softmax(-1)
    return torch.stack([logprobs_TV[len(prompt) + i - 1, token] for i, token in enumerate(response)])


def test_the_reward_is_read_at_the_last_response_token_whatever_the_batch(critic: ScoredDecoder) -> None:
    together = reward_model_score(critic, PAD, "float32", batch_size=8)(PROMPTS, RESPONSES)
    in_twos = reward_model_score(critic, PAD, "float32", batch_size=2)(PROMPTS, RESPONSES)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = critic(torch.tensor([prompt + response]))[0, -1]
        torch.testing.assert_close(together[row], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, in_twos, atol=1e-5, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in critic.parameters())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_logprobs_are_those_of_the_tempered_distribution_and_equal_the_engine(
    policy: Decoder, tokenizer: Tokenizer, temperature: float
) -> None:
    samplings = [Sampling(max_tokens=12, temperature=temperature, seed=i) for i in range(3)]
    completions = Engine(policy, tokenizer).generate(PROMPTS, samplings)
    batch = collate(PROMPTS, [completion.tokens for completion in completions], PAD)
    logprobs_BT, entropy_BT = response_logprobs(policy, *batch, temperature, tokenizer.vocab_size)
    torch.testing.assert_close(logprobs_BT, sampled_logprobs(completions, batch[2]), atol=1e-4, rtol=1e-4)
    expected = naive_logprobs(policy, PROMPTS[1], completions[1].tokens, temperature)
    torch.testing.assert_close(logprobs_BT[1][batch[2][1]], expected, atol=1e-4, rtol=1e-4)
    logits_V = policy(torch.tensor([PROMPTS[1]]))[0, -1] / temperature
    entropy = torch.distributions.Categorical(logits=logits_V).entropy()
    torch.testing.assert_close(entropy_BT[1][batch[2][1]][0], entropy, atol=1e-4, rtol=1e-4)


def test_ids_that_the_tokenizer_lacks_have_no_share_of_the_probability(policy: Decoder) -> None:
    batch = collate(PROMPTS, RESPONSES, PAD)
    logprobs_BT, _ = response_logprobs(policy, *batch, 1.0, vocab_size=100)
    logits_V = policy(torch.tensor([PROMPTS[0]]))[0, -1, :100]
    torch.testing.assert_close(logprobs_BT[0][batch[2][0]][0], logits_V.log_softmax(-1)[RESPONSES[0][0]])


def test_trimming_keeps_every_valid_token_and_leaves_padding_on_the_right_alone() -> None:
    tokens_BT, valid_BT, response_BT = collate(PROMPTS, RESPONSES, PAD)
    rows = torch.tensor([1, 2])
    kept_valid, kept_tokens, kept_response = trim(rows, valid_BT, tokens_BT, response_BT)
    longest = max(len(PROMPTS[row]) + len(RESPONSES[row]) for row in rows.tolist())
    assert kept_tokens.shape == (2, longest)
    assert kept_valid[:, 0].all()
    for kept, row in enumerate(rows.tolist()):
        assert kept_tokens[kept][kept_valid[kept]].tolist() == PROMPTS[row] + RESPONSES[row]
        assert kept_tokens[kept][kept_response[kept]].tolist() == RESPONSES[row]


def test_spread_puts_values_back_in_row_order() -> None:
    mask_BT = torch.tensor([[False, True, True], [True, False, False]])
    assert spread(torch.tensor([1.0, 2.0, 3.0]), mask_BT).tolist() == [[0, 1, 2], [3, 0, 0]]


def test_positions_count_valid_tokens_only() -> None:
    _, valid_BT, _ = collate(PROMPTS, RESPONSES, PAD)
    positions_BT = positions_from_valid(valid_BT)
    for row in range(3):
        assert positions_BT[row][valid_BT[row]].tolist() == list(range(len(PROMPTS[row]) + len(RESPONSES[row])))
    assert valid_mask(valid_BT).any(dim=2).all()


def test_only_answers_that_ended_their_turn_are_finished() -> None:
    completions = [Completion([1, 2], [-1.0, -1.0], "stop"), Completion([1], [-math.log(2)], "length")]
    assert finished(completions).tolist() == [True, False]


def test_episode_seeds_differ_by_seed_step_and_episode() -> None:
    seeds = {episode_seed(seed, step, episode) for seed in range(3) for step in range(3) for episode in range(3)}
    assert len(seeds) == 27
    assert episode_seed(1, 2, 3) == episode_seed(1, 2, 3)
