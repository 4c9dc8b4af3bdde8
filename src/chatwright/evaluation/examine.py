"""The stage ``examine``: what the reward model has learned, by the pairs that were kept from it and by probes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from chatwright.errors import UserError
from chatwright.evaluation import ordering
from chatwright.evaluation.probes import PROBES
from chatwright.formats import prompt_id
from chatwright.model.folder import load_reward
from chatwright.model.heads import ScoredDecoder
from chatwright.records import Comparison
from chatwright.stage import Headline, Inputs, Stage, StageConfig, progress_bar, say
from chatwright.storage import keyed_uniform, read_jsonl, write_json
from chatwright.tokenizer.bpe import Tokenizer
from chatwright.training.rankings import ranking, score_each
from chatwright.training.reward import HELDOUT, HELDOUT_SCORES, Scores
from chatwright.training.runtime import Precision, prepare

REPORT = "report.json"


class ExamineConfig(StageConfig):
    """probes: held-out prompts whose best answer is probed. micro_batch: answers scored at a time."""

    probes: int = Field(default=200, gt=0)
    micro_batch: int = Field(default=64, gt=0)
    dtype: Precision = "auto"


def run(config: ExamineConfig, inputs: Inputs, out: Path) -> Headline:
    """Write report.json, and its figures beside it where matplotlib is installed."""
    folder = inputs["reward"]
    if not (folder / HELDOUT).is_file():
        raise UserError(f"{folder} has no held-out comparisons, so it cannot be examined; leave out the stage examine.")
    comparisons = read_jsonl(folder / HELDOUT, Comparison)
    scores = [record.scores for record in read_jsonl(folder / HELDOUT_SCORES, Scores)]
    model, tokenizer = load_reward(folder)
    model.to(prepare()).eval()
    found = ordering.pairs(comparisons, scores)
    report: dict[str, Any] = {
        "accuracy": ordering.accuracy(found),
        "by_source": ordering.by_source(found),
        "by_length": ordering.by_length(found),
        "calibration": ordering.calibration(found),
        "probes": probe(config, model, tokenizer, comparisons, float(np.std([s for given in scores for s in given]))),
        "interval": f"95%, percentile bootstrap over prompts, {ordering.RESAMPLES} resamples",
    }
    write_json(out / REPORT, report)
    _draw(report, out)
    accuracy = report["accuracy"]
    say(
        f"  examine: {accuracy['value']:.1%} of {accuracy['pairs']:,} pairs in order "
        f"({accuracy['interval'][0]:.1%} to {accuracy['interval'][1]:.1%}); the longer answer: "
        f"{accuracy['length_rule']['value']:.1%}"
    )
    return {
        "pairs": accuracy["pairs"],
        "accuracy": accuracy["value"],
        "accuracy_interval": accuracy["interval"],
        "length_rule": accuracy["length_rule"]["value"],
        "length_rule_interval": accuracy["length_rule"]["interval"],
        "ece": report["calibration"]["ece"],
        **{f"probe_{name}": shift["value"] for name, shift in report["probes"].items()},
    }


def probe(
    config: ExamineConfig,
    model: ScoredDecoder,
    tokenizer: Tokenizer,
    comparisons: Sequence[Comparison],
    spread: float,
) -> dict[str, Any]:
    """For each probe the mean shift of the score of a prompt's best answer, in standard deviations of all answers.

    Prompts are drawn by their ids. Those whose probed answer is longer than the model's context are left out.
    """
    drawn = sorted(comparisons, key=lambda item: keyed_uniform("probe", item.id))[: config.probes]
    context = model.decoder.config.context
    found: dict[str, Any] = {}
    with progress_bar("examine", len(PROBES)) as bar:
        for number, (name, change) in enumerate(PROBES.items(), start=1):
            probed = [_beside(item, change(item.answers[item.tiers[0][0]])) for item in drawn]
            ids = [(item, both) for item in probed if (both := ranking(tokenizer, item, context)) is not None]
            if ids and spread > 0:
                rows = [both.answers for _, both in ids]
                before, after = zip(
                    *score_each(model, rows, config.micro_batch, tokenizer.pad, config.dtype), strict=True
                )
                found[name] = ordering.shift(before, after, [prompt_id(item) for item, _ in ids], spread)
            bar.update(number, name)
    return found


def _beside(comparison: Comparison, changed: str) -> Comparison:
    """A prompt's best answer, and the same one changed."""
    best = comparison.answers[comparison.tiers[0][0]]
    return comparison.model_copy(update={"answers": [best, changed], "tiers": [[0], [1]]})


def _draw(report: dict[str, Any], out: Path) -> None:
    try:
        from chatwright.evaluation import examine_plots  # not everyone who runs a stage has matplotlib
    except ImportError:
        say("  examine: no figures; install matplotlib with: pip install 'chatwright[report]'")
        return
    for name, (draw, _) in examine_plots.FIGURES.items():
        figure = draw(report)
        if figure is not None:
            figure.savefig(out / f"{name}.png", facecolor="white", dpi=150)


STAGE = Stage(
    name="examine",
    version=1,
    config=ExamineConfig,
    inputs=("reward",),
    run=run,
    summary="measure what the reward model has learned: accuracy, calibration, probes",
)
