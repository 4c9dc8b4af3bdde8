from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from chatwright.corpus.explain import explain
from chatwright.corpus.stage import CorpusConfig, SourceConfig, run
from chatwright.corpus.table import read_kept
from chatwright.errors import UserError
from chatwright.records import Gold, Message, Question
from chatwright.storage import file_digest, read_json, write_json, write_jsonl

ASKED = "Which hidden lake lies north of the old Ruritanian capital?"


RIVER = "river valley town history people of the and in was kingdom treaty century old"


def _prose(rng: random.Random, vocabulary: str) -> str:
    return " ".join(rng.choices(vocabulary.split(), k=rng.randint(60, 120)))


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    rng = random.Random(0)
    good = [_prose(rng, RIVER) for _ in range(60)]
    raw = [_prose(rng, "click buy cheap now free the offer of win prize and in visit link order") for _ in range(150)]
    raw += [_prose(rng, RIVER) for _ in range(60)]
    raw += good[:5]  # exact copies of curated text
    raw += [text + " and more" for text in good[5:9]]  # near copies
    raw += [_prose(rng, RIVER) + " " + ASKED, "<p> &nbsp; </p>"]
    for folder, texts in (("good", good), ("raw", raw)):
        (tmp_path / folder).mkdir()
        for i, text in enumerate(texts):
            (tmp_path / folder / f"{i:03}.html").write_text(f"<p>{text}</p>", encoding="utf-8")
    conversations = tmp_path / "conversations"
    question = Question(
        id="q", messages=[Message(role="user", content=ASKED)], gold=Gold(kind="unknown"), check="unknown"
    )
    write_jsonl(conversations / "questions.jsonl", [question])
    return {"conversations": conversations}


@pytest.fixture
def config(tmp_path: Path) -> CorpusConfig:
    return CorpusConfig(
        sources={
            "good": SourceConfig(path=str(tmp_path / "good"), curated=True, weight=2),
            "raw": SourceConfig(path=str(tmp_path / "raw"), filter=True),
        },
        heldout_fraction=0.1,
    )


def _rows(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "documents.parquet").to_pylist()


def test_every_document_is_kept_with_a_split_or_dropped_with_a_reason(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    headline = run(config, inputs, tmp_path / "out")
    rows = _rows(tmp_path / "out")
    assert len([row for row in rows if row["piece_of"] is None]) == 60 + 150 + 60 + 5 + 4 + 2
    for row in rows:
        assert (row["dropped_by"] is None) == (row["reason"] is None) == (row["split"] is not None)
    assert headline["kept"] == sum(row["dropped_by"] is None for row in rows)
    by = {step: [r for r in rows if r["dropped_by"] == step] for step in {row["dropped_by"] for row in rows}}
    assert len(by["exact_duplicate"]) == 5
    assert len(by["extract"]) == 1
    assert len(by["quality"]) > 100
    assert all(row["source"] == "raw" for step in ("exact_duplicate", "near_duplicate", "quality") for row in by[step])
    assert all("good/" in row["duplicate_of"] for row in by["exact_duplicate"] + by["near_duplicate"])


def test_the_report_counts_every_document_once(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run(config, inputs, tmp_path / "out")
    report = read_json(tmp_path / "out" / "report.json")
    for counts in report["sources"].values():
        left = sum(number for what, number in counts.items() if what not in ("documents", "pieces"))
        assert left == counts["documents"] + counts.get("pieces", 0)
    assert report["quality_auc"] > 0.8
    mixture = read_json(tmp_path / "out" / "mixture.json")["sources"]
    assert mixture["good"]["weight"] == pytest.approx(2 / 3)


def test_no_kept_document_holds_the_evaluation_question(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    plain = config.model_copy(
        update={"sources": {name: s.model_copy(update={"filter": False}) for name, s in config.sources.items()}}
    )
    run(plain, inputs, tmp_path / "out")
    kept = read_kept(tmp_path / "out", "train") + read_kept(tmp_path / "out", "heldout")
    assert kept
    assert not any(ASKED in document.text for document in kept)
    assert any(row["dropped_by"] == "decontamination" for row in _rows(tmp_path / "out"))


def test_the_same_input_gives_the_same_bytes(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in ("one", "two"):
        run(config, inputs, tmp_path / name)
    for file in ("documents.parquet", "mixture.json", "report.json"):
        assert file_digest(tmp_path / "one" / file) == file_digest(tmp_path / "two" / file)


def test_every_source_has_a_held_out_document_and_most_of_it_in_training(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run(config, inputs, tmp_path / "out")
    splits = {
        source: [r["split"] for r in _rows(tmp_path / "out") if r["source"] == source and r["split"]]
        for source in config.sources
    }
    for found in splits.values():
        assert 1 <= found.count("heldout") < len(found) / 2


def test_explain_tells_a_documents_story(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    run(config, inputs, tmp_path / "corpus")
    rows = _rows(tmp_path / "corpus")
    dropped = next(row for row in rows if row["dropped_by"] == "quality")
    story = "\n".join(explain(tmp_path, dropped["id"]))
    assert f"{dropped['quality_score']:.3f}" in story
    assert "left out by quality" in story
    kept = next(row for row in rows if row["split"] == "train")
    assert "no shard has been written yet" in "\n".join(explain(tmp_path, kept["id"]))
    shards = tmp_path / "shards"
    shards.mkdir()
    pq.write_table(pa.table({"id": [kept["id"]], "tokens": [12], "times": [3]}), shards / "exposures.parquet")
    reads = {"shards": ["corpus"], "pretrain": ["shards"], "sft": ["pretrain"], "elsewhere": ["corpus"]}
    for name, inputs_read in reads.items():
        write_json(tmp_path / name / "manifest.json", {"inputs": dict.fromkeys(inputs_read, "key")})
    story = "\n".join(explain(tmp_path, kept["id"]))
    assert "3 times in the training shard" in story
    assert "pretrain, sft." in story
    assert "elsewhere" not in story
    with pytest.raises(UserError, match="no document"):
        explain(tmp_path, "nonsense")


def test_an_empty_corpus_is_a_user_error_and_leaves_no_file(inputs, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.jsonl").write_text("\n")
    for content in ("\n", '{"text": " "}\n', '{"text": "only one document"}\n'):
        (tmp_path / "one" / "a.jsonl").write_text(content)
        with pytest.raises(UserError, match=r"empty|Fewer than two"):
            run(CorpusConfig(sources={"x": SourceConfig(path=str(tmp_path / "one"))}), inputs, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_filter_without_curated_text_is_a_user_error(inputs, config, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="curated"):
        run(config.model_copy(update={"sources": {"raw": config.sources["raw"]}}), inputs, tmp_path / "out")


def test_a_source_cannot_be_curated_and_filtered() -> None:
    with pytest.raises(ValidationError, match="not both"):
        SourceConfig(curated=True, filter=True)
