"""The stages of the road, in the order in which they run, and the module where each lives."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from chatwright.stage import Stage

MODULES = {
    "conversations": "chatwright.atlas.stage",
    "corpus": "chatwright.corpus.stage",
    "tokenizer": "chatwright.tokenizer.stage",
    "shards": "chatwright.tokenizer.shards",
    "pretrain": "chatwright.training.pretrain",
    "sft": "chatwright.training.sft",
    "compare": "chatwright.training.compare",
    "reward": "chatwright.training.reward",
    "examine": "chatwright.evaluation.examine",
    "choose": "chatwright.training.choose",
    "best_of_n": "chatwright.training.best_of_n",
    "dpo": "chatwright.training.dpo",
    "ppo": "chatwright.training.ppo.stage",
    "grpo": "chatwright.training.grpo",
    "evaluate": "chatwright.evaluation.stage",
    "report": "chatwright.evaluation.report",
}


class Road(Mapping[str, Stage]):
    """The stages by name, in order. A stage's module is imported when it is asked for: names cost nothing."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        """``modules``: where each stage lives, in the order of the road."""
        self._modules = dict(modules)

    def __getitem__(self, name: str) -> Stage:
        stage = importlib.import_module(self._modules[name]).STAGE
        assert stage.name == name, f"{self._modules[name]} calls its stage {stage.name!r}"
        return stage

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


ROAD = Road(MODULES)
