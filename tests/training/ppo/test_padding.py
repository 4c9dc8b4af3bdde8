"""Log-probabilities, values and rewards of an answer are those it has alone, wherever a batch puts its padding.

Bounds: in float32 1e-5, a few roundings of numbers of size 1 to 10; in bfloat16 0.25, twice what was measured on models
of this size (docs/ppo.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch

from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import positions_from_valid
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.ppo.rollout import (
    causal_or_padded,
    collate,
    in_groups,
    response_logprobs,
    response_values,
    reward_model_score,
)
from chatwright.training.rankings import last_scores, row_scores
from chatwright.training.runtime import autocast

BOUND, BFLOAT16_BOUND = 1e-5, 0.25
PAD = 3  # also a token of the texts: padding is where the mask says so
PROMPTS = [[5, 6, 7, PAD, 9], [10, 11], [12, 13, 14], [15]]
RESPONSES = [[20, 21], [22, PAD, 24, 25], [26], [27, 28, 29, 30, 31, 32]]
FAMILIES = ("gpt2", "modern")

Texts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # tokens_BT, valid_BT, response_BT
Padded = Callable[[Sequence[list[int]], Sequence[list[int]]], Texts]


def padded(prompts: Sequence[list[int]], responses: Sequence[list[int]], *, left: bool) -> Texts:
    """All padding before the texts, or all of it behind them; two columns more than they need."""
    columns = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True)) + 2
    tokens_BT = torch.full((len(prompts), columns), PAD)
    valid_BT, response_BT = torch.zeros(2, len(prompts), columns, dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        length = len(prompt) + len(response)
        first = columns - length if left else 0
        tokens_BT[row, first : first + length] = torch.tensor(prompt + response)
        valid_BT[row, first : first + length] = True
        response_BT[row, first + len(prompt) : first + length] = True
    return tokens_BT, valid_BT, response_BT


PADDED: dict[str, Padded] = {
    "left": partial(padded, left=True),
    "right": partial(padded, left=False),
    "both": lambda prompts, responses: collate(prompts, responses, PAD),
}


@pytest.fixture(params=FAMILIES)
def decoder(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> Decoder:
    return build(request.param, tokenizer)


def build(family: str, tokenizer: Tokenizer, **changes: int) -> Decoder:
    """A random decoder, far from uniform, so that a wrong position or mask shows."""
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "layers": 2, "d_model": 32, "heads": 2, "dropout": 0.0}
    model = Decoder(preset(family, **sizes, **changes))
    init_weights(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.embedding.weight.mul_(10)
        if model.positions is not None:
            model.positions.weight.mul_(10)
    return model.eval()


def scored(decoder: Decoder) -> ScoredDecoder:
    return ScoredDecoder(decoder, torch.Generator().manual_seed(4)).eval()


def of_responses(values_BT: torch.Tensor, response_BT: torch.Tensor) -> torch.Tensor:
    """Values of all response tokens, one answer after another; there are none elsewhere."""
    assert (values_BT[~response_BT] == 0).all()
    return values_BT[response_BT]


def alone(measure: Callable[..., torch.Tensor]) -> torch.Tensor:
    """``measure`` of each text by itself, without any padding."""
    singles = [collate([p], [r], PAD) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    assert all(bool(valid_BT.all()) for _, valid_BT, _ in singles)
    return torch.cat([of_responses(measure(*single), single[2]) for single in singles])


@pytest.mark.parametrize("where", PADDED)
def test_padding_does_not_change_logprobs(decoder: Decoder, tokenizer: Tokenizer, where: str) -> None:
    def logprobs(*batch: torch.Tensor) -> torch.Tensor:
        return response_logprobs(decoder, *batch, 0.7, tokenizer.vocab_size)[0]

    naive = [
        (decoder(torch.tensor([p + r]))[0] / 0.7).log_softmax(-1)[len(p) + i - 1, token]
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
        for i, token in enumerate(r)
    ]
    batch = PADDED[where](PROMPTS, RESPONSES)
    found = of_responses(logprobs(*batch), batch[2])
    assert found.std() > 1, "far from uniform"
    torch.testing.assert_close(found, torch.stack(naive), atol=BOUND, rtol=0)
    torch.testing.assert_close(found, alone(logprobs), atol=BOUND, rtol=0)


@pytest.mark.parametrize("where", PADDED)
def test_padding_does_not_change_values(decoder: Decoder, where: str) -> None:
    critic = scored(decoder)
    naive = [
        critic(torch.tensor([p + r]))[0, len(p) - 1 : -1]  # the state *before* each response token
        for p, r in zip(PROMPTS, RESPONSES, strict=True)
    ]
    batch = PADDED[where](PROMPTS, RESPONSES)
    found = of_responses(response_values(critic, *batch), batch[2])
    torch.testing.assert_close(found, torch.cat(naive), atol=BOUND, rtol=0)
    torch.testing.assert_close(found, alone(partial(response_values, critic)), atol=BOUND, rtol=0)


@pytest.mark.parametrize("where", PADDED)
def test_padding_does_not_change_rewards(decoder: Decoder, where: str) -> None:
    """Of the model itself, of the rollouts' reward, and of the rows that the reward model learns from."""
    model = scored(decoder)
    texts = [p + r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    naive_B = torch.stack([model(torch.tensor([ids]))[0, -1] for ids in texts]).detach()
    tokens_BT, valid_BT, _ = PADDED[where](PROMPTS, RESPONSES)
    scores_BT = model(tokens_BT, positions_BT=positions_from_valid(valid_BT), mask_BTS=causal_or_padded(valid_BT))
    last_B = [int(row.nonzero().max()) for row in valid_BT]
    torch.testing.assert_close(scores_BT[range(len(texts)), last_B].detach(), naive_B, atol=BOUND, rtol=0)
    for size in (1, 2, 8):
        rewards_B = reward_model_score(model, PAD, "float32", size)(PROMPTS, RESPONSES)
        torch.testing.assert_close(rewards_B, naive_B, atol=BOUND, rtol=0)
    pairs = [[texts[0], texts[1]], [texts[2], texts[3]]]
    for scores_N in (last_scores(model, texts, PAD), row_scores(model, pairs, PAD)):
        torch.testing.assert_close(scores_N, naive_B, atol=BOUND, rtol=0)


@pytest.mark.parametrize("where", PADDED)
def test_padding_does_not_change_gradients(decoder: Decoder, tokenizer: Tokenizer, where: str) -> None:
    def gradient(*batches: Texts) -> torch.Tensor:
        decoder.zero_grad()
        for batch in batches:
            response_logprobs(decoder, *batch, 1.0, tokenizer.vocab_size)[0].sum().backward()
        return torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])

    together = gradient(PADDED[where](PROMPTS, RESPONSES))
    singly = gradient(*(collate([p], [r], PAD) for p, r in zip(PROMPTS, RESPONSES, strict=True)))
    torch.testing.assert_close(together, singly, atol=BOUND * float(singly.abs().max()), rtol=0)


@pytest.mark.parametrize("family", [*FAMILIES, "gpt3"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_trainers_groups_do_not_change_logprobs(tokenizer: Tokenizer, family: str, size: int) -> None:
    """Groups are moved to the left edge, so that sparse attention, which counts places, may be padded too."""
    decoder = build(family, tokenizer, **({"attention_stride": 4} if family == "gpt3" else {}))

    def logprobs(*batch: torch.Tensor) -> torch.Tensor:
        return response_logprobs(decoder, *batch, 1.0, tokenizer.vocab_size)[0]

    for pad in PADDED.values():
        batch = pad(PROMPTS, RESPONSES)
        found = of_responses(in_groups(logprobs, *batch, size), batch[2])
        torch.testing.assert_close(found, alone(logprobs), atol=BOUND, rtol=0)


@pytest.mark.parametrize("where", PADDED)
def test_in_bfloat16_padding_changes_no_more_than_its_rounding(
    decoder: Decoder, tokenizer: Tokenizer, where: str
) -> None:
    with torch.no_grad(), autocast("bfloat16", torch.device("cpu")):

        def logprobs(*batch: torch.Tensor) -> torch.Tensor:
            return response_logprobs(decoder, *batch, 1.0, tokenizer.vocab_size)[0]

        batch = PADDED[where](PROMPTS, RESPONSES)
        found = of_responses(logprobs(*batch), batch[2])
        assert (found - alone(logprobs)).abs().max() < BFLOAT16_BOUND
