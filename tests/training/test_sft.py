from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from chatwright.errors import UserError
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.model.presets import preset
from chatwright.records import Message
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.tokenizer.chat import render, render_with_mask
from chatwright.training import sft
from chatwright.training.language import summed_nats
from chatwright.training.sft import SftConfig, example, fitting, read_examples

from .conftest import MODEL, conversation

QUICK = {
    "epochs": 12,
    "batch": 4,
    "micro_batch": 2,
    "eval_every": 20,
    "checkpoint": {"every": 4},
    "pretrain_share": 0.25,
}


@pytest.fixture(scope="module")
def pretrained(inputs: dict[str, Path], tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {name: value for name, value in MODEL.items() if name not in ("preset", "context")}
    model = Decoder(preset("modern", vocab_size=tokenizer.vocab_size, context=96, **sizes))
    folder = tmp_path_factory.mktemp("pretrained")
    save_model(model, folder, tokenizer)
    return folder


def test_it_learns_to_answer_and_to_stop(
    inputs: dict[str, Path], pretrained: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = SftConfig(**QUICK, optim={"lr": 0.01})
    headline = sft.run(config, {**inputs, "pretrain": pretrained}, tmp_path)
    assert headline["heldout_loss"] < 0.3 < headline["heldout_loss_start"]
    assert headline["bits_per_byte"] < headline["bits_per_byte_start"]  # the text mixed in was learned too
    model, _ = load_model(tmp_path)
    ids = render(tokenizer, [Message(role="user", content="What is the color of snow?")], generation_prompt=True)
    start = len(ids)
    while ids[-1] != tokenizer.end_of_turn and len(ids) < start + 20:
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert tokenizer.decode(ids[start:]) == "It is white."
    assert ids[-1] == tokenizer.end_of_turn


def test_a_broken_run_resumes_to_the_same_bits(
    inputs: dict[str, Path], pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, sources = SftConfig(**{**QUICK, "epochs": 3}), {**inputs, "pretrain": pretrained}
    for name in ("straight", "broken"):
        (tmp_path / name).mkdir()
    sft.run(config, sources, tmp_path / "straight")
    calls = 0

    def breaks(*args: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise KeyboardInterrupt
        return summed_nats(*args)

    with monkeypatch.context() as patched:
        patched.setattr("chatwright.training.language.summed_nats", breaks)
        with pytest.raises(KeyboardInterrupt):
            sft.run(config, sources, tmp_path / "broken")
    assert (tmp_path / "broken" / "checkpoint").exists()
    sft.run(config, sources, tmp_path / "broken")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "broken")]
    assert weights[0] == weights[1]


def test_own_conversations_take_the_demonstrations_place(
    inputs: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(conversation("mine", "grass").model_dump_json() + "\n", encoding="utf-8")
    config = SftConfig(**{**QUICK, "epochs": 1}, data=own)
    assert sft.run(config, {**inputs, "pretrain": pretrained}, tmp_path)["conversations"] == 1


def test_a_wrong_role_names_file_and_line(inputs: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    wrong = {"id": "x", "messages": [{"role": "user", "content": "hi"}, {"role": "robot", "content": "beep"}]}
    own.write_text(conversation("mine", "grass").model_dump_json() + "\n" + json.dumps(wrong), encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.jsonl, line 2: messages\.1\.role"):
        sft.run(SftConfig(**QUICK, data=own), {**inputs, "pretrain": pretrained}, tmp_path)


def test_an_empty_file_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="holds no conversations"):
        read_examples(tmp_path / "own.jsonl", tokenizer, 64)


def test_only_the_assistants_words_and_ends_of_turn_are_learned(tokenizer: Tokenizer) -> None:
    messages = conversation("a", "snow", turns=2).messages
    found = example(tokenizer, messages)
    learned = [token for token, counts in zip(found.ids, found.mask, strict=True) if counts]
    assert learned == [*tokenizer.encode("It is white."), tokenizer.end_of_turn] * 2
    assert found.ids[-1] == tokenizer.end_of_turn
    assert found.ids == render_with_mask(tokenizer, messages)[0][: len(found.ids)]


def test_too_long_conversations_lose_whole_exchanges_from_the_end(tokenizer: Tokenizer) -> None:
    system = Message(role="system", content="Be kind.")
    messages = [system, *conversation("a", "snow", turns=3).messages]
    size = len(example(tokenizer, messages[:5]).ids)
    assert fitting(tokenizer, messages, context=size - 1) == messages[:5]
    assert fitting(tokenizer, messages, context=size - 2) == messages[:3]
    assert not fitting(tokenizer, messages, context=5)


def test_shortened_and_dropped_conversations_are_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talks = [conversation("a", "snow", turns=1), conversation("b", "coal", turns=3)]
    path.write_text("".join(talk.model_dump_json() + "\n" for talk in talks), encoding="utf-8")
    room = len(example(tokenizer, talks[0].messages).ids)
    examples, cut = read_examples(path, tokenizer, room)
    assert (len(examples), cut) == (2, 1)
    with pytest.raises(UserError, match="fits into the model's context of 5 tokens"):
        read_examples(path, tokenizer, 5)


def test_a_share_that_leaves_no_rows_for_conversations_is_refused() -> None:
    with pytest.raises(ValidationError, match="leaves none for conversations"):
        SftConfig(batch=1, pretrain_share=0.1)
    assert SftConfig(batch=16, pretrain_share=0.1).text_rows == 2
    assert SftConfig(batch=16, pretrain_share=0.0).text_rows == 0
