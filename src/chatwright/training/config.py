"""What the configs of all training stages share: precision, layout, checkpoints, optimiser, schedule, guards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from chatwright.stage import StageConfig
from chatwright.training.guards import SpikeConfig
from chatwright.training.lora import LoraConfig
from chatwright.training.optim import OptimConfig
from chatwright.training.parallel import Layout, ParallelConfig, lay_out
from chatwright.training.runtime import Precision, prepare, resolve
from chatwright.training.schedules import ScheduleConfig


def lay_under(config: StageConfig, preset: Mapping[str, Any]) -> None:
    """Give a config that is being made the settings of a preset where none were given; tables key by key."""
    for key, value in preset.items():
        given = getattr(config, key)
        if isinstance(value, Mapping):
            own = given.model_dump(include=given.model_fields_set) if key in config.model_fields_set else {}
            object.__setattr__(config, key, type(given)(**{**value, **own}))  # past the freeze: not yet given out
        elif key not in config.model_fields_set:
            object.__setattr__(config, key, value)


class CheckpointConfig(BaseModel):
    """every: steps between checkpoints. keep: how many of the last are kept, beside the best by what is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    every: int = Field(default=100, gt=0)
    keep: int = Field(default=2, gt=0)


class TrainingConfig(StageConfig):
    """A stage that trains. ``parallel`` and ``checkpoint`` do not change what it makes: a run may go on with others."""

    dtype: Precision = "auto"
    checkpoint: CheckpointConfig = CheckpointConfig()
    parallel: ParallelConfig = ParallelConfig()

    not_in_key: ClassVar[frozenset[str]] = frozenset({"parallel", "checkpoint"})

    def layout(self) -> Layout:
        """This process made ready to train, and how models are spread over it and the others (see `prepare`)."""
        device = prepare()
        return lay_out(self.parallel, device, resolve(self.dtype, device))


class TuningConfig(TrainingConfig):
    """A stage that goes on with a model. lora: learn through adapters beside its frozen weights (see `LoraConfig`)."""

    lora: LoraConfig | None = None

    @model_validator(mode="after")
    def _adapters_are_whole(self) -> TuningConfig:
        if self.lora is not None and self.parallel.tensor > 1:
            raise ValueError("LoRA adapters cannot share a matrix product: set parallel.tensor to 1, or leave out lora")
        return self


LANGUAGE_MODELS = ("pretrain", "sft", "choose", "dpo", "ppo", "grpo")  # stages that leave one


class StartConfig(StageConfig):
    """A stage that goes on from a model that answers, as its input ``sft``.

    start: the instance that made it, such as "choose" or "sft@baseline". Where a policy learns it is also the reference
    that the policy is held near to.
    """

    start: str = "sft"

    @field_validator("start")
    @classmethod
    def _is_a_model(cls, start: str) -> str:
        if start.partition("@")[0] not in LANGUAGE_MODELS:
            raise ValueError(f"it must be an instance of one of the stages {', '.join(LANGUAGE_MODELS)}")
        return start

    def reads(self, inputs: tuple[str, ...]) -> dict[str, str]:
        """The model of that instance."""
        return {**super().reads(inputs), "sft": self.start}


class GradientConfig(TrainingConfig):
    """A stage whose step is one gradient of one loss."""

    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    spikes: SpikeConfig = SpikeConfig()
