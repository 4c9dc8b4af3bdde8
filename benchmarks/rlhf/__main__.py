"""Learning from people at a size that fits a laptop: five experiments of the papers, three seeds of each.

    python -m benchmarks.rlhf overoptimisation    # gold and proxy against sqrt(KL), PPO and best of n (Gao 2022)
    python -m benchmarks.rlhf tax                 # what PPO unlearns, with and without the pretraining mix
    python -m benchmarks.rlhf rounds              # three rounds against one, at equal numbers of comparisons
    python -m benchmarks.rlhf small_vs_large      # a small aligned model against a larger one that is not
    python -m benchmarks.rlhf demonstrations      # wins by the number of demonstrations

From the repository's root. All share one run, in which every stage has its manifest: what is done is skipped, what was
broken off goes on. Each writes docs/results/rlhf_NAME.json and docs/images/rlhf_NAME.png; docs/results/rlhf.md says
what they show.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.rlhf.experiments import EXPERIMENTS
from benchmarks.rlhf.figures import FIGURES
from chatwright.flow.recipe import read_recipe
from chatwright.flow.run import run_recipe
from chatwright.storage import write_json


def main() -> None:
    """Run, measure, draw, and one JSON object as the last line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rlhf", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/rlhf.toml"))
    parser.add_argument("--out", type=Path, default=Path("runs/rlhf"), help="the run's folder")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where results and plots go")
    options = parser.parse_args()
    name = options.experiment
    experiment = EXPERIMENTS[name]
    recipe = read_recipe(options.recipe)
    added = experiment.instances(recipe)
    wanted = [instance.name for instance in added]
    run_recipe(replace(recipe, instances=(*recipe.instances, *added)), options.out, wanted)
    results = experiment.measure(options.out)
    hardware = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    command = f"python -m benchmarks.rlhf {name}"
    answer = {"benchmark": f"rlhf {name}", "hardware": hardware, "command": command, "results": results}
    write_json(options.docs / "results" / f"rlhf_{name}.json", answer)
    figure = FIGURES[name](results)
    path = options.docs / "images" / f"rlhf_{name}.png"
    figure.savefig(path, dpi=130, facecolor="white")
    print(f"{path}", file=sys.stderr)
    print(json.dumps(answer, allow_nan=False))


if __name__ == "__main__":
    main()
