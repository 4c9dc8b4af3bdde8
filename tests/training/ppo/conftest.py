"""A tokenizer, a random policy and a random critic, small enough that a step takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.tokenizer.bpe import Tokenizer, train_bpe


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(["user assistant What is the capital of France? The capital of France is Paris."] * 4, 280)


NewDecoder = Callable[..., Decoder]


@pytest.fixture(scope="session")
def new_decoder(tokenizer: Tokenizer) -> NewDecoder:
    """Random decoders, far from uniform, so that a wrong temperature or mask shows."""

    def build(seed: int, dropout: float = 0.0) -> Decoder:
        sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "layers": 2, "d_model": 32, "heads": 2}
        model = Decoder(preset("modern", **sizes, dropout=dropout))
        init_weights(model, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            model.embedding.weight.mul_(10)  # tied to the head
        return model

    return build


@pytest.fixture
def policy(new_decoder: NewDecoder) -> Decoder:
    return new_decoder(seed=1)


@pytest.fixture
def reference(new_decoder: NewDecoder) -> Decoder:
    return new_decoder(seed=2)


@pytest.fixture
def critic(new_decoder: NewDecoder) -> ScoredDecoder:
    return ScoredDecoder(new_decoder(seed=3), torch.Generator().manual_seed(4))
