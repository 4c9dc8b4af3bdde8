"""The losses of pretraining, fine-tuning and the reward model, as pure functions. PPO's are in `ppo/objectives.py`.

Masks are explicit: a token counts when its mask says so, whatever its id.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chatwright import native

ROWS = 1024  # rows of logits at a time
NEAR = 1 << 20  # probabilities at a time on a CPU: 4 MiB of float32, which stay near the cores


def lm_loss(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean negative log-likelihood, in nats, of the targets where ``mask_BT`` is true; at least one must be.

    >>> logits = torch.zeros(1, 2, 4)  # even odds of four tokens
    >>> round(lm_loss(logits, torch.tensor([[3, 0]]), torch.tensor([[True, False]])).item(), 4)  # log 4
    1.3863
    """
    return F.cross_entropy(logits_BTV[mask_BT].float(), targets_BT[mask_BT])


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
    """Sum of negative log-likelihoods of N targets under ``softmax(hidden @ weight.T)``, logits never held all at once.

    The same as ``lm_loss(hidden @ weight.T, ...) * N``; its gradients are made in the forward pass, a thousand rows at
    a time, so that N x V numbers neither fill the memory nor go through it. Matrices are multiplied in autocast's dtype
    when it is on, the softmax is float32. Second derivatives are not there.
    """
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, targets_N)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        device = hidden_ND.device.type
        hidden, weight = _multiplied(hidden_ND, weight_VD)
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight_VD)
        loss = torch.zeros((), dtype=weight_VD.dtype, device=hidden.device)
        with torch.autocast(device, enabled=False):
            for first in range(0, len(hidden), ROWS):
                rows = slice(first, first + ROWS)
                logits_RV = hidden[rows] @ weight.T
                loss += _to_gradient(logits_RV, targets_N[rows], weight_VD.dtype)
                grad_hidden[rows] = logits_RV @ weight
                grad_weight += logits_RV.T @ hidden[rows]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.hidden_dtype = hidden_ND.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden.to(ctx.hidden_dtype) * grad, grad_weight * grad, None


def _to_gradient(logits_RV: Tensor, targets_R: Tensor, dtype: torch.dtype) -> Tensor:
    """Put the gradient, p - onehot(target), in the place of the logits; returns the loss, summed in ``dtype``.

    On a CPU a few rows at a time, so that their probabilities in ``dtype`` stay near the cores.
    """
    if native.fast_likelihood(logits_RV):
        return -native.likelihood(logits_RV, targets_R, 1.0, entropy=False, keep=True, less=1.0)[0].to(dtype).sum()
    loss = torch.zeros((), dtype=dtype, device=logits_RV.device)
    few = _few(logits_RV)
    for logits_FV, targets_F in zip(logits_RV.split(few), targets_R.split(few), strict=True):
        # Softmax, then the logarithm of one entry a row: half the passes of a log-softmax and its exponential.
        p_FV = torch.softmax(logits_FV, dim=-1, dtype=dtype)
        p_F1 = p_FV.gather(1, targets_F[:, None])
        loss -= p_F1.clamp_min(torch.finfo(dtype).tiny).log().sum()
        logits_FV.copy_(p_FV.scatter_(1, targets_F[:, None], p_F1 - 1.0))
    return loss


def _multiplied(*tensors: Tensor) -> list[Tensor]:
    """Tensors as they are multiplied: in autocast's dtype when it is on."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[0].dtype
    return [tensor.to(dtype) for tensor in tensors]


def _few(logits_RV: Tensor) -> int:
    return max(1, NEAR // logits_RV.shape[1]) if logits_RV.device.type == "cpu" else ROWS


def linear_logprobs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, temperature: float, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    """``(logprobs_N, entropy_N)``: log-probabilities of the targets under ``softmax(hidden @ weight.T / temperature)``.

    The same as by ``log_softmax``, in float32 of products in autocast's dtype; what is kept for the backward pass are
    the probabilities, in that dtype. The entropy has no gradient; without ``entropy`` it is 0.
    """
    learning = torch.is_grad_enabled() and (hidden_ND.requires_grad or weight_VD.requires_grad)
    return _LinearLogprobs.apply(hidden_ND, weight_VD, targets_N, temperature, entropy, learning)


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        entropy: bool,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        hidden, weight = _multiplied(hidden_ND, weight_VD)
        logprobs_N = torch.zeros(len(hidden), dtype=weight_VD.dtype, device=hidden.device)
        entropy_N = torch.zeros_like(logprobs_N)
        probabilities = []
        with torch.autocast(hidden.device.type, enabled=False):
            for first in range(0, len(hidden), ROWS):
                rows = slice(first, first + ROWS)
                logits_RV = hidden[rows] @ weight.T
                if learning:
                    probabilities.append(logits_RV)  # which take the logits' place
                if native.fast_likelihood(logits_RV):
                    found = native.likelihood(
                        logits_RV, targets_N[rows], 1 / temperature, entropy=entropy, keep=learning
                    )
                    logprobs_N[rows], entropy_N[rows] = found
                    continue
                few = _few(logits_RV)
                parts = (logits_RV, targets_N[rows], logprobs_N[rows], entropy_N[rows])
                for logits_FV, targets_F, logprobs_F, entropy_F in zip(*(x.split(few) for x in parts), strict=True):
                    all_FV = torch.log_softmax(logits_FV.to(logprobs_N.dtype).div_(temperature), dim=-1)
                    logprobs_F.copy_(all_FV.gather(1, targets_F[:, None])[:, 0])
                    if entropy or learning:
                        p_FV = all_FV.exp()
                        logits_FV.copy_(p_FV)
                        if entropy:
                            entropy_F.sub_(p_FV.mul_(all_FV).sum(dim=-1))
        ctx.save_for_backward(hidden, weight, targets_N, *probabilities)
        ctx.temperature, ctx.dtypes = temperature, (hidden_ND.dtype, weight_VD.dtype)
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        hidden, weight, targets_N, *probabilities = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=ctx.dtypes[1], device=weight.device)
        for number, p_RV in enumerate(probabilities):
            rows = slice(number * ROWS, (number + 1) * ROWS)
            if native.fast_likelihood(p_RV):
                grad_RV = native.likelihood_back(p_RV, targets_N[rows], 1 / ctx.temperature, grad_N[rows].float())
            else:
                grad_R1 = (grad_N[rows, None] / ctx.temperature).to(p_RV.dtype)
                grad_RV = (p_RV * -grad_R1).scatter_add_(1, targets_N[rows, None], grad_R1)
            grad_hidden[rows] = grad_RV @ weight
            grad_weight += grad_RV.T @ hidden[rows]
        return grad_hidden.to(ctx.dtypes[0]), grad_weight, None, None, None, None


def ranking_loss(scores_BK: Tensor, ranks_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """Mean over prompts of the mean over their pairs of ``-log sigmoid(score of the better - score of the worse)``.

    Ties are dropped: a prompt's divisor is the number of its pairs of different rank, C(K, 2) where nothing ties
    (InstructGPT, eq. 1). A prompt counts as one element however many answers it has; one without pairs counts 0.

    scores_BK: scores of up to K answers to each of B prompts. ranks_BK: 0 is best; the same number is a tie.
    valid_BK: false where a prompt has fewer than K answers.

    Three answers of which the last two tie leave the pairs (0, 1) and (0, 2), with margins 2 and 0:

    >>> scores, ranks = torch.tensor([[2.0, 0.0, 2.0]]), torch.tensor([[0, 1, 1]])
    >>> round(ranking_loss(scores, ranks, torch.ones(1, 3, dtype=torch.bool)).item(), 4)  # (0.1269 + 0.6931) / 2
    0.41
    """
    pairs_BKK = better_pairs(ranks_BK, valid_BK)
    margins_BKK = scores_BK[:, :, None] - scores_BK[:, None, :]
    losses_BKK = torch.where(pairs_BKK, -F.logsigmoid(margins_BKK), 0.0)
    return (losses_BKK.sum((1, 2)) / pairs_BKK.sum((1, 2)).clamp_min(1)).mean()


def better_pairs(ranks_BK: Tensor, valid_BK: Tensor) -> Tensor:
    """Bool [B, K, K]: true at (i, j) where answer i is ranked strictly better than answer j and both are there.

    >>> better_pairs(torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool)).int().tolist()
    [[[0, 0], [1, 0]]]
    """
    return (ranks_BK[:, :, None] < ranks_BK[:, None, :]) & valid_BK[:, :, None] & valid_BK[:, None, :]
