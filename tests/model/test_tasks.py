"""GPT-1's task inputs and head, against transformers' double-headed GPT-1 and by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import OpenAIGPTConfig, OpenAIGPTDoubleHeadsModel

from chatwright.model.decoder import Decoder
from chatwright.model.names import HUGGING_FACE, tensor_table
from chatwright.model.presets import preset
from chatwright.model.tasks import ClassifiedDecoder, TaskTokens, extend_vocabulary

Build = Callable[..., Decoder]
TOKENS = TaskTokens.after(300, context=12)
SIZES = {"vocab_size": 300, "context": 32, "layers": 2, "d_model": 48, "heads": 4, "dropout": 0.0}


def test_texts_are_wrapped_as_in_the_papers_figure() -> None:
    start, delim, extract = 300, 301, 302
    assert TOKENS.classification([5, 6]) == [start, 5, 6, extract]
    assert TOKENS.entailment([5], [6, 7]) == [start, 5, delim, 6, 7, extract]
    assert TOKENS.similarity([5], [6]) == [[start, 5, delim, 6, extract], [start, 6, delim, 5, extract]]
    choices = TOKENS.multiple_choice([5], [[6], [7]])
    assert choices == [[start, 5, delim, 6, extract], [start, 5, delim, 7, extract]]
    assert TOKENS.classification([]) == [start, extract]


def test_the_longest_text_is_cut_until_all_fit() -> None:
    ids = TOKENS.entailment(list(range(50)), [7, 8])
    assert ids == [300, 0, 1, 2, 3, 4, 5, 6, 301, 7, 8, 302]
    assert len(TOKENS.entailment(list(range(50)), list(range(60)))) == 12


def test_new_tokens_change_nothing_for_the_old_ones(build: Build, tokens_BT: torch.Tensor) -> None:
    for name in ("gpt1", "modern"):
        decoder = build(preset(name, **SIZES))
        extended = extend_vocabulary(decoder, 3, torch.Generator().manual_seed(0))
        assert extended.config.vocab_size == 303
        assert torch.equal(extended.eval()(tokens_BT)[..., :300], decoder(tokens_BT))
        assert 0.01 < extended.embedding.weight[300:].std() < 0.03


def test_scores_of_choices_and_language_model_equal_transformers(tokens_BT: torch.Tensor) -> None:
    fields = {"vocab_size": 300, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 4, "num_labels": 1}
    theirs = OpenAIGPTDoubleHeadsModel(OpenAIGPTConfig(**fields)).eval()
    with torch.no_grad():
        for i, parameter in enumerate(theirs.parameters()):
            parameter += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    config = preset("gpt1", **SIZES)
    decoder = Decoder(config)
    tensors = theirs.state_dict()
    decoder.load_state_dict(
        {entry.ours: entry.join(tensors) for entry in tensor_table(config, HUGGING_FACE[config.layout])}
    )
    ours = ClassifiedDecoder(decoder, classes=1).eval()
    with torch.no_grad():
        ours.head.weight.copy_(tensors["multiple_choice_head.summary.weight"])
        ours.head.bias.copy_(tensors["multiple_choice_head.summary.bias"])
    last_C = torch.tensor([19, 4, 11])
    scores_C1, logits_C1TV = ours(tokens_BT[:, None], last_C[:, None])
    expected = theirs(tokens_BT[None], mc_token_ids=last_C[None])  # one example with three choices
    torch.testing.assert_close(scores_C1[:, 0], expected.mc_logits[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits_C1TV[:, 0], expected.logits[0], atol=1e-4, rtol=0)


def test_states_of_both_orders_are_added_and_padding_is_not_read(build: Build, tokens_BT: torch.Tensor) -> None:
    decoder = build(preset("gpt1", **SIZES))
    model = ClassifiedDecoder(decoder, classes=4, generator=torch.Generator().manual_seed(2)).eval()
    pair_1PT = tokens_BT[None, :2].clone()
    scores_1C, _ = model(pair_1PT, torch.tensor([[7, 9]]))
    states = [decoder.hidden(pair_1PT[0, p : p + 1, : last + 1])[0, -1] for p, last in enumerate((7, 9))]
    torch.testing.assert_close(scores_1C[0], model.head(states[0] + states[1]), atol=1e-4, rtol=0)
    pair_1PT[0, :, 10:] = 0
    torch.testing.assert_close(model(pair_1PT, torch.tensor([[7, 9]]))[0], scores_1C, atol=1e-4, rtol=0)


def test_the_head_starts_as_the_paper_says_and_a_head_without_room_is_a_broken_invariant(build: Build) -> None:
    model = ClassifiedDecoder(build(preset("gpt1", **SIZES)), 100, generator=torch.Generator().manual_seed(2))
    assert abs(model.head.weight.std().item() / 0.02 - 1) < 0.05
    assert not model.head.bias.any()
    assert model.dropout.p == 0.1
    with pytest.raises(AssertionError, match="no room"):
        TaskTokens.after(300, context=3).entailment([1], [2])
