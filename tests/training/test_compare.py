"""The stage compare: answers and rankings depend on the prompt's id and the seed, never on order or batching."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from chatwright.errors import UserError
from chatwright.inference.engine import Engine
from chatwright.labelling.simulated import gold_score
from chatwright.model.decoder import Decoder, init_weights
from chatwright.model.folder import save_model
from chatwright.model.presets import preset
from chatwright.records import Comparison, Gold, Message, Question
from chatwright.storage import read_jsonl, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer, train_bpe
from chatwright.training.compare import (
    STAGE,
    CompareConfig,
    Ranked,
    answer_count,
    compare,
    read_prompts,
    sample,
    summary,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["user assistant What is the capital of France? The capital of France is Paris."] * 4, 280)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Decoder:
    torch.set_num_threads(1)
    sizes = {"vocab_size": tokenizer.vocab_size, "context": 64, "layers": 1, "d_model": 16, "heads": 1}
    model = Decoder(preset("modern", **sizes))
    init_weights(model, torch.Generator().manual_seed(1))
    return model


def questions(prefix: str, count: int) -> list[Question]:
    gold = Gold(kind="fact", right=[["a"]], wrong=["b"])
    return [
        Question(id=f"{prefix}{i}", messages=[Message(role="user", content=f"Capital {i}?")], gold=gold, check="")
        for i in range(count)
    ]


@pytest.fixture
def inputs(tmp_path: Path, model: Decoder, tokenizer: Tokenizer) -> dict[str, Path]:
    folders = {"sft": tmp_path / "sft", "conversations": tmp_path / "conversations"}
    save_model(model, folders["sft"], tokenizer)
    write_jsonl(folders["conversations"] / "prompts.jsonl", questions("p", 10))
    write_jsonl(folders["conversations"] / "prompts_heldout.jsonl", questions("h", 4))
    return folders


def ranked(config: CompareConfig, engine: Engine, asked: list[Question]) -> list[Ranked | None]:
    return compare(config, asked, [sampled.answers for sampled in sample(config, engine, asked)])


def run(inputs: dict[str, Path], out: Path, **changes: Any) -> dict[str, Any]:
    out.mkdir()
    return STAGE.run(CompareConfig(**{"max_tokens": 4} | changes), inputs, out)


def test_the_files_hold_ranked_distinct_answers_with_their_gold_scores(inputs: dict[str, Path], tmp_path: Path) -> None:
    headline = run(inputs, tmp_path / "out")
    training = read_jsonl(tmp_path / "out" / "comparisons.jsonl", Comparison)
    heldout = read_jsonl(tmp_path / "out" / "comparisons_heldout.jsonl", Comparison)
    assert [item.id for item in training] == [f"p{i}" for i in range(10)]
    assert [item.id for item in heldout] == [f"h{i}" for i in range(4)]
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    scores = {line["id"]: line["scores"] for line in lines}
    gold = questions("p", 1)[0].gold
    for item in training + heldout:
        assert 2 <= len(item.answers) <= 9
        assert len(set(item.answers)) == len(item.answers)
        for answer, score in zip(item.answers, scores[item.id], strict=True):
            assert score in {gold_score(gold, answer, finished) for finished in (True, False)}
    assert headline["prompts"] == 14
    assert headline["answers"] == sum(len(item.answers) for item in training + heldout)
    assert headline["skipped"] == 0
    assert 0 <= headline["tie_share"] <= 1


def test_a_run_that_broke_off_samples_only_the_rest(
    inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatwright.training.compare.PROMPTS_AT_ONCE", 3)
    run(inputs, tmp_path / "straight")
    asked: list[int] = []
    generate = Engine.generate

    def breaks_off(self: Engine, prompts: Any, samplings: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(prompts))
        return generate(self, prompts, samplings)

    monkeypatch.setattr(Engine, "generate", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "out")
    asked[:] = [-1, -1, -1]  # from now on it counts
    STAGE.run(CompareConfig(max_tokens=4), inputs, tmp_path / "out")
    assert len(asked) == 3 + 3  # of five parts, the 14 prompts by threes, two were there
    for name in ("comparisons.jsonl", "comparisons_heldout.jsonl", "scores.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_order_and_batching_change_nothing(model: Decoder, tokenizer: Tokenizer) -> None:
    config = CompareConfig(max_tokens=4)
    asked = questions("p", 8)
    forwards = sample(config, Engine(model, tokenizer, 64), asked)
    backwards = sample(config, Engine(model, tokenizer, 3), asked[::-1])[::-1]
    assert forwards == backwards


def test_answers_to_other_prompts_fill_up_to_k_in_turn_on_the_same_subject_and_on_any() -> None:
    config = CompareConfig(misplaced=2)
    asked = [
        question.model_copy(update={"subject": "s" if i < 4 else ""}) for i, question in enumerate(questions("p", 40))
    ]
    own = [{f"answer {i}": True} for i in range(40)]
    for i, item in enumerate(compare(config, asked, own)):
        assert item is not None
        answers = item.comparison.answers
        assert len(answers) == answer_count(config, asked[i].id)
        assert answers[0] == f"answer {i}"
        if i < 4:
            near = {f"answer {j}" for j in range(4)} & set(answers[1:])
            assert answers[1] in near
            assert len(near) >= min(3, len(answers) // 2)
            assert set(answers[1:]) - near


def test_the_seed_changes_answers_and_ranking(inputs: dict[str, Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        run(inputs, tmp_path / str(seed), seed=seed)
    files = [(tmp_path / str(seed) / "comparisons.jsonl").read_bytes() for seed in (1, 2)]
    assert files[0] != files[1]


def test_a_second_run_writes_the_same_bytes(inputs: dict[str, Path], tmp_path: Path) -> None:
    for name in ("first", "second"):
        run(inputs, tmp_path / name)
    for file in ("comparisons.jsonl", "comparisons_heldout.jsonl", "scores.jsonl"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


def test_answer_counts_cover_the_range_evenly() -> None:
    counts = [answer_count(CompareConfig(), f"id {i}") for i in range(6000)]
    assert sorted(set(counts)) == [4, 5, 6, 7, 8, 9]
    assert all(abs(counts.count(k) - 1000) < 120 for k in range(4, 10))


def test_without_noise_the_labeller_agrees_with_itself_and_with_gold(model: Decoder, tokenizer: Tokenizer) -> None:
    asked = questions("p", 20)
    for noise, agrees in ((0.0, True), (3.0, False)):
        config = CompareConfig(max_tokens=4, noise=noise, tie_margin=1e-9)
        items = ranked(config, Engine(model, tokenizer), asked)
        figures = summary([item for item in items if item is not None])
        assert (figures["gold_agreement"] == 1) == agrees
        assert (figures["self_agreement"] == 1) == agrees


def test_a_prompt_with_one_distinct_answer_is_skipped(model: Decoder, tokenizer: Tokenizer) -> None:
    config = CompareConfig(max_tokens=1, temperature=1e-4, misplaced=0)  # as good as greedy
    assert ranked(config, Engine(model, tokenizer), questions("p", 3)) == [None, None, None]


def test_a_model_that_always_says_the_same_is_a_user_error(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raise compare.temperature"):
        run(inputs, tmp_path / "out", temperature=1e-4, misplaced=0)


def test_prompts_can_be_limited(inputs: dict[str, Path], tmp_path: Path) -> None:
    assert run(inputs, tmp_path / "out", prompts=3)["prompts"] == 6


def test_prompts_can_begin_later_and_go_round(inputs: dict[str, Path], tokenizer: Tokenizer) -> None:
    config = CompareConfig(prompts=4, offset=18)
    path = inputs["conversations"] / "prompts.jsonl"
    asked = read_prompts(path, config, tokenizer, 64)
    assert [question.id for question in asked] == ["p8", "p9", "p0", "p1"]
    whole = read_prompts(path, CompareConfig(offset=3), tokenizer, 64)
    assert len({question.id for question in whole}) == 10


def test_an_empty_range_of_answers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"answers_min \(9\) is above answers_max \(4\)"):
        CompareConfig(answers_min=9, answers_max=4)
