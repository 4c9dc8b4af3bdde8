"""The work that a plan counts, of the stages that few recipes have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from chatwright.flow import planner
from chatwright.flow.recipe import read_recipe
from chatwright.flow.workload import WHOLE_PAIR, Work, workloads

OPTIONAL = ("choose", "best_of_n", "dpo", "grpo")


def works(recipe: Path, *overrides: str) -> dict[str, Work]:
    return workloads(read_recipe(recipe, [f"{name}={{}}" for name in OPTIONAL] + list(overrides)))


def seconds(recipe: Path, overrides: Sequence[str] = ()) -> dict[str, float]:
    read = read_recipe(recipe, [f"{name}={{}}" for name in OPTIONAL] + list(overrides))
    return planner.make_plan(read, planner.REFERENCE).seconds()


def test_every_stage_has_its_minutes(tiny: Path) -> None:
    recipe = read_recipe(tiny, [f"{name}={{}}" for name in OPTIONAL])
    assert set(seconds(tiny)) == set(recipe.names)


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("choose", "choose.prompts=100000"),
        ("choose", "sft.keep_epochs=0.001"),
        ("best_of_n", "best_of_n.n=1000"),
        ("best_of_n", "best_of_n.eval_prompts=100000"),
        ("dpo", "dpo.epochs=1000"),
        ("dpo", "compare.prompts=3000"),
        ("grpo", "grpo.episodes=10240000"),
        ("grpo", "grpo.inner_epochs=50"),
        ("ppo", "ppo.episodes=3200000"),
    ],
)
def test_more_work_takes_longer(tiny: Path, stage: str, more: str) -> None:
    overrides = ["compare.prompts=300", "grpo.episodes=10240"] if stage in ("dpo", "grpo") else []
    assert seconds(tiny, [*overrides, more])[stage] > 1.2 * seconds(tiny, overrides)[stage]


def test_grpo_has_no_critic_and_rules_need_no_reward_model(tiny: Path, tmp_path: Path) -> None:
    same = ["grpo.episodes=32", "grpo.batch=8", "grpo.minibatch=4", "grpo.group=4", "grpo.max_tokens=8"]
    same += ["grpo.ptx_coef=1.0", "grpo.ptx_examples=0.25", "grpo.ptx_length=32", "grpo.eval_prompts=8"]
    found = works(tiny, *same)
    assert found["grpo"].sampled == found["ppo"].sampled > 0
    assert found["grpo"].tokens == found["ppo"].tokens
    assert found["grpo"].products < found["ppo"].products
    rule = works(tiny, *same, 'grpo.rewards=[{rule="operator:ne"}]', 'ppo.rewards=[{rule="operator:ne"}]')
    judged = found["ppo"].products - rule["ppo"].products
    assert judged == pytest.approx(found["grpo"].products - rule["grpo"].products)
    assert judged > 0


def test_ones_own_pairs_count_by_their_size(tiny: Path, tmp_path: Path) -> None:
    pair = '{"chosen": "Human: A?", "rejected": "B"}'
    own = tmp_path / "pairs.jsonl"
    own.write_text(pair * 5000)
    data = f'dpo.data="{own}"'
    whole = works(tiny, data)["dpo"].tokens
    assert 0 < whole < own.stat().st_size
    assert works(tiny, data, "dpo.prompts=10")["dpo"].tokens == 10 * WHOLE_PAIR
    assert works(tiny, data, "dpo.max_tokens=30")["dpo"].tokens < whole / 4
