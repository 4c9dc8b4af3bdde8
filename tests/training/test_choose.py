from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from chatwright.errors import UserError
from chatwright.flow import graph
from chatwright.flow.recipe import read_recipe
from chatwright.model.decoder import Decoder
from chatwright.model.folder import load_reward, save_model, save_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.model.presets import preset
from chatwright.stage import read_metrics
from chatwright.storage import read_json, write_jsonl
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training import choose
from chatwright.training.choose import ChooseConfig
from chatwright.training.guards import RunStopped
from chatwright.training.sft import KEPT
from tests.conftest import TinyRun, chatwright

from .conftest import MODEL


@pytest.fixture
def sources(inputs: dict[str, Path], tokenizer: Tokenizer, tmp_path: Path) -> dict[str, Path]:
    """Three models, the second of which only ever ends its turn, and a reward model."""
    sizes = {key: value for key, value in MODEL.items() if key not in ("preset", "context")}
    config = preset("modern", vocab_size=tokenizer.vocab_size, context=96, **sizes)
    conversations = tmp_path / "conversations"
    conversations.mkdir()
    source = inputs["conversations"] / "demonstrations_heldout.jsonl"
    (conversations / source.name).write_bytes(source.read_bytes())
    write_jsonl(conversations / "prompts_heldout.jsonl", [])
    for number in (4, 8, 12):
        torch.manual_seed(number)
        model = Decoder(config)
        if number == 8:
            with torch.no_grad():  # every state is alike, and only one token points its way
                model.norm.weight.zero_()
                model.norm.weight[0] = 1.0
                for block in model.blocks:
                    block.attention.out.weight.zero_()
                    block.mlp.down.weight.zero_()
                model.embedding.weight[:, 0] = 1.0
                model.embedding.weight[tokenizer.end_of_turn, 0] = 60.0
        save_model(model, tmp_path / "sft" / KEPT / f"step-{number:06}", tokenizer)
    torch.manual_seed(0)
    reward = ScoredDecoder(Decoder(config), torch.Generator().manual_seed(0))
    save_reward(reward, tmp_path / "reward", tokenizer)
    return {"sft": tmp_path / "sft", "reward": tmp_path / "reward", "conversations": conversations}


def test_the_model_with_the_highest_mean_reward_is_left(sources: dict[str, Path], tmp_path: Path) -> None:
    config = ChooseConfig(prompts=4, max_tokens=8, missing_eos_score=-100.0, dtype="float32")
    for name in ("out", "again"):
        (tmp_path / name).mkdir()
    out = tmp_path / "out"
    headline = choose.run(config, sources, out)
    assert headline["chosen"] == "step-000008"  # the others run into the limit
    assert headline["reward"] > -50 > headline["reward_of_last"]
    chosen = sources["sft"] / KEPT / "step-000008" / "model.safetensors"
    assert (out / "model.safetensors").read_bytes() == chosen.read_bytes()
    choice = read_json(out / "choice.json")
    assert choice["rewards"]["step-000008"] == max(choice["rewards"].values())
    assert [line["step"] for line in read_metrics(out)] == [4, 8, 12]
    alone = choose.run(config.model_copy(update={"batch_size": 1}), sources, tmp_path / "again")
    assert alone["reward"] == pytest.approx(headline["reward"], abs=1e-5)


def test_a_run_that_broke_off_asks_only_the_models_that_are_left(
    sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ChooseConfig(prompts=4, max_tokens=8, dtype="float32")
    for name in ("straight", "out"):
        (tmp_path / name).mkdir()
    choose.run(config, sources, tmp_path / "straight")
    asked: list[str] = []
    load = choose.load_model

    def breaks_off(folder: Path) -> tuple[Decoder, Tokenizer]:
        asked.append(folder.name)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return load(folder)

    monkeypatch.setattr(choose, "load_model", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        choose.run(config, sources, tmp_path / "out")
    choose.run(config, sources, tmp_path / "out")
    assert asked[:4] == ["step-000004", "step-000008", "step-000012", "step-000012"]
    assert len(asked) == 5  # and the one that was chosen
    for name in ("choice.json", "model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert [line["step"] for line in read_metrics(tmp_path / "out")] == [4, 8, 12]


def test_a_broken_reward_model_chooses_nothing(sources: dict[str, Path], tmp_path: Path) -> None:
    model, tokenizer = load_reward(sources["reward"])
    model.head.weight.data.fill_(float("nan"))
    save_reward(model, tmp_path / "broken", tokenizer)
    config = ChooseConfig(prompts=2, max_tokens=2, dtype="float32")
    with pytest.raises(RunStopped, match=r"not all rewards of step-000008 are finite\."):
        choose.run(config, {**sources, "reward": tmp_path / "broken"}, tmp_path)
    assert not (tmp_path / "choice.json").exists()


def test_models_of_a_variant_are_asked_for_by_its_name() -> None:
    reads = ChooseConfig(among="sft@baseline").reads(choose.STAGE.inputs)
    assert reads == {"sft": "sft@baseline", "reward": "reward", "conversations": "conversations"}


@pytest.mark.slow
def test_a_recipe_goes_through_choose_to_ppo_and_the_report(tiny_run: TinyRun, tmp_path: Path) -> None:
    """PPO starts from the chosen model and is judged by two reward models; what was made before is taken up."""
    out = Path(shutil.copytree(tiny_run.out, tmp_path / "out"))
    together = 'ppo.rewards=[{models=["reward", "reward@seed2"], combine="worst"}]'
    settings = ["sft@kept.keep_epochs=0.25", 'choose.among="sft@kept"', "choose.max_tokens=8", "choose.prompts=5"]
    settings += ["reward@seed2.seed=2", together, 'ppo.start="choose"']
    words = [word for setting in settings for word in ("--set", setting)]
    result = chatwright("run", tiny_run.recipe, "--out", out, "--json", *words)
    assert result.status == 0, result.errors
    made = json.loads(result.output)["stages"]
    new = {name for name, stage in made.items() if stage["state"] == "made"}
    assert new == {"sft@kept", "reward@seed2", "choose", "ppo", "evaluate", "report"}
    assert made["choose"]["headline"]["models"] > 1
    inputs = read_json(out / "ppo" / "manifest.json")["inputs"]
    assert set(inputs) == {"choose", "reward", "reward@seed2", "conversations", "shards"}
    assert abs(read_metrics(out / "ppo")[0]["kl"]) < 0.05, "it is its own reference, to bfloat16's rounding"
    talks = read_json(out / "evaluate" / "samples.json")[0]["talks"]
    assert list(talks) == ["pretrain", "sft", "choose", "ppo"]
    assert "Chosen by reward" in (out / "report" / "report.html").read_text()


def test_a_stage_starts_from_an_earlier_model_that_answers(tiny: Path) -> None:
    def parts(*overrides: str) -> dict[str, str]:
        return graph.parts(read_recipe(tiny, ["choose={}", "dpo={}", *overrides]))["dpo"]

    assert parts() == {"sft": "sft", "compare": "compare"}
    assert parts('dpo.start="choose"') == {"sft": "choose", "compare": "compare"}
    with pytest.raises(UserError, match="dpo reads ppo, which does not come before it on the road"):
        parts('dpo.start="ppo"')
    with pytest.raises(UserError, match="dpo reads sft@b, which `stages` leaves out"):
        parts('dpo.start="sft@b"')
    with pytest.raises(UserError, match=r"\[dpo\] start = \"reward\" is not valid: it must be an instance of"):
        parts('dpo.start="reward"')


def test_nothing_to_choose_among_is_one_sentence(sources: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kept no models to choose among; set keep_epochs = 1 for sft"):
        choose.run(ChooseConfig(), {**sources, "sft": sources["reward"]}, tmp_path)
