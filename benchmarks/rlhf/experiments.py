"""The five experiments: which stages each needs beside the recipe's, and what is read off them. Three seeds of each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.rlhf import stages
from benchmarks.rlhf.fits import fit_best_of_n, fit_rl, over_seeds
from benchmarks.rlhf.stages import DrawsConfig, FewerConfig, PlayConfig
from chatwright.flow.manifest import read_manifest
from chatwright.flow.recipe import Instance, Recipe
from chatwright.flywheel import rounds
from chatwright.flywheel.match import win_rate
from chatwright.stage import StageConfig, read_metrics
from chatwright.storage import read_json

SEEDS = (1, 2, 3)

# (1) Comparisons a reward model has; PPO without KL penalty and without the pretraining mix, as in GAO.
FEW, MANY = 100, 1500
FAST = {"optim": {"kind": "adamw", "lr": 2e-4, "weight_decay": 0.0}}  # twice the recipe's: it goes too far sooner
FREE = {**FAST, "kl_coef": 0.0, "ptx_coef": 0.0, "max_kl": 1000.0, "episodes": 36 * 64}
FREE |= {"eval_prompts": 64, "eval_tokens": 4096}
WINDOW = 3  # batches of 64 answers in a point

# (2) beta and gamma. The first is plain PPO, the second has the mix, the others pay for distance instead.
TAXED = {
    "plain": {"kl_coef": 0.05, "ptx_coef": 0.0},
    "ptx": {"kl_coef": 0.05, "ptx_coef": 1.0},
    "kl 0.25": {"kl_coef": 0.25, "ptx_coef": 0.0},
    "kl 1": {"kl_coef": 1.0, "ptx_coef": 0.0},
}

# (3) Comparisons in all, and in how many rounds they are gathered.
COMPARED, ROUNDS = 600, 3

# (4) The larger model learns from the same tokens in as many steps; what differs is its size.
LARGE = {"preset": "modern", "layers": 6, "d_model": 320, "heads": 5, "kv_heads": 1, "d_head": 64, "d_ff": 896}
LARGE |= {"context": 256}

# (5) Demonstrations, of about seven thousand.
COUNTS = (100, 300, 1000, 3000)
LEAST_STEPS = 150  # of fine-tuning, however few there are; the checkpoint with the lowest held-out loss is kept


@dataclass(frozen=True)
class Experiment:
    """instances: what it adds to the recipe. measure: what it found, from the run's folder."""

    instances: Callable[[Recipe], list[Instance]]
    measure: Callable[[Path], dict[str, Any]]


def changed(recipe: Recipe, stage: str, name: str, changes: Mapping[str, Any], **reads: str) -> Instance:
    """The recipe's own instance of a stage under another name, with other settings and other inputs."""
    own = next(instance for instance in recipe.instances if instance.name == stage)
    config = type(own.config).model_validate({**own.config.model_dump(), **changes})
    return Instance(name, own.stage, config, {**{part: part for part in own.stage.inputs}, **reads})


def headline(out: Path, name: str) -> dict[str, Any]:
    """The headline of a finished instance."""
    made = read_manifest(out / name)
    assert made is not None, name
    return made.headline


def answers_gold(out: Path, name: str) -> list[float]:
    """The gold score of every answer that a model played."""
    return [json.loads(line)["gold"] for line in (out / name / "answers.jsonl").read_text().splitlines()]


# --- (1) over-optimisation --------------------------------------------------------------------------------------------


def overoptimisation_instances(recipe: Recipe) -> list[Instance]:
    """Reward models of few and of many comparisons, best of n by each, and PPO against each."""
    found = [Instance("draws", stages.DRAWS, DrawsConfig(), {"sft": "sft", "conversations": "conversations"})]
    for seed in SEEDS:
        for size, count in (("few", FEW), ("many", MANY)):
            name = f"{size}{seed}"
            # each seed of the few has prompts of its own; the many are nearly all there are
            offset = (seed - 1) * count if size == "few" else 0
            compared = {"prompts": count, "offset": offset, "seed": seed}
            reward = _reward(size, seed)
            if reward != "reward":
                found += [
                    changed(recipe, "compare", f"compare@{name}", compared),
                    changed(recipe, "reward", reward, {"seed": seed}, compare=f"compare@{name}"),
                ]
            found += [
                Instance(
                    f"best_of_n@{name}",
                    stages.BEST_OF_N,
                    StageConfig(seed=seed),
                    {"draws": "draws", "reward": reward},
                ),
                changed(recipe, "ppo", f"ppo@free_{name}", {**FREE, "seed": seed}, reward=reward),
            ]
    return found


def _reward(size: str, seed: int) -> str:
    """The recipe's own reward model has many comparisons, too: it is the first seed's."""
    return "reward" if (size, seed) == ("many", SEEDS[0]) else f"reward@{size}{seed}"


def overoptimisation(out: Path) -> dict[str, Any]:
    """Curves of gold and proxy over sqrt(KL), both in standard deviations of SFT's, and Gao's fits of the gold ones."""
    sft = headline(out, "draws")
    found: dict[str, Any] = {"sft": {"gold_mean": sft["gold_mean"], "gold_std": sft["gold_std"]}}
    for size in ("few", "many"):
        curves: dict[str, list[list[dict[str, float]]]] = {"ppo": [], "best_of_n": []}
        for seed in SEEDS:
            name = f"{size}{seed}"
            drawn = headline(out, f"best_of_n@{name}")

            def scaled(kl: float, gold: float, proxy: float, drawn: dict[str, Any] = drawn) -> dict[str, float]:
                return {
                    "d": math.sqrt(max(0.0, kl)),
                    "gold": (gold - sft["gold_mean"]) / sft["gold_std"],
                    "proxy": (proxy - drawn["proxy_mean"]) / drawn["proxy_std"],
                }

            best = read_json(out / f"best_of_n@{name}" / "curve.json")
            curves["best_of_n"].append([scaled(p["kl"], p["gold"], p["proxy"]) for p in best])
            lines = read_metrics(out / f"ppo@free_{name}")
            windows = [lines[i : i + WINDOW] for i in range(0, len(lines), WINDOW)]
            means = [{key: fmean(line[key] for line in w) for key in ("kl", "gold", "proxy")} for w in windows]
            curves["ppo"].append([scaled(m["kl"], m["gold"], m["proxy"]) for m in means])
        accuracy = [headline(out, _reward(size, seed))["accuracy"] for seed in SEEDS]
        found[size] = {"reward_accuracy": over_seeds(accuracy), **_fitted(curves)}
    return found


def _fitted(curves: Mapping[str, list[list[dict[str, float]]]]) -> dict[str, Any]:
    """Each method's curves, the fit of all seeds together, and what the seeds' own fits and points say."""
    found = {}
    for method, fit in (("ppo", fit_rl), ("best_of_n", fit_best_of_n)):
        seeds = [[p for p in curve if p["d"] > 0] for curve in curves[method]]
        pooled = [p for curve in seeds for p in curve]
        own = [fit([p["d"] for p in curve], [p["gold"] for p in curve]) for curve in seeds]
        found[method] = {
            "curves": curves[method],
            "fit": fit([p["d"] for p in pooled], [p["gold"] for p in pooled]),
            "alpha": over_seeds([f["alpha"] for f in own]),
            "beta": over_seeds([f["beta"] for f in own]),
            "gold_best": over_seeds([max(p["gold"] for p in curve) for curve in seeds]),
            "gold_end": over_seeds([curve[-1]["gold"] for curve in seeds]),
            "proxy_end": over_seeds([curve[-1]["proxy"] for curve in seeds]),
            "d_end": over_seeds([curve[-1]["d"] for curve in seeds]),
        }
    return found


# --- (2) the alignment tax --------------------------------------------------------------------------------------------


def tax_instances(recipe: Recipe) -> list[Instance]:
    """PPO with and without the pretraining mix, and without it at larger KL coefficients."""
    return [
        changed(recipe, "ppo", _taxed(name, seed), {**FAST, **changes, "seed": seed})
        for name, changes in TAXED.items()
        for seed in SEEDS
    ]


def _taxed(name: str, seed: int) -> str:
    return f"ppo@tax_{name.replace(' ', '_')}_{seed}"


def tax(out: Path) -> dict[str, Any]:
    """What PPO gained in gold and lost in bits per byte, by its coefficients."""
    found = {}
    for name, changes in TAXED.items():
        lines = [headline(out, _taxed(name, seed)) for seed in SEEDS]
        found[name] = {
            **changes,
            **{key: over_seeds([line[key] for line in lines]) for key in ("ptx_tax", "gold_gain", "kl")},
        }
    return found


# --- (3) three rounds against one -------------------------------------------------------------------------------------


def rounds_instances(recipe: Recipe) -> list[Instance]:
    """Three rounds of a third of the comparisons each, and one round of all of them, for every seed."""
    found = []
    for seed in SEEDS:
        for name, count in (("three", ROUNDS), ("one", 1)):
            settings = recipe.rounds.model_copy(update={"prompts": COMPARED // count, "match_prompts": 400})
            changes = {"compare": {}, "reward": {}, "ppo": FAST}
            own = [
                changed(recipe, i.name, i.name, {**changes[i.name], "seed": seed}) if i.name in changes else i
                for i in recipe.instances
            ]
            unfolded = rounds.unfold(replace(recipe, instances=tuple(own), rounds=settings), count).recipe
            new = [i for i in unfolded.instances if i.name not in recipe.names]
            names = {i.name: f"{i.name}.{name}{seed}" for i in new}
            found += [
                replace(i, name=names[i.name], reads={part: names.get(r, r) for part, r in (i.reads or {}).items()})
                for i in new
            ]
    return found


def in_rounds(out: Path) -> dict[str, Any]:
    """Gold, wins over SFT and reward accuracy after each of three rounds, beside one round of as many comparisons."""
    found: dict[str, Any] = {}
    for name, count in (("three", ROUNDS), ("one", 1)):
        for number in range(1, count + 1):
            lines = [headline(out, f"match@round{number}.{name}{seed}") for seed in SEEDS]
            models = [headline(out, f"reward@round{number}.{name}{seed}") for seed in SEEDS]
            pools = [headline(out, f"pool@round{number}.{name}{seed}") for seed in SEEDS]
            found[f"{name}, round {number}"] = {
                **{key: over_seeds([line[key] for line in lines]) for key in ("gold", "win_rate_sft", "kl", "length")},
                "win_rate_previous": over_seeds([line["win_rate_previous"] for line in lines]),
                "reward_accuracy": over_seeds([model["accuracy"] for model in models]),
                "comparisons": over_seeds([float(pool["comparisons"]) for pool in pools]),
            }
    direct = []
    for seed in SEEDS:
        three, one = (
            [json.loads(line)["gold"]["policy"] for line in (out / f"match@{end}" / "answers.jsonl").open()]
            for end in (f"round{ROUNDS}.three{seed}", f"round1.one{seed}")
        )
        direct.append(win_rate(three, one)[0])
    found["three over one"] = over_seeds(direct)
    return found


# --- (4) small and aligned against large and not ----------------------------------------------------------------------

TEMPERATURES = (0.0, 1.0)
PRETRAINED = {"large": "pretrain@large", "small": "pretrain"}


def small_instances(recipe: Recipe) -> list[Instance]:
    """A larger pretrained model, few-shot; the small one few-shot, after SFT, and after PPO."""
    found = [changed(recipe, "pretrain", "pretrain@large", {"model": LARGE, "micro_batch": 8})]
    found += [instance for instance in tax_instances(recipe) if instance.name in [_taxed("ptx", s) for s in SEEDS]]
    for temperature in TEMPERATURES:
        for seed in SEEDS:
            config = PlayConfig(seed=seed, temperature=temperature)
            for name, stage, policy in (
                ("large", stages.PROMPTED, "pretrain@large"),
                ("small", stages.PROMPTED, "pretrain"),
                ("sft", stages.PLAY, "sft"),
                ("ppo", stages.PLAY, _taxed("ptx", seed)),
            ):
                reads = {"policy": policy, "conversations": "conversations"}
                found.append(Instance(_who(name, temperature, seed), stage, config, reads))
    return found


def _who(name: str, temperature: float, seed: int) -> str:
    return f"{'prompted' if name in ('large', 'small') else 'play'}@{name}_t{temperature:g}_{seed}"


def small(out: Path) -> dict[str, Any]:
    """Parameters, gold, and wins over the larger model, at temperature 0 and 1."""
    sizes = {name: _parameters(out / folder) for name, folder in PRETRAINED.items()}
    found: dict[str, Any] = {"parameters": sizes, "ratio": sizes["large"] / sizes["small"]}
    found["bits_per_byte"] = {
        name: headline(out, folder)["bits_per_byte"]
        for name, folder in (("large", "pretrain@large"), ("small", "pretrain"))
    }
    for temperature in TEMPERATURES:
        gold = {
            name: [answers_gold(out, _who(name, temperature, seed)) for seed in SEEDS]
            for name in ("large", "small", "sft", "ppo")
        }
        found[f"temperature {temperature:g}"] = {
            name: {
                "gold": over_seeds([fmean(scores) for scores in seeds]),
                "wins_over_large": over_seeds(
                    [win_rate(own, other)[0] for own, other in zip(seeds, gold["large"], strict=True)]
                ),
            }
            for name, seeds in gold.items()
        }
    return found


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        return sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118


# --- (5) demonstrations -----------------------------------------------------------------------------------------------


def demonstrations_instances(recipe: Recipe) -> list[Instance]:
    """SFT on some of the demonstrations, drawn anew for each seed, and on all of them."""
    found = []
    for seed in SEEDS:
        for count in COUNTS:
            name = f"d{count}_{seed}"
            found.append(
                Instance(
                    f"fewer@{name}",
                    stages.FEWER,
                    FewerConfig(seed=seed, count=count),
                    {"conversations": "conversations"},
                )
            )
            # About 5 demonstrations in a row of the context and 7 rows in a step.
            steps = max(LEAST_STEPS, round(2.5 * count / 35))
            found.append(
                changed(
                    recipe,
                    "sft",
                    f"sft@{name}",
                    {"seed": seed, "steps": steps, "result": "best", "eval_every": 15, "checkpoint": {"every": 15}},
                    conversations=f"fewer@{name}",
                )
            )
            found.append(_playing(name, f"sft@{name}", seed))
        found.append(changed(recipe, "sft", f"sft@all_{seed}", {"seed": seed + 1}))  # the recipe's own has seed 1
        found.append(_playing(f"all_{seed}", f"sft@all_{seed}", seed))
        found.append(_playing(f"sft_{seed}", "sft", seed))
    return found


def _playing(name: str, policy: str, seed: int) -> Instance:
    reads = {"policy": policy, "conversations": "conversations"}
    return Instance(f"play@{name}", stages.PLAY, PlayConfig(seed=seed), reads)


def demonstrations(out: Path) -> dict[str, Any]:
    """Gold, and wins over the recipe's SFT model, by the number of demonstrations."""
    total = headline(out, "conversations")["demonstrations"]
    found: dict[str, Any] = {}
    for label, count in [*((f"d{count}", count) for count in COUNTS), ("all", total)]:
        gold = [answers_gold(out, f"play@{label}_{seed}") for seed in SEEDS]
        theirs = [answers_gold(out, f"play@sft_{seed}") for seed in SEEDS]
        found[str(count)] = {
            "gold": over_seeds([fmean(scores) for scores in gold]),
            "wins": over_seeds([win_rate(a, b)[0] for a, b in zip(gold, theirs, strict=True)]),
            "steps": headline(out, f"sft@{label}_{SEEDS[0]}")["steps"],
        }
    return found


EXPERIMENTS = {
    "overoptimisation": Experiment(overoptimisation_instances, overoptimisation),
    "tax": Experiment(tax_instances, tax),
    "rounds": Experiment(rounds_instances, in_rounds),
    "small_vs_large": Experiment(small_instances, small),
    "demonstrations": Experiment(demonstrations_instances, demonstrations),
}
