"""Stage best: the better of two policies goes on, the round's own or the best before it, as their match ended."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from chatwright.flywheel.match import ANSWERS, Met, win_rate
from chatwright.model.folder import load_model, save_model
from chatwright.stage import Headline, Inputs, Stage, StageConfig, say
from chatwright.storage import read_jsonl


class BestConfig(StageConfig):
    """gate: the least share of the match's prompts that the round's policy must win, a tie counting half."""

    gate: float = Field(default=0.5, ge=0, le=1)


def run(config: BestConfig, inputs: Inputs, out: Path) -> Headline:
    """Leave ``policy`` in ``out`` where it won enough against ``previous``, and else that one."""
    met = read_jsonl(inputs["match"] / ANSWERS, Met)
    won, *_ = win_rate([each.gold["policy"] for each in met], [each.gold["previous"] for each in met])
    kept = "policy" if won >= config.gate else "previous"
    model, tokenizer = load_model(inputs[kept])
    save_model(model, out, tokenizer)
    say(f"  best: the round's policy won {won:.1%} of {len(met):,} prompts; {inputs[kept].name} goes on")
    return {"won": won, "promoted": kept == "policy"}


STAGE = Stage(
    name="best",
    version=1,
    config=BestConfig,
    inputs=("policy", "previous", "match"),
    run=run,
    summary="keep the better of the round's policy and the best before it",
)
