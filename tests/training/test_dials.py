"""Every dial of learning from people that is turned too far is one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatwright.errors import UserError
from chatwright.flow import graph
from chatwright.flow.recipe import Recipe, read_recipe
from chatwright.flow.workload import workloads

WRONG = """
sft.epochs=inf
sft.pretrain_weight=nan
sft.keep_epochs=inf
sft.length=1
sft.schedule.warmup=nan
sft.spikes.deviations=nan
sft.lora.rank=0
sft.lora.alpha=inf
sft.lora.targets=["head"]
conversations.heldout=1.0
conversations.prompt_count=0
conversations.users.most=0
compare.answers_min=-1
compare.answers_min=10
compare.prompts=0
compare.noise=inf
compare.temperature=inf
compare.misplaced=9
reward.epochs=inf
reward.heldout=0.0
reward.optim.lr=inf
reward.optim.betas=[1.5, 0.9]
reward.optim.betas=[nan, 0.9]
reward.preset="gpt"
reward.data="nowhere.jsonl"
choose.among="corpus"
choose.missing_eos_score=nan
best_of_n.n=-2
best_of_n.prompts=-1
best_of_n.min_score=nan
best_of_n.start="nothing"
dpo.beta=inf
dpo.label_smoothing=0.5
dpo.start="reward"
ppo.kl_coef=inf
ppo.clip=nan
ppo.gamma=1.5
ppo.critic_warmup=-1
ppo.critic_warmup=1000000
ppo.lam=nan
ppo.episodes=9
ppo.minibatch=0
ppo.ptx_examples=inf
ppo.ptx_examples=0.001
ppo.ema=1
ppo.vf_coef=inf
ppo.missing_eos_score=nan
ppo.max_prompt=0
ppo.adaptive_kl.target=0
ppo.rewards=[]
ppo.rewards=[{rule="nothing"}]
ppo.rewards=[{rule="a:b:c"}]
ppo.rewards=[{rule="a-b:c"}]
ppo.rewards=[{rule="a:b", weight=nan}]
ppo.rewards=[{rule="f", file="nowhere.py"}]
ppo.rewards=[{rule="model"}, {rule="model"}]
ppo.rewards=[{models=["reward@x"]}]
grpo.group=1
grpo.group=3
grpo.kl_coef=nan
examine.probes=0
rounds.prompts=0
rounds.gate=1.5
rounds.start="next"
rounds.people="rankings.jsonl"
"""


def read(path: Path, overrides: list[str]) -> Recipe:
    """A recipe and all that a run looks at before it writes anything."""
    recipe = read_recipe(path, overrides)
    graph.keys(recipe)
    workloads(recipe)
    return recipe


@pytest.mark.parametrize("wrong", WRONG.split("\n")[1:-1])
def test_a_dial_that_is_turned_too_far_is_one_sentence(tiny: Path, wrong: str) -> None:
    stage, _, key = wrong.partition("=")[0].partition(".")
    optional = [f"{stage}={{}}"] if stage in ("choose", "best_of_n", "dpo", "grpo") else []
    with pytest.raises(UserError) as refused:
        read(tiny, [*optional, wrong])
    said = str(refused.value)
    assert "\n" not in said
    assert len(said) < 350
    assert stage in said
    assert key.split(".")[0] in said or "reads reward@x" in said


def test_what_is_still_allowed_is_allowed(tiny: Path) -> None:
    edges = ["compare.noise=0", "ppo.kl_coef=0", "ppo.ema=0", "ppo.gamma=1", "best_of_n.prompts=0", "best_of_n.n=1"]
    recipe = read(tiny, [*edges, "ppo.ptx_length=100000", "rounds.gate=0", "compare.prompts=100000"])
    assert "ppo" in recipe.names
