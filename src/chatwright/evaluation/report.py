"""The stage ``report``: report.json, and report.html, one page that tells the road from raw pages to an assistant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from safetensors import safe_open

from chatwright.errors import UserError
from chatwright.evaluation import palette, story, words
from chatwright.evaluation.lineage import lineage_svg
from chatwright.evaluation.runs import StageRun, stage_runs
from chatwright.stage import Headline, Inputs, Stage, StageConfig
from chatwright.storage import read_json, write_json, write_text

MODELS = ("pretrain", "sft", "reward", "choose", "dpo", "grpo", "ppo")
MODEL_NAMES = {
    "pretrain": "Pretrained",
    "sft": "Fine-tuned",
    "choose": "Chosen by reward",
    "dpo": "After DPO",
    "grpo": "After GRPO",
    "ppo": "After PPO",
}
FLOPS_PER_PARAMETER = 6  # of a token, forward and backward: C = 6 N D (GPT-3 appendix D)


class ReportConfig(StageConfig):
    """What the page is called; without a title it has the recipe's name."""

    title: str = ""


def run(config: ReportConfig, inputs: Inputs, out: Path) -> Headline:
    """Write report.json and report.html from what the other stages left."""
    runs = stage_runs(inputs)
    if "evaluate" not in runs:
        raise UserError("There is no evaluation to report on; run the stage evaluate first.")
    samples = read_json(runs["evaluate"].folder / "samples.json")
    report = collect(runs, out.parent, config.title)
    write_json(out / "report.json", report)
    write_text(out / "report.html", render(report, samples, figures(runs), lineage_svg(runs)))
    return {name: report[name] for name in ("holds", "fails", "absent")}


def collect(runs: Mapping[str, StageRun], run_folder: Path, title: str) -> dict[str, Any]:
    """The content of report.json: the checks, and of each stage what it gave, what it was made of and what it cost."""
    evaluation = read_json(runs["evaluate"].folder / "evaluation.json")
    about = _read_if_there(run_folder / "run.json")
    predicted = _read_if_there(run_folder / "plan.json")
    stages = {name: _stage(stage, predicted.get(name)) for name, stage in runs.items()}
    newest = max(runs.values(), key=lambda stage: stage.manifest["ended"]).manifest
    recipe = "/".join(Path(about["recipe_file"]).parts[-2:]) if about else f"recipes/{run_folder.name}.toml"
    return {
        "title": title or about.get("recipe", run_folder.name),
        **{name: evaluation[name] for name in ("holds", "fails", "absent")},
        "checks": evaluation["checks"],
        "models": {
            name: {"folder": name, "key": stage.key, "parameters": stages[name]["parameters"]}
            for name, stage in runs.items()
            if stages[name]["parameters"]
        },
        "stages": stages,
        "total": _total(stages.values()),
        "lineage": {name: {"key": stage.key, "inputs": dict(stage.inputs)} for name, stage in runs.items()},
        "hardware": newest["hardware"],
        "versions": newest["versions"],
        "command": f"chatwright run {recipe} --out {_short(run_folder)}",
        "run_folder": _short(run_folder),
    }


def _read_if_there(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _short(folder: Path) -> str:
    """The folder as its owner would name it, ``runs/atlas``: the page may be shown around, the disk need not be."""
    return "/".join(folder.absolute().parts[-2:])


def _stage(stage: StageRun, predicted_seconds: float | None) -> dict[str, Any]:
    base = stage.name.partition("@")[0]
    size = parameters(stage.folder) if base in MODELS else None
    tokens = sum(line.get("tokens", 0) for line in stage.metrics()) or None
    return {
        "seconds": stage.manifest["seconds"],
        "predicted_seconds": predicted_seconds,
        "peak_memory_mib": stage.manifest.get("peak_memory_mib"),
        "parameters": size,
        "tokens": tokens,
        "operations": FLOPS_PER_PARAMETER * size * tokens if size and tokens else None,
        "headline": stage.headline,
    }


def _total(stages: Any) -> dict[str, Any]:
    """What all stages took together; memory does not add up, its peak counts."""
    columns = {name: [stage[name] or 0 for stage in stages] for name in ("seconds", "tokens", "operations")}
    predicted = [stage["predicted_seconds"] for stage in stages]
    return {
        **{name: sum(values) for name, values in columns.items()},
        "predicted_seconds": sum(predicted) if all(value is not None for value in predicted) else None,
        "peak_memory_mib": max((stage["peak_memory_mib"] or 0 for stage in stages), default=0),
    }


def parameters(folder: Path) -> int:
    """How many numbers a model's weights are, read from the header of its model.safetensors."""
    with safe_open(folder / "model.safetensors", framework="numpy") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


def figures(runs: Mapping[str, StageRun]) -> dict[str, str]:
    """Every figure that this run's stages give, as inline SVG by name. UserError when matplotlib is not installed."""
    try:
        from chatwright.evaluation import examine_plots, plots  # not everyone who runs a stage has matplotlib
    except ImportError:
        raise UserError("The report needs matplotlib; install it with `pip install 'chatwright[report]'`.") from None
    drawn = {name: (draw(runs), description) for name, (draw, description) in plots.FIGURES.items()}
    drawn |= examine_plots.of_runs(runs)
    return {
        name: plots.inline_svg(figure, name, description)
        for name, (figure, description) in drawn.items()
        if figure is not None
    }


def render(
    report: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], drawn: Mapping[str, str], lineage: str
) -> str:
    """The page. ``drawn`` and ``lineage`` are SVG elements, everything else is text and is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("chatwright.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "number": words.number,
        "duration": words.duration,
        "power": words.power,
        "percent": words.percent,
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        summary=_summary(report),
        gauges={key: gauge(check) for key, check in report["checks"].items()},
        stops=[(stop, story.tiles(stop, report["stages"])) for stop in story.stops(report["stages"])],
        samples=samples,
        model_names=MODEL_NAMES,
        figures=drawn,
        lineage=lineage,
        hues=palette.HUES,
        faint=palette.FAINT,
    )


def _summary(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The run in a few numbers, for the head of the page."""
    model = next((report["models"][name] for name in reversed(MODEL_NAMES) if name in report["models"]), None)
    hardware = report["hardware"]
    return [
        *([("parameters", words.number(model["parameters"]))] if model else []),
        *([("tokens trained on", words.number(report["total"]["tokens"]))] if report["total"]["tokens"] else []),
        ("from start to end", words.duration(report["total"]["seconds"])),
        ("machine", hardware["gpu"] or f"{hardware['cores']} CPU cores"),
    ]


def gauge(check: Mapping[str, Any]) -> dict[str, Any]:
    """Where a check's bar, threshold, interval and rings stand, in percent of the gauge's width."""
    figures = {**check["stages"], **check["beside"]}
    known = [value for value in (check["value"], *(f["value"] for f in figures.values())) if value is not None]
    low, high = 0.0, 1.0
    if check["unit"] == "prompts":  # a gain in standard deviations, which may be a loss
        low, high = min([0.0, *known]), max([0.6, *(1.1 * value for value in known)])
    if check["direction"] == "at_most":  # a ratio of which 1 means that nothing was lost
        low, high = 0.95, max([1.1, *(1.01 * value for value in known)])

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    decider = list(check["stages"])[-1] if check["stages"] else ""
    hue = {"pairs": "reward", "questions": decider or "evaluate"}.get(check["unit"], "ppo")
    return {
        "hue": hue,
        "zero": place(max(low, 0.0)),
        "value": None if check["value"] is None else place(check["value"]),
        "threshold": None if check["threshold"] is None else place(check["threshold"]),
        "interval": None if check["interval"] is None else [place(bound) for bound in check["interval"]],
        "rings": [
            {
                "name": MODEL_NAMES.get(name, name),
                "value": figure["value"],
                "place": place(figure["value"]),
                "hue": palette.variable(name) if name in check["stages"] else "var(--faint)",
            }
            for name, figure in figures.items()
            if name != decider  # the bar itself
        ],
    }


STAGE = Stage(
    name="report",
    version=1,
    config=ReportConfig,
    inputs=("evaluate",),
    run=run,
    summary="write report.json and report.html, the whole road on one page",
)
