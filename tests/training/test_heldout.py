from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from chatwright.model.decoder import Decoder
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.heldout import bits_per_byte, text_bytes, windows_once


@pytest.fixture
def model(tokenizer: Tokenizer) -> Decoder:
    return Decoder(preset("modern", vocab_size=tokenizer.vocab_size, context=8, layers=1, d_model=16, heads=2))


def test_every_token_is_a_target_exactly_once_after_the_one_before_it() -> None:
    tokens = np.arange(1, 22, dtype=np.uint16)
    windows = windows_once(tokens, length=8, end_of_text=0)
    assert windows.targets_BT[windows.mask_BT].tolist() == list(range(1, 22))
    assert torch.equal(windows.tokens_BT[windows.mask_BT], windows.targets_BT[windows.mask_BT] - 1)


def test_bits_per_byte_equals_one_window_at_a_time(model: Decoder, tokenizer: Tokenizer) -> None:
    text = "The color of grass is green. The color of snow is white, 雪."
    tokens = np.array([*tokenizer.encode(text), tokenizer.end_of_text], dtype=np.uint16)
    nats, stream = 0.0, [tokenizer.end_of_text, *tokens.tolist()]
    for first in range(0, len(tokens), 8):
        window = stream[first : first + 9]
        logprobs = model(torch.tensor([window[:-1]])).log_softmax(-1)[0]
        nats -= sum(logprobs[i, token].item() for i, token in enumerate(window[1:]))
    expected = nats / math.log(2) / len(text.encode())
    for batch in (1, 3, 32):
        ours = bits_per_byte(model, tokenizer, tokens, batch=batch, precision="float32")
        assert ours == pytest.approx(expected, rel=1e-5)


def test_a_sample_is_spread_and_as_large_as_asked(model: Decoder, tokenizer: Tokenizer) -> None:
    tokens = np.array(tokenizer.encode("The color of coal is black. " * 40), dtype=np.uint16)
    assert bits_per_byte(model, tokenizer, tokens, sample=10**9) == bits_per_byte(model, tokenizer, tokens)
    assert bits_per_byte(model, tokenizer, tokens, sample=1) != bits_per_byte(model, tokenizer, tokens)


def test_special_tokens_have_no_bytes(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.end_of_text, *tokenizer.encode("é"), tokenizer.end_of_turn, tokenizer.pad]
    assert text_bytes(tokenizer, np.array(ids)) == 2


def test_evaluation_leaves_the_model_as_it_was(model: Decoder, tokenizer: Tokenizer) -> None:
    model.train()
    bits_per_byte(model, tokenizer, np.array(tokenizer.encode("snow"), dtype=np.uint16))
    assert model.training
