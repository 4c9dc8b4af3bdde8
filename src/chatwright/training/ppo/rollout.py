"""Rollouts: sample answers with the engine, then let the trainer's own forward passes say what they were worth.

Batches hold left-padded prompts and right-padded responses, so every response starts in the same column. Masks and
positions come from ``valid_BT``, never from comparing with the pad id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from chatwright.inference.request import Completion
from chatwright.model.decoder import Decoder
from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import positions_from_valid, valid_mask
from chatwright.storage import keyed_uniform
from chatwright.training.objectives import linear_logprobs
from chatwright.training.ppo.objectives import last_response_index
from chatwright.training.runtime import Precision, autocast

# Anything that judges answers: (prompts, responses) as ids -> scores_B, float32. The reward model is one of them.
Score = Callable[[Sequence[list[int]], Sequence[list[int]]], torch.Tensor]


def collate(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], pad: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(tokens_BT, valid_BT, response_BT)`` with T = longest prompt + longest response.

    >>> tokens_BT, valid_BT, response_BT = collate([[1, 2, 3], [4]], [[5], [6, 7]], pad=0)
    >>> tokens_BT
    tensor([[1, 2, 3, 5, 0],
            [0, 0, 4, 6, 7]])
    >>> response_BT.long()
    tensor([[0, 0, 0, 1, 0],
            [0, 0, 0, 1, 1]])
    """
    start = max(len(prompt) for prompt in prompts)
    columns = start + max(len(response) for response in responses)
    tokens_BT = torch.full((len(prompts), columns), pad, dtype=torch.int64)
    valid_BT = torch.zeros(len(prompts), columns, dtype=torch.bool)
    response_BT = torch.zeros_like(valid_BT)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        first, end = start - len(prompt), start + len(response)
        tokens_BT[row, first:end] = torch.tensor([*prompt, *response])
        valid_BT[row, first:end] = True
        response_BT[row, start:end] = True
    return tokens_BT.to(device), valid_BT.to(device), response_BT.to(device)


def trim(rows_N: torch.Tensor, valid_BT: torch.Tensor, *others_BT: torch.Tensor) -> list[torch.Tensor]:
    """The given rows of every tensor, ``valid_BT`` first, moved to the left edge and without columns of padding alone.

    Prompts and responses of unlike length leave a collated batch half empty; so moved, rows of like length fill it.
    """
    valid_NT = valid_BT[rows_N]
    columns_NT = (~valid_NT).long().argsort(dim=1, stable=True)[:, : int(valid_NT.sum(dim=1).max())]
    return [x_BT[rows_N].gather(1, columns_NT) for x_BT in (valid_BT, *others_BT)]


def causal_or_padded(valid_BT: torch.Tensor) -> torch.Tensor | None:
    """The attention mask of a batch; None, which means causal, where all padding is on the right and seen by none."""
    return None if bool(valid_BT[:, 0].all()) else valid_mask(valid_BT)


def by_length(rows_N: torch.Tensor, valid_BT: torch.Tensor, size: int) -> tuple[torch.Tensor, ...]:
    """The rows in groups of ``size``, longest texts first: rows of like length, once trimmed, are little padded."""
    return rows_N[valid_BT[rows_N].sum(dim=1).argsort(descending=True, stable=True)].split(size)


def in_groups(
    measure: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    tokens_BT: torch.Tensor,
    valid_BT: torch.Tensor,
    response_BT: torch.Tensor,
    size: int,
) -> torch.Tensor:
    """``measure(tokens_BT, valid_BT, response_BT)``, 0 outside the responses, computed on trimmed groups of rows."""
    result_BT = torch.zeros(response_BT.shape, device=response_BT.device)
    for rows_N in by_length(torch.arange(len(tokens_BT), device=tokens_BT.device), valid_BT, size):
        valid_NT, tokens_NT, response_NT = trim(rows_N, valid_BT, tokens_BT, response_BT)
        measured_NT = measure(tokens_NT, valid_NT, response_NT)
        result_BT[rows_N] = spread(measured_NT[response_NT], response_BT[rows_N])
    return result_BT


def response_logprobs(
    model: Decoder,
    tokens_BT: torch.Tensor,
    valid_BT: torch.Tensor,
    response_BT: torch.Tensor,
    temperature: float,
    vocab_size: int,
    *,
    entropy: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(logprobs_BT, entropy_BT)`` of each response token given those before it, float32, 0 elsewhere.

    Of the distribution that was sampled: over the ids that the tokenizer has, the logits divided by the temperature
    (NDET). Logits are made only where a response token is predicted, which saves most of their cost on long prompts.
    The entropy is for the log and has no gradient; without ``entropy`` it is not computed and 0.
    """
    positions_BT, mask_BTS, places_N = _seen(valid_BT, response_BT)
    hidden_ND = model.hidden(tokens_BT[:, :-1], positions_BT=positions_BT, mask_BTS=mask_BTS, places_N=places_N)
    # After the states: only then is the weight of a spread model whole.
    weight_VD = (model.embedding if model.head is None else model.head).weight[:vocab_size]
    targets_N = tokens_BT[:, 1:][response_BT[:, 1:]]
    logprobs_N, entropy_N = linear_logprobs(hidden_ND, weight_VD, targets_N, temperature, entropy=entropy)
    return spread(logprobs_N, response_BT), spread(entropy_N, response_BT)


def response_values(
    critic: ScoredDecoder, tokens_BT: torch.Tensor, valid_BT: torch.Tensor, response_BT: torch.Tensor
) -> torch.Tensor:
    """``values_BT``, float32: the critic's value of the state before each response token was chosen, 0 elsewhere."""
    positions_BT, mask_BTS, places_N = _seen(valid_BT, response_BT)
    values_N = critic(tokens_BT[:, :-1], positions_BT=positions_BT, mask_BTS=mask_BTS, places_N=places_N)
    return spread(values_N.float(), response_BT)


def _seen(valid_BT: torch.Tensor, response_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Of all columns but the last, from which nothing is predicted: positions, mask, and where response tokens are.

    The token in column t is predicted from column t - 1.
    """
    before_BT = valid_BT[:, :-1]
    places_N = response_BT[:, 1:].flatten().nonzero()[:, 0]
    return positions_from_valid(before_BT), causal_or_padded(before_BT), places_N


def spread(values_N: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    """Values of the mask's true entries, in row order, back in their places; 0 elsewhere."""
    return torch.zeros(mask_BT.shape, dtype=values_N.dtype, device=values_N.device).masked_scatter(mask_BT, values_N)


def sampled_logprobs(completions: Sequence[Completion], response_BT: torch.Tensor) -> torch.Tensor:
    """The log-probabilities that the engine reported while sampling, as ``[B, T]``."""
    logprobs = [logprob for completion in completions for logprob in completion.logprobs]
    return spread(torch.tensor(logprobs, device=response_BT.device), response_BT)


def finished(completions: Sequence[Completion], device: torch.device | None = None) -> torch.Tensor:
    """Which answers ended their turn themselves, ``[B]`` bool."""
    return torch.tensor([completion.finish_reason == "stop" for completion in completions], device=device)


def reward_model_score(model: ScoredDecoder, pad: int, precision: Precision, batch_size: int) -> Score:
    """The frozen reward model as a `Score`: its output at the last token of each response (NDET)."""
    model.eval().requires_grad_(False)
    device = model.bias.device

    @torch.no_grad()
    def score(prompts: Sequence[list[int]], responses: Sequence[list[int]]) -> torch.Tensor:
        tokens_BT, valid_BT, response_BT = collate(prompts, responses, pad, device)
        scores_B = torch.zeros(len(prompts), device=device)
        for rows_N in by_length(torch.arange(len(prompts), device=device), valid_BT, batch_size):
            valid_NT, tokens_NT, response_NT = trim(rows_N, valid_BT, tokens_BT, response_BT)
            ends_N = last_response_index(response_NT) + torch.arange(len(rows_N), device=device) * tokens_NT.shape[1]
            with autocast(precision, device):
                scores_B[rows_N] = model(
                    tokens_NT,
                    positions_BT=positions_from_valid(valid_NT),
                    mask_BTS=causal_or_padded(valid_NT),
                    places_N=ends_N,
                ).float()
        return scores_B

    return score


def episode_seed(*key: object) -> int:
    """The seed of one episode's sampling, a function of ``key`` alone, such as (seed, step, number of the episode)."""
    return int(keyed_uniform("ppo", *key) * 2**63)
