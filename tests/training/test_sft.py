from __future__ import annotations

import json
from collections.abc import Callable
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
from chatwright.training.batches import Packed
from chatwright.training.language import summed_nats
from chatwright.training.sft import KEPT, SftConfig, as_examples, example, fitting, kept_steps

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


def test_own_conversations_take_the_demonstrations_place_and_need_no_other_stage(
    pretrained: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    asked = ["What is the color of grass?", "What color is grass?", "And grass?"]
    records = [{"instruction": question, "output": "It is green."} for question in asked]
    own.write_text("".join(json.dumps(record) + "\n" for record in [*records, {"text": "?"}]), encoding="utf-8")
    config = SftConfig(**{**QUICK, "epochs": 1, "pretrain_share": 0.0}, data=own, malformed="skip")
    assert config.wanted(sft.STAGE.inputs) == ("pretrain",)
    headline = sft.run(config, {"pretrain": pretrained}, tmp_path)
    assert headline["conversations"] == 2  # of three one is held out
    assert headline["heldout_loss"] < headline["heldout_loss_start"]
    assert "bits_per_byte" not in headline
    assert json.loads((tmp_path / "malformed.jsonl").read_text())["place"] == f"{own}, line 4"
    assert SftConfig(data=own).wanted(sft.STAGE.inputs) == ("pretrain", "shards")
    own.write_text(json.dumps(records[0]), encoding="utf-8")
    with pytest.raises(UserError, match="holds one prompt alone"):
        sft.run(config, {"pretrain": pretrained}, tmp_path)


def test_the_two_models_of_instructgpt() -> None:
    baseline = SftConfig.model_validate_json('{"preset": "instructgpt-baseline"}', strict=True)
    assert (baseline.epochs, baseline.batch, baseline.residual_dropout, baseline.text_rows) == (16, 32, 0.2, 0)
    assert (baseline.optim.lr, baseline.optim.kind, baseline.optim.betas) == (9.65e-6, "adamw", (0.9, 0.95))
    assert [baseline.schedule.multiplier(step, 100) for step in (0, 99)] == pytest.approx([1.0, 0.1])
    assert SftConfig.model_validate_json(baseline.model_dump_json(), strict=True) == baseline
    start = SftConfig.model_validate_json('{"preset": "instructgpt-init", "optim": {"lr": 1e-5}}', strict=True)
    assert (start.epochs, start.text_rows, start.residual_dropout, start.keep_epochs) == (2, 3, None, None)
    assert (start.optim.lr, start.optim.betas) == (1e-5, (0.9, 0.95))
    with pytest.raises(ValidationError, match="preset"):
        SftConfig(preset="instructgpt")  # type: ignore[arg-type]


def test_a_model_is_kept_after_each_epoch_and_at_the_end(
    inputs: dict[str, Path], pretrained: Path, tmp_path: Path
) -> None:
    config = SftConfig(**{**QUICK, "epochs": 3.5, "batch": 2, "keep_epochs": 1.0, "pretrain_share": 0.0})
    assert kept_steps(config, 4.0, 14) == {4, 8, 12, 14}
    assert kept_steps(config, 0.3, 1) == {1}
    sft.run(config, {**inputs, "pretrain": pretrained}, tmp_path)
    folders = sorted((tmp_path / KEPT).iterdir())
    assert len(folders) >= 3
    assert (folders[-1] / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    first, last = (load_model(folder)[0].embedding.weight for folder in (folders[0], folders[-1]))
    assert not torch.equal(first, last)


def test_residual_dropout_is_on_in_training_alone_and_resumes_to_the_same_bits(
    inputs: dict[str, Path], pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {**inputs, "pretrain": pretrained}
    bits = {}
    for name, share in (("without", None), ("with", 0.2), ("again", 0.2)):
        config = SftConfig(**{**QUICK, "epochs": 3, "residual_dropout": share})
        (tmp_path / name).mkdir()
        if name == "again":
            monkeypatch.setattr("chatwright.training.language.summed_nats", _breaks_after(9))
            with pytest.raises(KeyboardInterrupt):
                sft.run(config, sources, tmp_path / name)
            monkeypatch.undo()
        sft.run(config, sources, tmp_path / name)
        bits[name] = (tmp_path / name / "model.safetensors").read_bytes()
    assert bits["with"] == bits["again"]
    assert bits["with"] != bits["without"]
    model, _ = load_model(tmp_path / "with")  # the reward model and PPO start from it without dropout
    assert {block.dropout.p for block in model.blocks} == {0.0}
    model.drop_residuals(0.2)
    tokens = torch.arange(12)[None]
    assert not torch.equal(model.train()(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))
    dropped = torch.stack([model.train().blocks[0].dropout(torch.ones(4000)) for _ in range(2)])
    assert (dropped == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(dropped[0], dropped[1])


def _breaks_after(calls: int) -> Callable[..., torch.Tensor]:
    left = iter(range(calls))

    def breaks(*args: object) -> torch.Tensor:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return summed_nats(*args)

    return breaks


def test_a_wrong_role_names_file_and_line(inputs: dict[str, Path], pretrained: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    wrong = {"id": "x", "messages": [{"role": "user", "content": "hi"}, {"role": "robot", "content": "beep"}]}
    own.write_text(conversation("mine", "grass").model_dump_json() + "\n" + json.dumps(wrong), encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.jsonl, line 2: messages\.1\.role"):
        sft.run(SftConfig(**QUICK, data=own), {**inputs, "pretrain": pretrained}, tmp_path)


def test_an_empty_file_is_one_sentence(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no conversations"):
        as_examples([], tmp_path / "own.jsonl", tokenizer, 64)


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


def test_no_room_cuts_a_turn_or_a_token_of_the_template(tokenizer: Tokenizer) -> None:
    system = Message(role="system", content="Be kind.")
    for before in ([], [system]):
        messages = [*before, *conversation("a", "snow", turns=3).messages]
        whole = example(tokenizer, messages)
        sizes = {len(before) + 2 * n: len(example(tokenizer, messages[: len(before) + 2 * n]).ids) for n in (1, 2, 3)}
        for context in range(1, len(whole.ids) + 1):
            kept = fitting(tokenizer, messages, context)
            fits = [count for count, size in sizes.items() if size - 1 <= context]
            assert len(kept) == max(fits, default=0)
            if kept:
                found = example(tokenizer, kept)
                assert found.ids == whole.ids[: len(found.ids)]
                assert found.mask == whole.mask[: len(found.ids)]
                assert found.ids[-1] == tokenizer.end_of_turn
                assert found.mask[-1]


def test_a_single_turn_longer_than_the_context_is_left_out_and_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    long = conversation("long", "snow")
    long = long.model_copy(update={"messages": [long.messages[0], Message(role="assistant", content="white " * 500)]})
    examples, cut = as_examples([conversation("a", "coal"), long], tmp_path / "talks.jsonl", tokenizer, 64)
    assert [found.name for found in examples] == ["a"]
    assert cut == 1


def test_shortened_and_dropped_conversations_are_counted(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    talks = [conversation("a", "snow", turns=1), conversation("b", "coal", turns=3)]
    room = len(example(tokenizer, talks[0].messages).ids)
    examples, cut = as_examples(talks, path, tokenizer, room)
    assert (len(examples), cut) == (2, 1)
    with pytest.raises(UserError, match="fits into the model's context of 5 tokens"):
        as_examples(talks, path, tokenizer, 5)


@pytest.mark.parametrize("name", ["modern", "gpt2"])
def test_packing_changes_neither_loss_nor_gradient(name: str, tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    sizes = {key: value for key, value in MODEL.items() if key not in ("preset", "context", "kv_heads")}
    model = Decoder(preset(name, vocab_size=tokenizer.vocab_size, context=160, dropout=0.0, **sizes))
    talks = [conversation(f"c{i}", thing, turns=1 + i % 3) for i, thing in enumerate(["snow", "coal", "sky"] * 2)]
    examples = [example(tokenizer, talk.messages) for talk in talks]
    packed = Packed(examples, 160, tokenizer.pad, seed=0)
    assert len(packed) < len(examples)
    found = []
    for rows in ([packed], [Packed([one], len(one.ids) - 1, 3, seed=0) for one in examples]):
        model.zero_grad()
        nats = [summed_nats(model, row.rows(range(len(row)))) for row in rows]
        torch.stack(nats).sum().backward()
        found.append((float(sum(nats)), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (together, gradients), (alone, gradients_alone) = found
    assert together == pytest.approx(alone, rel=1e-5)
    for a, b in zip(gradients, gradients_alone, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_a_share_that_leaves_no_rows_for_conversations_is_refused() -> None:
    with pytest.raises(ValidationError, match="leaves none for conversations"):
        SftConfig(batch=1, pretrain_share=0.1)
    assert SftConfig(batch=16, pretrain_share=0.1).text_rows == 2
    assert SftConfig(batch=16, pretrain_share=0.0).text_rows == 0
