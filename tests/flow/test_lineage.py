"""Lineage: from a file back to the documents, and from a document forward to the models."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatwright.corpus.table import Row, write_rows
from chatwright.errors import UserError
from chatwright.flow.lineage import back, forward
from chatwright.flow.recipe import read_recipe
from chatwright.flow.run import run_recipe
from chatwright.stage import Stage, StageConfig


def _corpus(config: StageConfig, inputs: object, out: Path) -> dict[str, object]:
    rows = [Row(f"web/{i}", "web", None, "text", 9, split="train") for i in range(3)]
    rows += [Row("book/1", "book", None, "text", 9, split="heldout")]
    rows += [Row("web/bad", "web", None, "", 9, dropped_by="quality", reason="score")]
    write_rows(out / "documents.parquet", rows)
    return {}


def _shards(config: StageConfig, inputs: object, out: Path) -> dict[str, object]:
    columns = {"id": ["web/0", "web/1", "web/2", "book/1"], "tokens": [1, 1, 1, 1], "times": [2, 1, 0, 0]}
    pq.write_table(pa.table(columns), out / "exposures.parquet")
    return {}


def _model(config: StageConfig, inputs: object, out: Path) -> dict[str, object]:
    (out / "model.safetensors").write_bytes(b"weights")
    return {}


ROAD = {
    "corpus": Stage("corpus", 1, StageConfig, (), _corpus, ""),
    "shards": Stage("shards", 1, StageConfig, ("corpus",), _shards, ""),
    "apart": Stage("apart", 1, StageConfig, (), _model, ""),
    "pretrain": Stage("pretrain", 1, StageConfig, ("shards",), _model, ""),
    "sft": Stage("sft", 1, StageConfig, ("pretrain", "apart"), _model, ""),
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    path.write_text('name = "small"')
    return path


@pytest.fixture(scope="module")
def made(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "small"
    run_recipe(read_recipe(recipe, (), ROAD), out)
    return out


def test_a_model_leads_back_to_the_raw_documents(made: Path) -> None:
    found = back(made / "sft" / "model.safetensors")
    assert [origin.name for origin in found.stages] == ["sft", "pretrain", "apart", "shards", "corpus"]
    assert found.stages[0].inputs == ("pretrain", "apart")
    assert found.documents == {"book": 1, "web": 3}
    assert not found.changed
    assert "3 documents of web" in found.as_text()


def test_a_file_that_was_changed_says_so(made: Path) -> None:
    weights = made / "apart" / "model.safetensors"
    weights.write_bytes(b"other weights")
    try:
        assert back(weights).changed
        assert not back(made / "apart" / "manifest.json").changed
    finally:
        weights.write_bytes(b"weights")


@pytest.mark.parametrize(
    ("document", "times", "models"),
    [("web/0", 2, ("pretrain", "sft")), ("web/2", 0, ()), ("book/1", 0, ()), ("web/bad", 0, ())],
)
def test_a_document_leads_forward_to_the_models_that_learned_from_it(
    made: Path, document: str, times: int, models: tuple[str, ...]
) -> None:
    found = forward(made, document)
    assert found.times == times
    assert found.models == models
    assert found.stages == ("shards", "pretrain", "sft")
    assert found.document in found.as_text()


def test_a_stage_made_of_an_earlier_input_says_so(recipe: Path, tmp_path: Path) -> None:
    run_recipe(read_recipe(recipe, (), ROAD), tmp_path / "out")
    run_recipe(read_recipe(recipe, ["corpus.seed=5"], ROAD), tmp_path / "out", until="corpus")
    replaced = {origin.name: origin.replaced for origin in back(tmp_path / "out" / "pretrain").stages}
    assert replaced == {"pretrain": (), "shards": ("corpus",), "corpus": ()}


def test_what_no_stage_made_and_an_unknown_document_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies in no finished stage"):
        back(made / "run.json")
    with pytest.raises(UserError, match="does not exist"):
        back(tmp_path / "gone")
    with pytest.raises(UserError, match="has no document 'web/9'"):
        forward(made, "web/9")
