"""Comparisons as ids, their scores and their loss: a prompt goes through the model once, each answer after it once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import torch
from torch import Tensor

from chatwright.model.heads import ScoredDecoder
from chatwright.model.masks import shared_prefix_mask
from chatwright.records import Comparison, Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.loop import Part
from chatwright.training.objectives import better_pairs, ranking_loss
from chatwright.training.parallel import Layout
from chatwright.training.questions import shorter
from chatwright.training.runtime import Precision, autocast
from chatwright.training.sft import example

ROWS = 32  # rows side by side in one forward pass

GroupT = TypeVar("GroupT")

# Sequences that begin alike, laid out as one row: what they share once, then the rest of each.
Row = Sequence[list[int]]


@dataclass(frozen=True)
class Ranking:
    """A comparison as ids: the prompt with each answer, and each answer's rank, 0 the best; equal ranks tie."""

    answers: list[list[int]]
    ranks: list[int]


def ranking(tokenizer: Tokenizer, comparison: Comparison, context: int) -> Ranking | None:
    """A comparison as ids, each answer to the end of its turn; None when it has more than ``context`` of them."""
    found = fitted(tokenizer, comparison, context)
    return None if found is None else Ranking(found[1], [-int(value) for value in preferences(comparison)])


def fitted(
    tokenizer: Tokenizer, comparison: Comparison, context: int
) -> tuple[Sequence[Message], list[list[int]]] | None:
    """A comparison's prompt, and the ids of it with each answer; None when they do not fit into ``context``.

    Where they do not, the prompt's first exchanges are left out, as many as it takes: a turn is there whole or not at
    all, and so are the template's tokens.
    """
    for prompt in shorter(comparison.prompt):
        talks = [[*prompt, Message(role="assistant", content=answer)] for answer in comparison.answers]
        answers = [example(tokenizer, talk).ids for talk in talks]
        if max(map(len, answers)) <= context:
            return prompt, answers
    return None


def preferences(comparison: Comparison) -> list[float]:
    """For each answer a number that is higher the better its tier: minus the tier's place."""
    place = {answer: tier for tier, answers in enumerate(comparison.tiers) for answer in answers}
    return [-float(place[answer]) for answer in range(len(comparison.answers))]


def shared(row: Row) -> int:
    """How many ids all sequences of a row begin with; of each at least one id is its own.

    >>> shared([[1, 2, 3, 4], [1, 2, 5]]), shared([[1, 2], [1, 2, 3]]), shared([[1, 2]])
    (2, 1, 1)
    """
    return min(
        min(map(len, row)) - 1, sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*row, strict=False)))
    )


def row_length(row: Row) -> int:
    """Tokens that go through the model for a row."""
    prefix = shared(row)
    return prefix + sum(len(ids) - prefix for ids in row)


def row_scores(model: ScoredDecoder, rows: Sequence[Row], pad: int, passes: int = 0) -> Tensor:
    """Scores [N] at the last token of each sequence (NDET), in the order in which they stand in the rows.

    A score is that of its sequence alone, whatever it shares a row or a pass with. Rows of like length go through the
    model together, so that little of what is computed is padding; in at least ``passes`` passes, of which those that
    are too many count for nothing.
    """
    rows = laid_out(model, rows)
    device = model.bias.device
    order = sorted(range(len(rows)), key=lambda i: row_length(rows[i]))
    starts = [*range(0, len(order), ROWS)]
    starts += [0] * (passes - len(starts))
    scores, nothing = [], torch.zeros((), device=device)
    for number, first in enumerate(starts):
        scores_N = _pass(model, [rows[i] for i in order[first : first + ROWS]], pad)
        if number * ROWS < len(order):
            scores.append(scores_N)
        else:
            nothing = nothing + 0.0 * scores_N.sum()
    places = [0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()]
    came = torch.tensor([place for i in order for place in range(places[i], places[i + 1])])
    return torch.cat(scores)[came.argsort().to(device)] + nothing


def laid_out(model: ScoredDecoder, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows that go through the model: of one with sparse attention, whose strides count places, singles."""
    if any(map(model.decoder.config.is_sparse, range(model.decoder.config.layers))):
        return [[ids] for row in rows for ids in row]
    return rows


def _pass(model: ScoredDecoder, rows: Sequence[Row], pad: int) -> Tensor:
    """Scores of the sequences of some rows, in their order. Padding is on the right, where causality hides it."""
    shape = (len(rows), max(map(row_length, rows)))
    tokens_BT, positions_BT = torch.full(shape, pad), torch.zeros(shape, dtype=torch.int64)
    segments_BT = torch.full(shape, -1)
    ends: list[int] = []  # where the last tokens are in the flattened rows
    for b, row in enumerate(rows):
        prefix = shared(row)
        begin = prefix
        tokens_BT[b, :prefix] = torch.tensor(row[0][:prefix], dtype=torch.int64)
        positions_BT[b, :prefix] = torch.arange(prefix)
        segments_BT[b, :prefix] = 0
        for number, ids in enumerate(row, start=1):
            end = begin + len(ids) - prefix
            tokens_BT[b, begin:end] = torch.tensor(ids[prefix:])
            positions_BT[b, begin:end] = torch.arange(prefix, len(ids))
            segments_BT[b, begin:end] = number
            ends.append(b * shape[1] + end - 1)
            begin = end
    device = model.bias.device
    ends_N = torch.tensor(ends, device=device)
    if all(len(row) == 1 for row in rows):
        return model(tokens_BT.to(device), places_N=ends_N)
    mask_BTS = shared_prefix_mask(segments_BT.to(device))
    return model(tokens_BT.to(device), positions_BT=positions_BT.to(device), mask_BTS=mask_BTS, places_N=ends_N)


def last_scores(model: ScoredDecoder, sequences: Sequence[list[int]], pad: int, passes: int = 0) -> Tensor:
    """Scores [N] at the last token of each sequence, each in a row of its own (see `row_scores`)."""
    return row_scores(model, [[ids] for ids in sequences], pad, passes)


@torch.no_grad()
def score_each(
    model: ScoredDecoder, answers: Sequence[Row], micro_batch: int, pad: int, precision: Precision
) -> list[list[float]]:
    """The score of each answer to each prompt; about ``micro_batch`` answers of prompts of like length at a time."""
    order = sorted(range(len(answers)), key=lambda i: row_length(answers[i]))
    scores: dict[int, list[float]] = {}
    for group in groups_of(order, [len(row) for row in answers], micro_batch):
        rows = [answers[i] for i in group]
        with autocast(precision, model.bias.device):
            found = iter(row_scores(model, rows, pad).tolist())
        scores |= {i: [next(found) for _ in row] for i, row in zip(group, rows, strict=True)}
    return [scores[i] for i in range(len(answers))]


def ranking_parts(
    model: ScoredDecoder,
    rankings: Sequence[Ranking],
    micro_batch: int,
    pad: int,
    precision: Precision,
    layout: Layout,
) -> Iterator[Part]:
    """The mean ranking loss over prompts, in parts of whole prompts with about ``micro_batch`` answers at most.

    Each process has its share of the prompts (see `in_step`), and makes as many passes in a part as any.
    """
    pairs = sum(int(better_pairs(*ranks_of([r.ranks])).sum()) for r in rankings)
    shares = [_parts(rankings[rank :: layout.ranks] or rankings[:1], micro_batch) for rank in range(layout.ranks)]
    for at_once, counts in in_step(shares, layout, len(rankings)):
        group = at_once[layout.rank]
        rows = [laid_out(model, [item.answers for item in items]) for items in at_once]
        passes = max(math.ceil(len(ones) / ROWS) for ones in rows)
        ranks_BK, valid_BK = (tensor.to(model.bias.device) for tensor in ranks_of([item.ranks for item in group]))
        with autocast(precision, model.bias.device):
            scores_N = row_scores(model, [item.answers for item in group], pad, passes)
        scores_BK = torch.zeros(ranks_BK.shape, device=scores_N.device).masked_scatter(valid_BK, scores_N)
        loss = ranking_loss(scores_BK, ranks_BK, valid_BK) * (counts * len(group) / len(rankings))
        ahead_BKK = scores_BK[:, :, None] > scores_BK[:, None, :]
        right = counts * (ahead_BKK & better_pairs(ranks_BK, valid_BK)).sum() / max(1, pairs)
        tokens = sum(row_length(item.answers) for item in group) if counts else 0
        yield Part(loss, tokens, {"accuracy": right})


def _parts(rankings: Sequence[Ranking], most: int) -> list[list[Ranking]]:
    """Rankings of like length together, so that little is padded, with at most ``most`` answers in a group."""
    ordered = sorted(rankings, key=lambda item: row_length(item.answers))
    sizes = [len(item.ranks) for item in ordered]
    return [[ordered[i] for i in group] for group in groups_of(range(len(ordered)), sizes, most)]


def in_step(shares: Sequence[Sequence[GroupT]], layout: Layout, count: int) -> Iterator[tuple[list[GroupT], bool]]:
    """Part by part: the group of each process, and whether this process's counts.

    shares: each process's groups, of ``count`` items dealt out in turn, or the first item where there is none for it.
    Processes that exchange weights must make equally many passes: one that has fewer groups than another goes through
    its first one again, for nothing.
    """
    own = len(shares[layout.rank]) if layout.rank < count else 0
    for part in range(max(map(len, shares))):
        yield [groups[part] if part < len(groups) else groups[0] for groups in shares], part < own


def groups_of(items: Sequence[int], sizes: Sequence[int], most: int) -> list[list[int]]:
    """Items in their order, cut so that the sizes of a group's add up to at most ``most``, but at least one in each.

    >>> groups_of([0, 2, 1], [4, 9, 3], most=7)
    [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    room = 0
    for item in items:
        if not groups or sizes[item] > room:
            groups.append([])
            room = most
        groups[-1].append(item)
        room -= sizes[item]
    return groups


def ranks_of(ranks: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ranks of each prompt's answers as ``(ranks_BK, valid_BK)``, K the most answers of any.

    >>> ranks_of([[0, 1], [0]])
    (tensor([[0, 1],
            [0, 0]]), tensor([[ True,  True],
            [ True, False]]))
    """
    most = max(len(own) for own in ranks)
    ranks_BK = torch.tensor([own + [0] * (most - len(own)) for own in ranks])
    valid_BK = torch.tensor([[k < len(own) for k in range(most)] for own in ranks])
    return ranks_BK, valid_BK
