"""Bits per byte of a model on a held-out text: comparable between tokenizers, unlike a loss per token."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from chatwright.model.decoder import Decoder
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.batches import Batch
from chatwright.training.runtime import Precision, autocast


def bits_per_byte(
    model: Decoder,
    tokenizer: Tokenizer,
    tokens: np.ndarray,
    *,
    sample: int | None = None,
    batch: int = 32,
    precision: Precision = "auto",
) -> float:
    """Bits that the model needs for ``tokens``, divided by the UTF-8 bytes of their text.

    Every token is predicted exactly once, from those before it in its window of the model's context; the first follows
    an end-of-text. Bits spent on end-of-text tokens count, though they stand for no byte. With ``sample``, only about
    so many tokens are predicted: windows evenly spread over all of them, the same ones at every call.
    """
    windows = windows_once(tokens, model.config.context, tokenizer.end_of_text)
    count = len(windows.tokens_BT)
    wanted = count if sample is None else min(count, max(1, round(sample / model.config.context)))
    chosen = torch.arange(wanted) * count // wanted
    windows = windows.rows(chosen)
    nats = sum(_nats(model, windows.rows(slice(i, i + batch)), precision) for i in range(0, wanted, batch))
    return nats / (math.log(2) * text_bytes(tokenizer, windows.targets_BT[windows.mask_BT].numpy()))


def windows_once(tokens: np.ndarray, length: int, end_of_text: int) -> Batch:
    """Windows in which each of ``tokens`` is a counted target exactly once; the last one is padded."""
    count = -(-len(tokens) // length)
    targets = np.full(count * length, end_of_text, dtype=np.int64)
    targets[: len(tokens)] = tokens
    inputs = np.concatenate(([end_of_text], targets[:-1]))
    counted = np.arange(count * length) < len(tokens)
    return Batch(*(torch.from_numpy(array.reshape(count, length)) for array in (inputs, targets, counted)))


def text_bytes(tokenizer: Tokenizer, tokens: np.ndarray) -> int:
    """UTF-8 bytes of the text of ``tokens``; special tokens have none."""
    lengths = np.array([len(tokenizer.decode_bytes([i])) for i in range(tokenizer.vocab_size)])
    return int(lengths[tokens].sum())


@torch.no_grad()  # inference mode has tensors that FSDP cannot write to
def _nats(model: Decoder, batch: Batch, precision: Precision) -> float:
    """Sum over the counted targets of their negative log-likelihood, added up in float64."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    batch = batch.to(device)
    with autocast(precision, device):
        hidden_BTD = model.hidden(batch.tokens_BT)
        nats = 0.0
        for hidden_TD, targets_T, mask_T in zip(hidden_BTD, batch.targets_BT, batch.mask_BT, strict=True):
            logits_TV = model.logits(hidden_TD).float()
            nats += F.cross_entropy(logits_TV, targets_T, reduction="none")[mask_T].double().sum().item()
    model.train(training)
    return nats
