"""Stage import: a model that was made elsewhere takes the place of a stage of the road (a recipe's ``[start]``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.storage import read_json


class ImportConfig(StageConfig):
    """What is taken, and which stage it stands for.

    model: a model folder, such as that of a stage of another run, or a GGUF file; of a reward model, a folder.
    """

    stands_for: Literal["tokenizer", "pretrain", "sft", "reward"]
    model: Path


def run(config: ImportConfig, inputs: Inputs, out: Path) -> Headline:
    """Write what the stage that it stands for would have left: all that comes after reads it from here."""
    from chatwright.model.convert import write_model  # imports PyTorch, which reading a recipe need not wait for
    from chatwright.model.folder import load_reward, save_reward
    from chatwright.tokenizer.bpe import Tokenizer

    headline: dict[str, Any] = {"model": config.model.name}
    made_by = config.model / "manifest.json"
    if made_by.is_file():  # a stage of another run: the way back goes on there
        manifest = read_json(made_by)
        headline |= {"instance": manifest["instance"], "key": manifest["key"]}
    if config.stands_for == "tokenizer":
        tokenizer = Tokenizer.load(config.model)
        tokenizer.save(out)
        return headline | {"vocab_size": tokenizer.vocab_size}
    if config.stands_for == "reward":
        model, tokenizer = load_reward(config.model)
        save_reward(model, out, tokenizer)
        return headline | {"parameters": sum(p.numel() for p in model.parameters())}
    written = write_model(config.model, out)
    return headline | {"layout": written.layout, "parameters": written.parameters, "context": written.context}


STAGE = Stage(
    name="import",
    version=1,
    config=ImportConfig,
    inputs=(),
    run=run,
    summary="take a model that was made elsewhere",
)
