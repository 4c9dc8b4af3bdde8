"""Stage pool: the comparisons of all rounds so far as one set, which the round's reward model learns from."""

from __future__ import annotations

from pathlib import Path

from chatwright.records import Comparison
from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.storage import read_jsonl, write_jsonl
from chatwright.training.reward import Scores

SETS = ("comparisons.jsonl", "comparisons_heldout.jsonl")
SCORES = "scores.jsonl"  # left by a labeller whose scale is known; people have none


def run(config: StageConfig, inputs: Inputs, out: Path) -> Headline:
    """Write what ``compare`` writes. Each input is a round's; its name goes before the ids: prompts may come again."""
    sizes = {}
    for name in SETS:
        gathered = [
            comparison.model_copy(update={"id": f"{part}/{comparison.id}"})
            for part, folder in inputs.items()
            for comparison in read_jsonl(folder / name, Comparison)
        ]
        write_jsonl(out / name, gathered)
        sizes[name] = gathered
    if all((folder / SCORES).exists() for folder in inputs.values()):
        scores = [
            record.model_copy(update={"id": f"{part}/{record.id}"})
            for part, folder in inputs.items()
            for record in read_jsonl(folder / SCORES, Scores)
        ]
        write_jsonl(out / SCORES, scores)
    training, heldout = (sizes[name] for name in SETS)
    return {
        "comparisons": len(training),
        "comparisons_heldout": len(heldout),
        "answers": sum(len(comparison.answers) for comparison in training),
        "of": {part: sum(comparison.id.startswith(f"{part}/") for comparison in training) for part in inputs},
    }


STAGE = Stage(
    name="pool",
    version=1,
    config=StageConfig,
    inputs=("compare",),
    run=run,
    summary="gather the comparisons of all rounds so far",
)
