from __future__ import annotations

import doctest
import math

import pytest
import torch
from torch import Tensor

from chatwright import native
from chatwright.training import objectives
from chatwright.training.objectives import linear_cross_entropy, lm_loss, ranking_loss


def test_worked_examples_hold() -> None:
    assert doctest.testmod(objectives, extraglobs={"torch": torch}).failed == 0


def naive_lm_loss(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor) -> float:
    losses = []
    for b, t in mask_BT.nonzero().tolist():
        scores = logits_BTV[b, t].tolist()
        losses.append(math.log(sum(math.exp(s) for s in scores)) - scores[targets_BT[b, t]])
    return sum(losses) / len(losses)


def test_lm_loss_equals_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(7, (3, 5), generator=generator)
    mask = torch.rand(3, 5, generator=generator) < 0.5
    assert lm_loss(logits, targets, mask).item() == pytest.approx(naive_lm_loss(logits, targets, mask), rel=1e-6)


def test_what_is_masked_changes_nothing() -> None:
    logits, targets = torch.randn(1, 4, 7), torch.randint(7, (1, 4))
    mask = torch.tensor([[True, False, True, False]])
    changed = torch.where(mask[..., None], logits, torch.tensor(float("nan")))
    assert torch.equal(lm_loss(logits, targets, mask), lm_loss(changed, targets, mask))


@pytest.mark.parametrize("rows", [1, 5, 1024])
def test_linear_cross_entropy_has_the_value_and_gradients_of_the_plain_loss(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "ROWS", rows)
    hidden = torch.randn(13, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(9, (13,))
    plain = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")
    expected = torch.autograd.grad(plain * 0.3, (hidden, weight))
    ours = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours * 0.3, (hidden, weight)), expected)


def test_linear_cross_entropy_under_autocast_stays_close_to_float32() -> None:
    hidden, weight = torch.randn(64, 32, requires_grad=True), torch.randn(50, 32, requires_grad=True)
    targets = torch.randint(50, (64,))
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(rough, exact, rtol=5e-3, atol=0)
    gradients = torch.autograd.grad(rough, (hidden, weight))
    assert [g.dtype for g in gradients] == [torch.float32] * 2
    for ours, theirs in zip(gradients, torch.autograd.grad(exact, (hidden, weight)), strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_a_target_of_almost_no_probability_costs_a_finite_loss() -> None:
    hidden, weight = torch.tensor([[1000.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    assert 80 < loss.item() < 100
    assert hidden.grad.item() == pytest.approx(2.0)


@pytest.mark.parametrize("rows", [7, objectives.ROWS + 5])  # more than are computed at a time
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_linear_logprobs_have_the_values_and_gradients_of_log_softmax(rows: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden_ND = 3 * torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    weight_VD = torch.randn(50, 16, generator=generator, dtype=torch.float64)
    targets_N = torch.randint(0, 50, (rows,), generator=generator)
    weights_N = torch.randn(rows, generator=generator, dtype=torch.float64)

    def plain(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
        every_NV = torch.log_softmax(hidden_ND @ weight_VD.T / temperature, dim=-1)
        return every_NV[torch.arange(rows), targets_N], -(every_NV.exp() * every_NV).sum(-1).detach()

    found = []
    for function in (
        plain,
        lambda h, w: objectives.linear_logprobs(h, w, targets_N, temperature, entropy=True),
    ):
        inputs = [x.clone().requires_grad_() for x in (hidden_ND, weight_VD)]
        logprobs_N, entropy_N = function(*inputs)
        assert not entropy_N.requires_grad
        (logprobs_N * weights_N).sum().backward()
        found.append([logprobs_N, entropy_N, *(x.grad for x in inputs)])
    torch.testing.assert_close(found[1], found[0])
    with torch.no_grad():
        unlearned_N, none_N = objectives.linear_logprobs(hidden_ND, weight_VD, targets_N, temperature, entropy=False)
    assert torch.equal(unlearned_N, found[1][0])
    assert not none_N.any()


def test_linear_logprobs_under_autocast_stay_close_to_float32() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden_ND, weight_VD = torch.randn(40, 32, generator=generator), torch.randn(300, 32, generator=generator)
    targets_N = torch.randint(0, 300, (40,), generator=generator)
    found = []
    for enabled in (False, True):
        inputs = [x.clone().requires_grad_() for x in (hidden_ND, weight_VD)]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logprobs_N, _ = objectives.linear_logprobs(*inputs, targets_N, 1.0, entropy=False)
        assert logprobs_N.dtype == torch.float32
        logprobs_N.mean().backward()
        found.append([logprobs_N, *(x.grad for x in inputs)])
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.0, atol=0.1)
    torch.testing.assert_close(found[1][1:], found[0][1:], rtol=0.05, atol=2e-3)


def naive_ranking_loss(prompts: list[tuple[list[float], list[int]]]) -> float:
    total = 0.0
    for scores, ranks in prompts:
        losses = [
            math.log(1 + math.exp(scores[j] - scores[i]))
            for i in range(len(ranks))
            for j in range(len(ranks))
            if ranks[i] < ranks[j]
        ]
        total += sum(losses) / len(losses) if losses else 0.0
    return total / len(prompts)


def padded(prompts: list[tuple[list[float], list[int]]], most: int, filler: float) -> tuple[Tensor, Tensor, Tensor]:
    scores = torch.full((len(prompts), most), filler, dtype=torch.float64)
    ranks, valid = torch.zeros(len(prompts), most, dtype=torch.long), torch.zeros(len(prompts), most, dtype=torch.bool)
    for row, (values, places) in enumerate(prompts):
        scores[row, : len(values)] = torch.tensor(values, dtype=torch.float64)
        ranks[row, : len(values)] = torch.tensor(places)
        valid[row, : len(values)] = True
    return scores, ranks, valid


def test_ranking_loss_equals_a_naive_loop_over_pairs_for_k_from_4_to_9_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = []
    for k in range(4, 10):
        scores = (3 * torch.randn(k, generator=generator, dtype=torch.float64)).tolist()
        prompts.append((scores, torch.randint(3, (k,), generator=generator).tolist()))
    prompts.append(([1.0, 2.0], [0, 0]))  # all tied: no pairs
    expected = pytest.approx(naive_ranking_loss(prompts), rel=1e-12)
    assert ranking_loss(*padded(prompts, 9, 0.0)).item() == expected
    assert ranking_loss(*padded(prompts, 12, 1e6)).item() == expected  # padding is neither read nor counted


def test_a_prompt_counts_once_however_many_answers_it_has() -> None:
    few, many = ([0.0, 0.0], [0, 1]), ([0.0] * 9, list(range(9)))
    assert naive_ranking_loss([few, many]) == pytest.approx(math.log(2))
    assert ranking_loss(*padded([few, many], 9, 0.0)).item() == pytest.approx(math.log(2))


def test_a_tied_prompt_has_no_gradient() -> None:
    scores = torch.tensor([[1.0, 2.0]], requires_grad=True)
    ranking_loss(scores, torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool)).backward()
    assert scores.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("rows", "width", "scale"), [(1, 5, 1.0), (7, 40, 0.5), (3, 300, 2.0)])
def test_the_softmax_kernel_is_exact_to_rounding(rows: int, width: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(rows, width, generator=generator)).bfloat16()
    logits[0, 0] = 300.0  # all others all but impossible
    targets = torch.randint(1, width, (rows,), generator=generator)
    if not native.fast_likelihood(logits):
        pytest.skip("the kernel is not for this machine")
    right = logits.double().mul(scale).log_softmax(1)
    chosen = right.gather(1, targets[:, None])[:, 0]
    p = logits.clone()
    logprobs, entropy = native.likelihood(p, targets, scale, entropy=True, keep=True)
    torch.testing.assert_close(logprobs.double(), chosen, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(entropy.double(), -(right.exp() * right).sum(1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(p.double(), right.exp(), atol=1e-30, rtol=2**-7)
    alone, _ = native.likelihood(logits.clone(), targets, scale, entropy=False, keep=False)
    assert torch.equal(alone, logprobs)
    dy = torch.randn(rows, generator=generator)
    onehot = torch.nn.functional.one_hot(targets, width)
    gradient = native.likelihood_back(p, targets, scale, dy).double()
    torch.testing.assert_close(gradient, dy[:, None] * scale * (onehot - right.exp()), atol=2e-2, rtol=2**-6)


def test_a_logit_that_is_not_a_number_stays_seen() -> None:
    logits = torch.zeros(2, 20).bfloat16()
    logits[1, 17] = float("nan")
    if not native.fast_likelihood(logits):
        pytest.skip("the kernel is not for this machine")
    logprobs, _ = native.likelihood(logits, torch.tensor([3, 3]), 1.0, entropy=False, keep=False)
    assert logprobs.isnan().tolist() == [False, True]
