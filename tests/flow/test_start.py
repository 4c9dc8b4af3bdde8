"""A recipe that begins with models made elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.flow import graph, run
from chatwright.flow.lineage import back
from chatwright.flow.manifest import read_manifest
from chatwright.flow.recipe import read_recipe
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_model, save_model
from chatwright.model.presets import preset
from chatwright.storage import write_json
from chatwright.tokenizer.bpe import Tokenizer, train_bpe

PAIRS = [(f"{i}: What is the color of snow?", "It is white.", "It is black, or it is not.") for i in range(30)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    tokenizer = train_bpe(["user assistant What is the color of snow? It is white. "] * 20, 300)
    torch.manual_seed(0)
    config = preset("modern", vocab_size=tokenizer.vocab_size, context=128, layers=1, d_model=32, heads=2)
    save_model(Decoder(config), tmp_path / "elsewhere", tokenizer)
    return tmp_path / "elsewhere"


def write(folder: Path, text: str) -> Path:
    lines = (f'{{"prompt": "{asked}", "chosen": "{good}", "rejected": "{bad}"}}' for asked, good, bad in PAIRS)
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    (folder / "r.toml").write_text(text)
    return folder / "r.toml"


RECIPE = """
name = "start"
stages = ["reward"]
[start]
sft = "elsewhere"
[reward]
data = "pairs.jsonl"
batch = 8
heldout = 0.3
eval_every = 100
"""


def test_a_reward_model_from_a_model_made_elsewhere(model: Path, tmp_path: Path) -> None:
    path, out = write(tmp_path, RECIPE), tmp_path / "out"
    recipe = read_recipe(path)
    assert graph.parts(recipe) == {"sft": {}, "reward": {"sft": "sft"}}
    outcomes = run.run_recipe(recipe, out)
    assert [(outcome.name, outcome.state) for outcome in outcomes] == [("sft", "made"), ("reward", "made")]
    made = read_manifest(out / "sft")
    assert made is not None
    assert (made.stage, made.instance) == ("import", "sft")
    assert list(made.user_files) == [str(model)]
    assert torch.equal(load_model(out / "sft")[0].embedding.weight, load_model(model)[0].embedding.weight)
    assert [origin.name for origin in back(out / "reward" / "model.safetensors").stages] == ["reward", "sft"]
    again = run.run_recipe(read_recipe(path), out)
    assert {outcome.state for outcome in again} == {"done before"}


def test_another_model_changes_the_keys_and_one_that_was_moved_does_not(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    keys = graph.keys(read_recipe(path))
    model.rename(tmp_path / "moved")
    assert graph.keys(read_recipe(path, [f"start.sft={tmp_path / 'moved'}"])) == keys
    weights, tokenizer = load_model(tmp_path / "moved")
    with torch.no_grad():
        weights.embedding.weight[0] += 1
    save_model(weights, model, tokenizer)
    changed = graph.keys(read_recipe(path))
    assert changed["sft"] != keys["sft"]
    assert changed["reward"] != keys["reward"]


def test_a_stage_of_another_run_is_named_with_its_key(model: Path, tmp_path: Path) -> None:
    write_json(model / "manifest.json", {"instance": "sft@long", "key": "abc"})
    path = write(tmp_path, RECIPE.replace('stages = ["reward"]', "stages = []"))
    (outcome,) = run.run_recipe(read_recipe(path), tmp_path / "out")
    assert outcome.manifest.headline["instance"] == "sft@long"
    assert outcome.manifest.headline["key"] == "abc"


def test_a_tokenizer_is_taken_alone(model: Path, tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "x"\nstages = []\nstart = { tokenizer = "elsewhere" }')
    run.run_recipe(read_recipe(path), tmp_path / "out")
    assert Tokenizer.load(tmp_path / "out" / "tokenizer").hash == Tokenizer.load(model).hash
    assert not (tmp_path / "out" / "tokenizer" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[start]\nsft = "gone"', "[start] sft names"),
        ('[start]\nppo = "elsewhere"', "[start] ppo cannot be a model that was made elsewhere; there are tokenizer,"),
        ('[start]\nsft = "elsewhere"\n[sft]\nepochs = 1', "sft starts from elsewhere, so nothing reads [sft]"),
        ("[start]\nsft = 3", "start.sft = 3 is not valid"),
    ],
)
def test_a_mistake_is_one_sentence(model: Path, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        read_recipe(write(tmp_path, f'name = "x"\nstages = ["reward"]\n{text}'))
    assert said in str(refused.value)


def test_choose_is_there_when_it_is_asked_for(tmp_path: Path) -> None:
    text = 'name = "x"\n[corpus.sources.pairs]\npath = "pairs.jsonl"\n'
    assert "choose" not in read_recipe(write(tmp_path, text)).names
    asked = text + '[choose]\namong = "sft@b"\n[sft.variants.b]\nkeep_epochs = 1'
    assert graph.parts(read_recipe(write(tmp_path, asked)))["choose"]["sft"] == "sft@b"
    with pytest.raises(UserError, match=r"choose reads sft@c, which `stages` leaves out"):
        graph.parts(read_recipe(write(tmp_path, text + '[choose]\namong = "sft@c"')))
